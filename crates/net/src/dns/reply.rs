//! What the guest is told: one message, made from its own question and from what is known here.

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{RData, Record, RecordType},
};

use super::{MAX_UDP, OWN_TTL, PLAIN_UDP, Transport};
use crate::policy::{Denied, Name};

/// An answer, and what there is to remember and to tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// For the guest, at most 65535 bytes.
    pub message: Vec<u8>,
    /// What was asked; `None` if it was nothing that could be judged.
    pub question: Option<(Name, RecordType)>,
    /// What became of it.
    pub code: ResponseCode,
    /// The addresses in it; to be pinned before the message is sent.
    pub addresses: Vec<IpAddr>,
    /// How long the guest may remember them.
    pub ttl: Duration,
    /// What was kept from the guest.
    pub refused: Vec<Denied>,
}

/// The guest's question and what its answer has to look like.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    id: u16,
    recursion_desired: bool,
    edns: bool,
    pub(super) edns_version: u8,
    /// As the guest wrote it: some compare the case of their letters.
    pub(super) question: Query,
    /// Bytes that the answer may have.
    limit: usize,
}

impl Asked {
    pub(super) fn new(message: Message, transport: Transport) -> Option<Self> {
        let offered = message.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().into());
        Some(Self {
            id: message.metadata.id,
            recursion_desired: message.metadata.recursion_desired,
            edns: message.edns.is_some(),
            edns_version: message.edns.as_ref().map_or(0, Edns::version),
            question: message.queries.into_iter().next()?,
            limit: match transport {
                Transport::Udp => offered.clamp(PLAIN_UDP, MAX_UDP),
                Transport::Tcp => u16::MAX.into(),
            },
        })
    }

    /// A question that is not judged at all.
    pub(super) fn fail(&self, code: ResponseCode) -> Reply {
        Reply {
            message: self.message(code, Vec::new(), Vec::new()),
            question: None,
            code,
            addresses: Vec::new(),
            ttl: Duration::ZERO,
            refused: Vec::new(),
        }
    }

    /// A name that does not exist for this guest.
    pub(super) fn refuse(&self, name: &Name, denied: Denied) -> Reply {
        let question = Some((name.clone(), self.question.query_type));
        Reply { question, refused: vec![denied], ..self.fail(ResponseCode::NXDomain) }
    }

    /// Addresses that are known here, as far as they are of the kind that is asked for; without one, "no such data"
    /// (RFC 2308, section 2.2).
    pub(super) fn own(&self, name: &Name, addresses: impl IntoIterator<Item = IpAddr>) -> Reply {
        let v4 = self.question.query_type == RecordType::A;
        let v6 = self.question.query_type == RecordType::AAAA;
        let fits = |address: &IpAddr| if address.is_ipv4() { v4 } else { v6 };
        self.addresses(name, ResponseCode::NoError, addresses.into_iter().filter(fits).collect(), OWN_TTL)
    }

    /// These addresses.
    pub(super) fn addresses(&self, name: &Name, code: ResponseCode, addresses: Vec<IpAddr>, ttl: Duration) -> Reply {
        let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let record = |address: &IpAddr| {
            let data = match *address {
                IpAddr::V4(address) => RData::A(address.into()),
                IpAddr::V6(address) => RData::AAAA(address.into()),
            };
            Record::from_rdata(self.question.name.clone(), seconds, data)
        };
        let message = self.message(code, addresses.iter().map(record).collect(), Vec::new());
        let question = Some((name.clone(), self.question.query_type));
        Reply { message, question, code, addresses, ttl, refused: Vec::new() }
    }

    /// These records.
    pub(super) fn records(
        &self,
        name: &Name,
        code: ResponseCode,
        answers: Vec<Record>,
        authority: Vec<Record>,
    ) -> Reply {
        let question = Some((name.clone(), self.question.query_type));
        Reply { message: self.message(code, answers, authority), question, code, ..self.fail(code) }
    }

    /// The message itself; what is too long for its way is left out, and the guest told to ask over TCP (RFC 2181,
    /// section 9).
    fn message(&self, code: ResponseCode, answers: Vec<Record>, authority: Vec<Record>) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.question.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(u16::try_from(MAX_UDP).unwrap_or(u16::MAX));
            message.set_edns(edns);
        }
        message.insert_answers(answers);
        message.insert_authorities(authority);
        let fits = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= self.limit);
        fits(&message).or_else(|| fits(&message.truncate())).unwrap_or_else(|| {
            let flags = u8::from(self.recursion_desired);
            bare(self.id.to_be_bytes(), flags, ResponseCode::ServFail).message
        })
    }
}

/// The answer to what cannot be read: a header (RFC 1035, section 4.1.1) with the guest's id, operation and RD.
pub(super) fn bare(id: [u8; 2], flags: u8, code: ResponseCode) -> Reply {
    let [high, low] = id;
    let (response, recursion_available) = (0x80, 0x80);
    let message = vec![high, low, response | flags & 0x79, recursion_available | code.low(), 0, 0, 0, 0, 0, 0, 0, 0];
    Reply { message, question: None, code, addresses: Vec::new(), ttl: Duration::ZERO, refused: Vec::new() }
}
