//! Conversations: what a guest asks, what a resolver is asked, what the guest is told.

use std::{fmt::Write, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name as WireName, RData, Record, RecordType, rdata::CNAME},
};
use insta::assert_snapshot;
use matchlock_net::{
    dns::{MAX_UDP, PLAIN_UDP, Pending, Reply, Transport, Upstream, Verdict, judge},
    policy::Policy,
};

use crate::{intercept, ip, name, open, private, table};

pub(crate) const UPSTREAM_ID: u16 = 0x7777;

/// Any bytes between the dots; `·` is a dot within a label.
pub(crate) fn wire(text: &str) -> WireName {
    let labels = text.split('.').filter(|label| !label.is_empty()).map(|label| label.replace('·', ".").into_bytes());
    let mut name = WireName::from_labels(labels.collect::<Vec<_>>().iter().map(Vec::as_slice)).unwrap();
    name.set_fqdn(true);
    name
}

pub(crate) fn question(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire(text), kind));
    message
}

pub(crate) fn ask(policy: &Policy, text: &str, kind: RecordType) -> Verdict {
    judge(policy, &question(text, kind).to_vec().unwrap(), Transport::Udp, UPSTREAM_ID)
}

pub(crate) fn pending(policy: &Policy, text: &str, kind: RecordType) -> Pending {
    match ask(policy, text, kind) {
        Verdict::Ask(pending) => pending,
        other => panic!("{other:?}"),
    }
}

/// What the resolver says: its answer to what it was asked, with these records.
pub(crate) fn resolver(pending: &Pending, records: &[(&str, u32, &str)]) -> Message {
    let asked = Message::from_vec(&pending.query()).unwrap();
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.add_queries(asked.queries);
    for (owner, ttl, data) in records {
        let data = match data.parse() {
            Ok(std::net::IpAddr::V4(address)) => RData::A(address.into()),
            Ok(std::net::IpAddr::V6(address)) => RData::AAAA(address.into()),
            Err(_) => RData::CNAME(CNAME(wire(data))),
        };
        message.add_answer(Record::from_rdata(wire(owner), *ttl, data));
    }
    message
}

fn message(bytes: &[u8]) -> String {
    let message = Message::from_vec(bytes).unwrap();
    let head = message.metadata;
    let truncated = if head.truncation { ", truncated" } else { "" };
    let mut told = format!("{:x} {:?}{truncated}", head.id, head.response_code);
    for query in &message.queries {
        write!(told, " {} {}", query.name, query.query_type).unwrap();
    }
    for record in message.answers.iter().chain(&message.authorities) {
        write!(told, "; {} {} {}", record.name, record.ttl, record.data).unwrap();
    }
    told
}

pub(crate) fn told(reply: &Reply) -> String {
    let said = Message::from_vec(&reply.message).unwrap().metadata.response_code;
    // One number has two names: BADVERS, BADSIG.
    assert_eq!(u16::from(said), u16::from(reply.code));
    let pinned = match reply.addresses.len() {
        0 => String::new(),
        addresses => format!(" [{addresses} for {} s]", reply.ttl.as_secs()),
    };
    let refused: Vec<_> = reply.refused.iter().map(|denied| format!("\n    refused {denied}")).collect();
    format!("{}{pinned}{}", message(&reply.message), refused.concat())
}

fn verdict(policy: &Policy, text: &str, kind: RecordType) -> String {
    match ask(policy, text, kind) {
        Verdict::Silence => "silence".to_owned(),
        Verdict::Answer(reply) => told(&reply),
        Verdict::Ask(pending) => format!("asks {}", message(&pending.query())),
    }
}

fn answered(pending: &Pending, policy: &Policy, answer: &Message) -> String {
    match pending.answer(policy, &answer.to_vec().unwrap()) {
        Upstream::Done(reply) => told(&reply),
        Upstream::Unrelated => "unrelated".to_owned(),
        Upstream::Truncated => "again over TCP".to_owned(),
        Upstream::Failed(code) => format!("failed: {code:?}"),
    }
}

