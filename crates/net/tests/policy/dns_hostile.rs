//! Messages that no client makes: garbage, smuggled questions, announced lengths.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
};
use insta::assert_snapshot;
use matchlock_net::dns::{MAX_QUERY, Transport, Upstream, Verdict, judge};
use proptest::prelude::*;

use crate::{
    dns::{UPSTREAM_ID, ask, pending, question, resolver, told, wire},
    intercept, open, table,
};

fn became(bytes: &[u8]) -> String {
    match judge(&intercept(&["x.com"]), bytes, Transport::Udp, UPSTREAM_ID) {
        Verdict::Silence => "silence".to_owned(),
        Verdict::Answer(reply) => told(&reply),
        Verdict::Ask(_) => "asks".to_owned(),
    }
}

fn changed(change: fn(&mut Message)) -> String {
    let mut message = question("x.com.", RecordType::A);
    change(&mut message);
    became(&message.to_vec().unwrap())
}

#[test]
fn questions_that_are_none() {
    let plain = question("x.com.", RecordType::A).to_vec().unwrap();
    let announces = |at: usize| {
        let mut message = plain.clone();
        message[at] = 0xff;
        became(&message)
    };
    assert_snapshot!(table([
        ("as it is", became(&plain)),
        ("nothing", became(&[])),
        ("eleven bytes", became(&plain[..11])),
        ("a header alone", became(&plain[..12])),
        ("cut off", became(&plain[..plain.len() - 1])),
        ("an answer", changed(|message| message.metadata.message_type = MessageType::Response)),
        ("an update", changed(|message| message.metadata.op_code = OpCode::Update)),
        ("a notification", changed(|message| message.metadata.op_code = OpCode::Notify)),
        ("no question", changed(|message| message.queries.clear())),
        ("two questions", changed(|message| {
            message.add_query(Query::query(wire("evil.com."), RecordType::A));
        })),
        ("65281 questions", announces(4)),
        ("65280 answers", announces(6)),
        ("65280 additional records", announces(10)),
        ("class CHAOS", changed(|message| message.queries[0].query_class = DNSClass::CH)),
        ("class ANY", changed(|message| message.queries[0].query_class = DNSClass::ANY)),
        ("EDNS version 1", changed(|message| {
            let mut edns = Edns::new();
            edns.set_version(1);
            message.set_edns(edns);
        })),
        ("too long", became(&[plain.clone(), vec![0; MAX_QUERY]].concat())),
        ("a name that points at itself", became(&[&plain[..12], &[0xc0, 12, 0, 1, 0, 1]].concat())),
    ]), @"
    as it is                         asks
    nothing                          silence
    eleven bytes                     silence
    a header alone                   1234 FormErr
    cut off                          1234 FormErr
    an answer                        silence
    an update                        1234 NotImp
    a notification                   1234 NotImp
    no question                      1234 FormErr
    two questions                    1234 FormErr
    65281 questions                  1234 FormErr
    65280 answers                    1234 FormErr
    65280 additional records         1234 FormErr
    class CHAOS                      1234 Refused x.com. A
    class ANY                        1234 Refused x.com. A
    EDNS version 1                   1234 BADSIG x.com. A
    too long                         silence
    a name that points at itself     1234 FormErr
    ");
}

#[test]
fn nothing_of_the_guests_bytes_goes_out_but_the_name_and_the_type() {
    let policy = intercept(&["x.com"]);
    let mut secret = question("x.com.", RecordType::A);
    secret.metadata.id = 0x5ec1;
    secret.metadata.checking_disabled = true;
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    edns.options_mut().insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(65001, b"secret".to_vec()));
    secret.set_edns(edns);
    let mut bytes = secret.to_vec().unwrap();
    bytes.extend(b"secret");
    // The case of the letters carries a bit each.
    bytes[13] = b'X';
    let Verdict::Ask(smuggler) = judge(&policy, &bytes, Transport::Udp, UPSTREAM_ID) else { panic!() };
    assert_eq!(smuggler.query(), pending(&policy, "x.com.", RecordType::A).query());
}

