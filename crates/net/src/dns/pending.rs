//! A question that a resolver of the host is asked, and what its answer is worth.

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::{Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::{MAX_ADDRESSES, MAX_ALIASES, MAX_TTL, MAX_UDP, Reply, encoded, question::is_address, reply::Asked};
use crate::policy::{Decision, Name, Policy};

/// The guest's question on its way to a resolver.
#[derive(Clone, Debug)]
pub struct Pending {
    asked: Asked,
    name: Name,
    upstream_id: u16,
}

/// What came from where a resolver was asked.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// It answers something else, or is no answer at all: go on waiting.
    Unrelated,
    /// It did not fit into a datagram: ask the same over TCP.
    Truncated,
    /// The resolver will not or cannot; another one may. [`Pending::failure`] is for when none is left.
    Failed(ResponseCode),
    /// It is answered.
    Done(Reply),
}

impl Pending {
    pub(super) fn new(asked: Asked, name: Name, upstream_id: u16) -> Self {
        Self { asked, name, upstream_id }
    }

    /// The name that is asked for.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What is asked of it.
    #[must_use]
    pub fn kind(&self) -> RecordType {
        self.asked.question.query_type
    }

    /// The question for the resolver, made from the name and the type alone (RFC 1035, section 4.1; RFC 6891,
    /// section 6.1.2).
    #[must_use]
    pub fn query(&self) -> Vec<u8> {
        const RECURSION_DESIRED: u8 = 0x01;
        let [id_high, id_low] = self.upstream_id.to_be_bytes();
        let mut query = vec![id_high, id_low, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend(encoded(&self.name, self.kind()));
        let [size_high, size_low] = u16::try_from(MAX_UDP).unwrap_or(u16::MAX).to_be_bytes();
        query.extend([0, 0, 41, size_high, size_low, 0, 0, 0, 0, 0, 0]);
        query
    }

    /// For the guest, when no resolver answers.
    #[must_use]
    pub fn failure(&self) -> Reply {
        self.asked.records(&self.name, ResponseCode::ServFail, Vec::new(), Vec::new())
    }

    /// What a datagram, or a message over TCP, from the resolver means. Policy is asked again: it may have changed while the
    /// question was under way.
    #[must_use]
    pub fn answer(&self, policy: &Policy, message: &[u8]) -> Upstream {
        let mut decoder = BinDecoder::new(message);
        let Ok(header) = Header::read(&mut decoder) else { return Upstream::Unrelated };
        let code = header.metadata.response_code;
        let worked = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        if header.metadata.id != self.upstream_id
            || header.metadata.message_type != MessageType::Response
            || header.metadata.op_code != OpCode::Query
        {
            return Upstream::Unrelated;
        }
        match header.counts.queries {
            // Servers that do not understand a question need not repeat it.
            0 if !worked => return Upstream::Failed(code),
            1 => {}
            _ => return Upstream::Unrelated,
        }
        if !Query::read(&mut decoder).is_ok_and(|question| self.is_asked(&question)) {
            return Upstream::Unrelated;
        }
        if !worked {
            return Upstream::Failed(code);
        }
        if header.metadata.truncation {
            return Upstream::Truncated;
        }
        if let Decision::Denied(denied) = policy.name(&self.name) {
            return Upstream::Done(self.asked.refuse(&self.name, denied));
        }
        let mut records = |count: u16| Message::read_records(&mut decoder, count.into(), false, OpCode::Query);
        let Ok((answers, ..)) = records(header.counts.answers) else { return Upstream::Failed(ResponseCode::FormErr) };
        if is_address(self.kind()) {
            return Upstream::Done(self.vet(policy, code, &answers));
        }
        let Ok((authority, ..)) = records(header.counts.authorities) else {
            return Upstream::Failed(ResponseCode::FormErr);
        };
        Upstream::Done(self.pass_on(code, answers, authority))
    }

    fn is_asked(&self, question: &Query) -> bool {
        let own = &self.asked.question;
        // Names compare without case.
        question.name == own.name && question.query_type == own.query_type && question.query_class == DNSClass::IN
    }

    /// The addresses that policy lets through, as if the name had them itself.
    fn vet(&self, policy: &Policy, code: ResponseCode, answers: &[Record]) -> Reply {
        // Where the name is said not to exist, nothing else that is said counts.
        let answers = if code == ResponseCode::NXDomain { &[] } else { answers };
        let (found, ttl) = self.addresses(answers);
        let vetted = policy.addresses(&self.name, found);
        let reply = self.asked.addresses(&self.name, code, vetted.usable, ttl);
        Reply { refused: vetted.refused, ..reply }
    }

    /// The addresses at the end of the name's aliases, and the least of the times that all this is good for.
    fn addresses(&self, answers: &[Record]) -> (Vec<IpAddr>, Duration) {
        let mut owner = &self.asked.question.name;
        let mut ttl = MAX_TTL;
        for _ in 0..=MAX_ALIASES {
            let own = answers.iter().filter(|record| record.dns_class == DNSClass::IN && record.name == *owner);
            let mut found = Vec::new();
            let mut alias = None;
            for record in own {
                let address: IpAddr = match &record.data {
                    RData::A(address) if self.kind() == RecordType::A => address.0.into(),
                    RData::AAAA(address) if self.kind() == RecordType::AAAA => address.0.into(),
                    RData::CNAME(target) => {
                        alias = alias.or(Some((&target.0, record.ttl)));
                        continue;
                    }
                    _ => continue,
                };
                ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                if found.len() < MAX_ADDRESSES && !found.contains(&address) {
                    found.push(address);
                }
            }
            match alias {
                Some((target, seconds)) if found.is_empty() => {
                    owner = target;
                    ttl = ttl.min(Duration::from_secs(seconds.into()));
                }
                _ => return (found, ttl),
            }
        }
        (Vec::new(), ttl)
    }

    /// In an open network, records of other types as they are, without addresses, which would be neither vetted nor pinned,
    /// and without what was not asked for.
    fn pass_on(&self, code: ResponseCode, mut answers: Vec<Record>, mut authority: Vec<Record>) -> Reply {
        answers.retain(|record| !is_address(record.record_type()));
        authority.retain(|record| record.record_type() == RecordType::SOA);
        self.asked.records(&self.name, code, answers, authority)
    }
}
