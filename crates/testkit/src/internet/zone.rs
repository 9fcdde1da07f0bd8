//! What the internet's names mean. The data is `zone.txt`; this reads it and answers questions.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail};
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME, rdata::TXT},
};

/// How long an answer may be remembered, in seconds.
const TTL: u32 = 60;
/// Bytes of one string of a TXT record (RFC 1035, section 3.3).
const STRING: usize = 255;
/// Links of a chain that are followed.
const CHAIN: usize = 8;

/// All names.
#[derive(Debug)]
pub(super) struct Zone(HashMap<String, Meaning>);

#[derive(Debug)]
enum Meaning {
    Addresses(Vec<IpAddr>),
    Turns(Vec<IpAddr>, AtomicUsize),
    Alias(String),
    Text(usize),
}

impl Zone {
    /// As `zone.txt` has it.
    pub(super) fn read(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| entry(line).with_context(|| line.to_owned())).collect::<Result<_>>().map(Self)
    }

    /// The answer to a message; `None` if it is no question.
    pub(super) fn answer(&self, query: &[u8]) -> Option<(String, RecordType, Message)> {
        let query = Message::from_vec(query).ok()?;
        let question = query.queries.first()?.clone();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        let asked = question.name.to_ascii();
        let records = self.records(question.name.clone(), question.query_type);
        answer.metadata.response_code = if records.is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        answer.insert_answers(records.unwrap_or_default());
        Some((asked, question.query_type, answer))
    }

    fn records(&self, mut name: Name, kind: RecordType) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        for _ in 0..CHAIN {
            match self.meaning(&name)? {
                Meaning::Alias(target) => {
                    let target = Name::from_ascii(format!("{target}.")).ok()?;
                    records.push(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
                    name = target;
                    continue;
                }
                Meaning::Addresses(addresses) => {
                    records.extend(addresses.iter().filter_map(|address| record(&name, TTL, kind, *address)));
                }
                Meaning::Turns(addresses, turn) if kind == RecordType::A => {
                    let turn = turn.fetch_add(1, Ordering::Relaxed).min(addresses.len() - 1);
                    records.extend(record(&name, 0, kind, addresses[turn]));
                }
                Meaning::Text(length) if kind == RecordType::TXT => {
                    let strings = vec!["x".repeat(STRING); length.div_ceil(STRING)];
                    records.push(Record::from_rdata(name, TTL, RData::TXT(TXT::new(strings))));
                }
                Meaning::Turns(..) | Meaning::Text(_) => {}
            }
            break;
        }
        Some(records)
    }

    /// The name's own line, or that of everything below a name that it is below.
    fn meaning(&self, name: &Name) -> Option<&Meaning> {
        let name = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let above = name.match_indices('.').map(|(dot, _)| format!("*{}", &name[dot..]));
        self.0.get(&name).or_else(|| above.into_iter().find_map(|pattern| self.0.get(&pattern)))
    }
}

fn entry(line: &str) -> Result<(String, Meaning)> {
    let (name, meaning) = line.split_once(char::is_whitespace).context("a name and what it means")?;
    let words: Vec<_> = meaning.split_whitespace().collect();
    let addresses = |words: &[&str]| -> Result<Vec<IpAddr>> {
        words.iter().map(|word| word.parse().with_context(|| format!("{word} is no address"))).collect()
    };
    let meaning = match words[..] {
        [] => bail!("nothing is said of it"),
        ["cname", target] => Meaning::Alias(target.to_owned()),
        ["txt", length] => Meaning::Text(length.parse()?),
        ["turns", ref words @ ..] if !words.is_empty() => Meaning::Turns(addresses(words)?, AtomicUsize::new(0)),
        ref words => Meaning::Addresses(addresses(words)?),
    };
    Ok((name.to_owned(), meaning))
}

fn record(name: &Name, ttl: u32, kind: RecordType, address: IpAddr) -> Option<Record> {
    let data = match (kind, address) {
        (RecordType::A, IpAddr::V4(address)) => RData::A(address.into()),
        (RecordType::AAAA, IpAddr::V6(address)) => RData::AAAA(address.into()),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), ttl, data))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn ask(zone: &Zone, name: &str, kind: RecordType) -> Vec<String> {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let (_, _, answer) = zone.answer(&query.to_vec().unwrap()).unwrap();
        let said = answer.answers.iter().map(|record| record.data.to_string().chars().take(40).collect());
        [vec![answer.metadata.response_code.to_string()], said.collect()].concat()
    }

    #[test]
    fn names_mean_what_the_data_says() {
        let zone = Zone::read(include_str!("zone.txt")).unwrap();
        let ask = |name, kind| ask(&zone, name, kind);
        assert_eq!(ask("API.good.test.", RecordType::A)[1..], ["93.184.216.34"]);
        assert_eq!(ask("api.good.test.", RecordType::AAAA)[1..], ["2606:2800:220:1::34"]);
        assert_eq!(ask("a.b.evil.test.", RecordType::A)[1..], ["93.184.216.66"]);
        assert_eq!(ask("rebind.good.test.", RecordType::A)[1..], ["93.184.216.34"]);
        assert_eq!(ask("rebind.good.test.", RecordType::A)[1..], ["10.0.0.5"]);
        assert_eq!(
            ask("alias.good.test.", RecordType::A)[1..],
            ["one.links.test.", "two.links.test.", "api.good.test.", "93.184.216.34"]
        );
        assert_eq!(ask("text.good.test.", RecordType::TXT).len(), 2);
        assert_eq!(ask("nobody.good.test.", RecordType::A).len(), 1);
        assert_ne!(ask("nobody.good.test.", RecordType::A), ask("api.good.test.", RecordType::MX));
    }
}
