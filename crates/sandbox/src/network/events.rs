//! For tests: events as a gateway tells them.

use std::{net::SocketAddr, time::Duration};

use matchlock_net::{
    dns::{RecordType, ResponseCode, Transport},
    gateway::{ClientAddr, End, Event, Moved, OrigDst, Question, Request, What},
    policy::{AddressClass, Allowed, Denied, Rule},
};

const REFUSED: &str = "Connection refused (os error 111)";

fn event(to: &str, what: What, end: End) -> Event {
    let to: SocketAddr = to.parse().unwrap();
    Event {
        client: ClientAddr::new("192.168.100.2:40000".parse().unwrap()),
        destination: OrigDst::new(to),
        what,
        allowed: None,
        end,
        took: Duration::from_millis(12),
    }
}

/// A query for a name that is not allowed.
pub(super) fn denied(name: &str) -> Event {
    let denied = Denied::Name(name.parse().unwrap());
    let question = Question {
        name: name.parse().unwrap(),
        kind: RecordType::A,
        code: ResponseCode::NXDomain,
        addresses: Vec::new(),
        refused: vec![denied.clone()],
    };
    event("192.168.100.1:53", What::Query(Transport::Udp, Some(question)), End::Denied(denied))
}

/// A query that is answered with an address.
pub(super) fn answer(name: &str, address: &str) -> Event {
    let question = Question {
        name: name.parse().unwrap(),
        kind: RecordType::A,
        code: ResponseCode::NoError,
        addresses: vec![address.parse().unwrap()],
        refused: Vec::new(),
    };
    event("192.168.100.1:53", What::Query(Transport::Udp, Some(question)), End::Done)
}

/// A request on a connection that is looked into.
pub(super) fn request(host: &str, to: &str) -> Event {
    let request = Request {
        method: "GET".to_owned(),
        tls: true,
        host: Some(host.parse().unwrap()),
        port: to.parse::<SocketAddr>().unwrap().port(),
        path: "/".to_owned(),
        status: Some(200),
        moved: Moved::default(),
        secrets: Vec::new(),
        rules: Vec::new(),
    };
    event(to, What::Request(Box::new(request)), End::Done)
}

/// A request that is stopped for something else than whom it is for.
pub(super) fn blocked(host: &str, why: &str) -> Event {
    Event { end: End::Blocked(why.to_owned()), ..request(host, "192.0.2.1:80") }
}

/// One that nothing came of, with the status that was answered all the same.
pub(super) fn unanswered(host: &str, to: &str, status: Option<u16>) -> Event {
    let mut event = request(host, to);
    if let What::Request(request) = &mut event.what {
        request.status = status;
    }
    Event { end: End::Failed(REFUSED.to_owned()), ..event }
}

/// A connection to an address that an open network does not have either.
pub(super) fn denied_address(to: &str) -> Event {
    let address = to.parse::<SocketAddr>().unwrap().ip();
    let denied = Denied::Address { name: None, address, class: AddressClass::of(address) };
    event(to, What::Connection(Moved::default()), End::Denied(denied))
}

/// A connection in an open network.
pub(super) fn connection(name: Option<&str>, to: &str) -> Event {
    let name = name.map(|name| name.parse().unwrap());
    let moved = Moved { from_guest: 5, to_guest: 7 };
    let allowed = Some(Allowed { rule: Rule::Open, name, opened: None });
    Event { allowed, ..event(to, What::Connection(moved), End::Done) }
}

/// A connection in an open network that fails when so much has come back.
pub(super) fn failed(name: Option<&str>, to: &str, to_guest: u64) -> Event {
    let what = What::Connection(Moved { from_guest: 0, to_guest });
    Event { what, end: End::Failed(REFUSED.to_owned()), ..connection(name, to) }
}

/// Datagrams in an open network.
pub(super) fn flow(to: &str) -> Event {
    let allowed = Some(Allowed { rule: Rule::Open, name: None, opened: None });
    Event { allowed, ..event(to, What::Flow(Moved::default()), End::Done) }
}