#[test]
fn what_is_asked_for_in_an_intercepted_network() {
    let added = vec![(name("db.corp"), ip("10.0.0.5")), (name("db.corp"), ip("fd00::5"))];
    let policy = Policy { added, ..intercept(&["*.x.com", "1.2.3.4"]) };
    let asked = [
        ("API.x.com.", RecordType::A),
        ("api.x.com.", RecordType::AAAA),
        ("api.x.com.", RecordType::HTTPS),
        ("api.x.com.", RecordType::SVCB),
        ("api.x.com.", RecordType::TXT),
        ("api.x.com.", RecordType::MX),
        ("api.x.com.", RecordType::CNAME),
        ("api.x.com.", RecordType::NULL),
        ("api.x.com.", RecordType::from(65000)),
        ("api.x.com.", RecordType::ANY),
        ("api.x.com.", RecordType::AXFR),
        ("x.com.", RecordType::A),
        ("c2VjcmV0.evil.com.", RecordType::TXT),
        ("4.3.2.1.in-addr.arpa.", RecordType::PTR),
        ("DB.corp.", RecordType::A),
        ("db.corp.", RecordType::AAAA),
        ("db.corp.", RecordType::TXT),
        ("localhost.", RecordType::A),
        ("a.LOCALHOST.", RecordType::AAAA),
        (".", RecordType::NS),
        ("a\0b.x.com.", RecordType::A),
        ("a·b.x.com.", RecordType::A),
        ("127.1.", RecordType::A),
    ];
    assert_snapshot!(table(asked.map(|(text, kind)| (format!("{} {kind}", text.escape_default()), verdict(&policy, text, kind)))), @r#"
    API.x.com. A                     asks 7777 NoError api.x.com. A
    api.x.com. AAAA                  asks 7777 NoError api.x.com. AAAA
    api.x.com. HTTPS                 1234 NoError api.x.com. HTTPS
    api.x.com. SVCB                  1234 NoError api.x.com. SVCB
    api.x.com. TXT                   1234 NoError api.x.com. TXT
    api.x.com. MX                    1234 NoError api.x.com. MX
    api.x.com. CNAME                 1234 NoError api.x.com. CNAME
    api.x.com. NULL                  1234 NoError api.x.com. NULL
    api.x.com. Unknown               1234 NoError api.x.com. Unknown
    api.x.com. ANY                   1234 Refused api.x.com. ANY
    api.x.com. AXFR                  1234 Refused api.x.com. AXFR
    x.com. A                         1234 NXDomain x.com. A
        refused x.com: host not in allowlist (--allow-host x.com would allow it)
    c2VjcmV0.evil.com. TXT           1234 NXDomain c2VjcmV0.evil.com. TXT
        refused c2vjcmv0.evil.com: host not in allowlist (--allow-host c2vjcmv0.evil.com would allow it)
    4.3.2.1.in-addr.arpa. PTR        1234 NXDomain 4.3.2.1.in-addr.arpa. PTR
        refused 4.3.2.1.in-addr.arpa: host not in allowlist (--allow-host 4.3.2.1.in-addr.arpa would allow it)
    DB.corp. A                       1234 NoError DB.corp. A; DB.corp. 60 10.0.0.5 [1 for 60 s]
    db.corp. AAAA                    1234 NoError db.corp. AAAA; db.corp. 60 fd00::5 [1 for 60 s]
    db.corp. TXT                     1234 NoError db.corp. TXT
    localhost. A                     1234 NoError localhost. A; localhost. 60 127.0.0.1 [1 for 60 s]
    a.LOCALHOST. AAAA                1234 NoError a.LOCALHOST. AAAA; a.LOCALHOST. 60 ::1 [1 for 60 s]
    . NS                             1234 Refused . NS
    a\u{0}b.x.com. A                 1234 Refused a\000b.x.com. A
    a\u{b7}b.x.com. A                1234 Refused a\.b.x.com. A
    127.1. A                         1234 Refused 127.1. A
    "#);
}

#[test]
fn what_is_asked_for_in_an_open_network() {
    let asked = [
        ("evil.com.", RecordType::A),
        ("evil.com.", RecordType::TXT),
        ("evil.com.", RecordType::HTTPS),
        ("4.3.2.1.in-addr.arpa.", RecordType::PTR),
        ("_sip._tcp.x.com.", RecordType::SRV),
        ("x.com.", RecordType::ANY),
        ("localhost.", RecordType::A),
    ];
    assert_snapshot!(table(asked.map(|(text, kind)| (format!("{text} {kind}"), verdict(&open(), text, kind)))), @"
    evil.com. A                      asks 7777 NoError evil.com. A
    evil.com. TXT                    asks 7777 NoError evil.com. TXT
    evil.com. HTTPS                  asks 7777 NoError evil.com. HTTPS
    4.3.2.1.in-addr.arpa. PTR        asks 7777 NoError 4.3.2.1.in-addr.arpa. PTR
    _sip._tcp.x.com. SRV             asks 7777 NoError _sip._tcp.x.com. SRV
    x.com. ANY                       1234 Refused x.com. ANY
    localhost. A                     1234 NoError localhost. A; localhost. 60 127.0.0.1 [1 for 60 s]
    ");
}

#[test]
fn aliases_are_flattened_and_times_bounded() {
    let policy = intercept(&["api.x.com"]);
    let pending = pending(&policy, "API.x.com.", RecordType::A);
    let answer = resolver(
        &pending,
        &[
            ("edge.cdn.net.", 20, "1.2.3.5"),
            ("api.x.com.", 86400, "EDGE.cdn.net."),
            ("edge.cdn.net.", 40, "1.2.3.4"),
            ("edge.cdn.net.", 40, "1.2.3.4"),
            ("other.cdn.net.", 40, "6.6.6.6"),
            ("edge.cdn.net.", 40, "2600::1"),
        ],
    );
    assert_snapshot!(answered(&pending, &policy, &answer), @"1234 NoError API.x.com. A; API.x.com. 20 1.2.3.5; API.x.com. 20 1.2.3.4 [2 for 20 s]");
    let answer = resolver(&pending, &[("api.x.com.", 86400, "1.2.3.4")]);
    assert_snapshot!(answered(&pending, &policy, &answer), @"1234 NoError API.x.com. A; API.x.com. 300 1.2.3.4 [1 for 300 s]");
    let circle = resolver(&pending, &[("api.x.com.", 9, "b.x.com."), ("b.x.com.", 9, "api.x.com.")]);
    assert_snapshot!(answered(&pending, &policy, &circle), @"1234 NoError API.x.com. A");
}

#[test]
fn every_address_is_vetted() {
    let policy = private(intercept(&["x.com"]), &["10.0.0.5"]);
    let asking = pending(&policy, "x.com.", RecordType::A);
    let answer = resolver(
        &asking,
        &[
            ("x.com.", 60, "1.2.3.4"),
            ("x.com.", 60, "169.254.169.254"),
            ("x.com.", 60, "10.0.0.5"),
            ("x.com.", 60, "192.168.0.1"),
        ],
    );
    assert_snapshot!(answered(&asking, &policy, &answer), @"
    1234 NoError x.com. A; x.com. 60 1.2.3.4; x.com. 60 10.0.0.5 [2 for 60 s]
        refused x.com: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
        refused x.com: 192.168.0.1 is a private address (--allow-private-host 192.168.0.1 would allow it)
    ");
    let asking = pending(&policy, "x.com.", RecordType::AAAA);
    let answer = resolver(&asking, &[("x.com.", 60, "::ffff:127.0.0.1"), ("x.com.", 60, "64:ff9b::a9fe:a9fe")]);
    assert_snapshot!(answered(&asking, &policy, &answer), @"
    1234 NoError x.com. AAAA
        refused x.com: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
        refused x.com: 64:ff9b::a9fe:a9fe is a cloud metadata address (--allow-private-host 64:ff9b::a9fe:a9fe would allow it)
    ");
    // Rebinding is refused in an open network, too.
    let asking = pending(&open(), "evil.com.", RecordType::A);
    assert_snapshot!(answered(&asking, &open(), &resolver(&asking, &[("evil.com.", 0, "127.0.0.1")])), @"
    1234 NoError evil.com. A
        refused evil.com: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
    ");
}

#[test]
fn what_the_resolver_says_about_itself() {
    let policy = intercept(&["x.com"]);
    let pending = pending(&policy, "x.com.", RecordType::A);
    let said = |change: fn(&mut Message)| {
        let mut answer = resolver(&pending, &[("x.com.", 60, "1.2.3.4")]);
        change(&mut answer);
        answered(&pending, &policy, &answer)
    };
    assert_snapshot!(table([
        ("as it is", said(|_| {})),
        ("another id", said(|answer| answer.metadata.id += 1)),
        ("a question", said(|answer| answer.metadata.message_type = MessageType::Query)),
        ("another name", said(|answer| answer.queries[0].name = wire("y.com."))),
        ("another type", said(|answer| answer.queries[0].query_type = RecordType::AAAA)),
        ("the name in capitals", said(|answer| answer.queries[0].name = wire("X.COM."))),
        ("no question", said(|answer| answer.queries.clear())),
        ("no question, refused", said(|answer| {
            answer.queries.clear();
            answer.metadata.response_code = ResponseCode::FormErr;
        })),
        ("server failure", said(|answer| answer.metadata.response_code = ResponseCode::ServFail)),
        ("no such name", said(|answer| answer.metadata.response_code = ResponseCode::NXDomain)),
        ("truncated", said(|answer| answer.metadata.truncation = true)),
        ("no resolver left", told(&pending.failure())),
    ]), @"
    as it is                         1234 NoError x.com. A; x.com. 60 1.2.3.4 [1 for 60 s]
    another id                       unrelated
    a question                       unrelated
    another name                     unrelated
    another type                     unrelated
    the name in capitals             1234 NoError x.com. A; x.com. 60 1.2.3.4 [1 for 60 s]
    no question                      unrelated
    no question, refused             failed: FormErr
    server failure                   failed: ServFail
    no such name                     1234 NXDomain x.com. A
    truncated                        again over TCP
    no resolver left                 1234 ServFail x.com. A
    ");
}

#[test]
fn a_name_taken_from_the_list_meanwhile_is_refused() {
    let pending = pending(&intercept(&["x.com"]), "x.com.", RecordType::A);
    let answer = resolver(&pending, &[("x.com.", 60, "1.2.3.4")]);
    assert_snapshot!(answered(&pending, &intercept(&[]), &answer), @"
    1234 NXDomain x.com. A
        refused x.com: host not in allowlist (--allow-host x.com would allow it)
    ");
}

#[test]
fn an_open_network_hands_on_other_records_but_no_address_beside_them() {
    let pending = pending(&open(), "x.com.", RecordType::MX);
    let mut answer = resolver(&pending, &[("x.com.", 60, "mail.y.org."), ("mail.y.org.", 60, "10.0.0.5")]);
    answer.add_additional(Record::from_rdata(wire("z.org."), 60, RData::A("127.0.0.1".parse().unwrap())));
    assert_snapshot!(answered(&pending, &open(), &answer), @"1234 NoError x.com. MX; x.com. 60 mail.y.org.");
}

#[test]
fn an_answer_has_the_size_that_the_guest_takes() {
    let policy = intercept(&["x.com"]);
    let addresses: Vec<_> = (0..=255).map(|last| format!("1.2.3.{last}")).collect();
    let length = |offered: Option<u16>, transport, count: usize| {
        let mut asked = question("x.com.", RecordType::A);
        if let Some(offered) = offered {
            let mut edns = Edns::new();
            edns.set_max_payload(offered);
            asked.set_edns(edns);
        }
        let Verdict::Ask(pending) = judge(&policy, &asked.to_vec().unwrap(), transport, UPSTREAM_ID) else { panic!() };
        let records: Vec<_> = addresses.iter().take(count).map(|address| ("x.com.", 60, &**address)).collect();
        let answer = resolver(&pending, &records).to_vec().unwrap();
        let Upstream::Done(reply) = pending.answer(&policy, &answer) else { panic!() };
        let message = Message::from_vec(&reply.message).unwrap();
        assert_eq!(message.edns.is_some(), offered.is_some());
        assert_eq!(message.metadata.truncation, message.answers.is_empty());
        assert!(
            transport == Transport::Tcp
                || reply.message.len() <= offered.map_or(PLAIN_UDP, usize::from).clamp(PLAIN_UDP, MAX_UDP)
        );
        message.answers.len()
    };
    assert_eq!(length(None, Transport::Udp, 20), 20);
    assert_eq!(length(None, Transport::Udp, 60), 0);
    assert_eq!(length(Some(0), Transport::Udp, 60), 0);
    assert_eq!(length(Some(4096), Transport::Udp, 60), 60);
    // More than 64 are not taken from any answer.
    assert_eq!(length(None, Transport::Tcp, 256), 64);
}

#[test]
fn what_is_answered_here_is_good_for_a_minute() {
    let Verdict::Answer(reply) = ask(&open(), "localhost.", RecordType::A) else { panic!() };
    assert_eq!(reply.ttl, Duration::from_mins(1));
    assert_eq!(reply.addresses, [ip("127.0.0.1")]);
}
