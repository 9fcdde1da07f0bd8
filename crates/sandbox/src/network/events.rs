//! For tests: events as a gateway tells them.

use std::{net::SocketAddr, time::Duration};

use matchlock_net::{
    dns::{RecordType, ResponseCode, Transport},
    gateway::{ClientAddr, End, Event, Moved, OrigDst, Question, What},
    policy::{AddressClass, Allowed, Denied, Rule},
};

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

/// Datagrams in an open network.
pub(super) fn flow(to: &str) -> Event {
    let allowed = Some(Allowed { rule: Rule::Open, name: None, opened: None });
    Event { allowed, ..event(to, What::Flow(Moved::default()), End::Done) }
}
