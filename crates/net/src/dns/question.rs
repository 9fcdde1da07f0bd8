//! A message of the guest: what it asks, and whether that may leave the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{DNSClass, Name as WireName, RecordType},
};

use super::{
    MAX_QUERY, Pending, Reply,
    reply::{Asked, bare},
};
use crate::policy::{Decision, Mode, Name, Policy};

/// What a message of the guest came over, and its answer is to go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each; an answer that does not fit is asked for again over TCP.
    Udp,
    /// With its length before it (RFC 1035, section 4.2.2).
    Tcp,
}

/// What becomes of a message.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is none that anybody answers: not a DNS message, or an answer.
    Silence,
    /// The answer is known.
    Answer(Reply),
    /// A resolver is to be asked.
    Ask(Pending),
}

/// The type of every OPT record (RFC 6891).
const OPT: u16 = 41;

/// Types that are no data but ask for a transfer, a signature or everything there is (RFC 6895, section 3.1).
const META_TYPES: std::ops::RangeInclusive<u16> = 128..=255;

/// What a message of the guest may have besides its question: OPT, and a signature that is not looked at.
const MAX_ADDITIONAL: u16 = 2;

/// A question as it stands in a message (RFC 1035, section 4.1.2).
pub(crate) fn encoded(name: &Name, kind: RecordType) -> Vec<u8> {
    let mut question = Vec::new();
    for label in name.labels() {
        // A label has at most 63 bytes.
        question.push(u8::try_from(label.len()).unwrap_or_default());
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(u16::from(kind).to_be_bytes());
    question.extend(u16::from(DNSClass::IN).to_be_bytes());
    question
}

/// Judge one message. `upstream_id` becomes that of the question to a resolver, should there be one: fresh and random, so
/// that nobody beside the resolver can answer in its place (RFC 5452).
#[must_use]
pub fn judge(policy: &Policy, message: &[u8], transport: Transport, upstream_id: u16) -> Verdict {
    let Some((header, _)) = message.split_first_chunk::<12>() else { return Verdict::Silence };
    let [id_high, id_low, flags, _, counts @ ..] = *header;
    let [questions, answers, authorities, additional] = counts.as_chunks().0 else { return Verdict::Silence };
    if flags & 0x80 != 0 || message.len() > MAX_QUERY {
        return Verdict::Silence;
    }
    let refuse = |code| Verdict::Answer(bare([id_high, id_low], flags, code));
    if flags >> 3 & 0xf != u8::from(OpCode::Query) {
        return refuse(ResponseCode::NotImp);
    }
    // Counted before they are read: a reader makes room for as many as are announced.
    let counted = *questions == [0, 1] && [answers, authorities] == [&[0, 0]; 2];
    if !counted || u16::from_be_bytes(*additional) > MAX_ADDITIONAL {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(message) else { return refuse(ResponseCode::FormErr) };
    match Asked::new(message, transport) {
        Some(asked) => judge_question(policy, asked, upstream_id),
        None => refuse(ResponseCode::FormErr),
    }
}

fn judge_question(policy: &Policy, asked: Asked, upstream_id: u16) -> Verdict {
    let kind = asked.question.query_type;
    let Some(name) = host_name(&asked.question.name) else { return Verdict::Answer(asked.fail(ResponseCode::Refused)) };
    if asked.edns_version > 0 {
        return Verdict::Answer(asked.fail(ResponseCode::BADVERS));
    }
    if asked.question.query_class != DNSClass::IN || is_meta(kind) {
        return Verdict::Answer(asked.fail(ResponseCode::Refused));
    }
    if name.is_localhost() {
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        return Verdict::Answer(asked.own(&name, addresses));
    }
    let added: Vec<_> = policy.added_addresses(&name).collect();
    if !added.is_empty() {
        return Verdict::Answer(asked.own(&name, added));
    }
    if let Decision::Denied(denied) = policy.name(&name) {
        return Verdict::Answer(asked.refuse(&name, denied));
    }
    if policy.mode == Mode::Intercept && !is_address(kind) {
        return Verdict::Answer(asked.own(&name, []));
    }
    Verdict::Ask(Pending::new(asked, name, upstream_id))
}

/// Whether addresses are asked for.
pub(super) fn is_address(kind: RecordType) -> bool {
    matches!(kind, RecordType::A | RecordType::AAAA)
}

fn is_meta(kind: RecordType) -> bool {
    let kind = u16::from(kind);
    kind == 0 || kind == OPT || META_TYPES.contains(&kind)
}

/// A host name in the question. A label may hold any byte on the wire; one with a dot in it would become two.
fn host_name(name: &WireName) -> Option<Name> {
    let mut text = String::new();
    for label in name {
        let label = str::from_utf8(label).ok().filter(|label| !label.contains('.'))?;
        text.push_str(label);
        text.push('.');
    }
    text.parse().ok()
}