#[test]
fn what_is_asked_upstream_is_what_others_read() {
    let name = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    let query = pending(&open(), &format!("{name}."), RecordType::AAAA).query();
    let read = Message::from_vec(&query).unwrap();
    assert_eq!(read.metadata.id, UPSTREAM_ID);
    assert!(read.metadata.recursion_desired);
    assert_eq!(read.queries, [Query::query(wire(&format!("{name}.")), RecordType::AAAA)]);
    assert_eq!(read.edns.map(|edns| edns.max_payload()), Some(1232));
    assert_eq!(query.len(), 12 + 255 + 4 + 11);
}

/// A good message with some bytes changed: closer to trouble than noise is.
fn nearly(message: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(move |(changes, end, cut)| {
        let mut message = message.clone();
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        if cut {
            message.truncate(end.index(message.len()));
        }
        message
    })
}

fn asked_with_edns() -> Vec<u8> {
    let mut message = question("a.x.com.", RecordType::A);
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

fn answered_well() -> Vec<u8> {
    let asked = pending(&open(), "x.com.", RecordType::A);
    resolver(&asked, &[("x.com.", 9, "b.org."), ("b.org.", 9, "1.2.3.4"), ("b.org.", 9, "10.0.0.5")]).to_vec().unwrap()
}

proptest! {
    #[test]
    fn a_guest_is_told_something_readable_or_nothing(
        noise in prop_oneof![proptest::collection::vec(any::<u8>(), 0..80), nearly(asked_with_edns())],
    ) {
        for policy in [intercept(&["*.x.com"]), open()] {
            if let Verdict::Answer(reply) = judge(&policy, &noise, Transport::Udp, UPSTREAM_ID) {
                let read = Message::from_vec(&reply.message).unwrap();
                prop_assert_eq!(read.metadata.message_type, MessageType::Response);
                prop_assert_eq!(&reply.message[..2], &noise[..2]);
                prop_assert_eq!(u16::from(read.metadata.response_code), u16::from(reply.code));
            }
        }
    }

    #[test]
    fn a_resolver_gets_nothing_to_the_guest_but_public_addresses(noise in nearly(answered_well())) {
        let policy = intercept(&["x.com"]);
        if let Upstream::Done(reply) = pending(&policy, "x.com.", RecordType::A).answer(&policy, &noise) {
            let read = Message::from_vec(&reply.message).unwrap();
            prop_assert_eq!(read.answers.len(), reply.addresses.len());
            for (record, address) in read.answers.iter().zip(&reply.addresses) {
                prop_assert!(policy.class(*address).is_public());
                prop_assert_eq!(record.data.ip_addr(), Some(*address));
                prop_assert_eq!(&record.name, &wire("x.com."));
            }
        }
        let any_type = pending(&open(), "x.com.", RecordType::TXT);
        let mut noise = noise;
        if let [_, _, .., _] = noise.as_slice() && noise.len() > 21 {
            noise[20] = 16;
        }
        if let Upstream::Done(reply) = any_type.answer(&open(), &noise) {
            prop_assert!(Message::from_vec(&reply.message).is_ok());
        }
    }

    #[test]
    fn a_name_that_is_not_allowed_is_asked_for_nowhere(text in "([a-zA-Z0-9_-]{1,9}\\.){1,4}", kind in any::<u16>()) {
        let policy = intercept(&["*.x.com", "y.org"]);
        if let Verdict::Ask(pending) = ask(&policy, &text, RecordType::from(kind)) {
            let name = pending.name().as_str();
            prop_assert!(name == "y.org" || name.ends_with(".x.com"));
        }
        let Verdict::Answer(reply) = ask(&intercept(&[]), &text, RecordType::A) else { panic!() };
        prop_assert!(matches!(reply.code, ResponseCode::NXDomain | ResponseCode::Refused) || text.to_lowercase().ends_with("localhost."));
    }
}
