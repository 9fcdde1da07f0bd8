//! An event as a line of JSON: one flat object, in which what does not apply is left out.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{End, Event, Question, Transport, What};
use crate::policy::Denied;

#[derive(Serialize)]
struct Record<'a> {
    event: &'static str,
    client: String,
    destination: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<&'a [IpAddr]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_guest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_guest: Option<u64>,
    took_us: u64,
}

#[derive(Serialize)]
struct Refusal {
    destination: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<String>,
}

impl From<&Denied> for Refusal {
    fn from(denied: &Denied) -> Self {
        Self { destination: denied.destination(), reason: denied.reason(), flag: denied.flag() }
    }
}

impl<'a> Record<'a> {
    fn of(event: &'a Event) -> Self {
        let (kind, moved, transport, question) = match &event.what {
            What::Connection(moved) => ("connection", Some(moved), None, None),
            What::Flow(moved) => ("flow", Some(moved), None, None),
            What::Query(transport, question) => ("query", None, Some(*transport), question.as_ref()),
            What::Echo => ("echo", None, None, None),
        };
        let (outcome, denied, error) = match &event.end {
            End::Done => ("done", None, None),
            End::Denied(denied) => ("denied", Some(denied), None),
            End::Failed(why) => ("failed", None, Some(why.as_str())),
        };
        // A query that is denied has its refusals in its question.
        let kept = question.map_or(&[][..], |question| &question.refused);
        let refused = if kept.is_empty() {
            denied.into_iter().map(Refusal::from).collect()
        } else {
            kept.iter().map(Refusal::from).collect()
        };
        let by_name = event.allowed.as_ref().and_then(|allowed| allowed.name.as_ref());
        Self {
            event: kind,
            client: event.client.to_string(),
            destination: event.destination.to_string(),
            outcome,
            transport: transport.map(|transport| match transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            }),
            name: question.map(|question| &question.name).or(by_name).map(ToString::to_string),
            kind: question.map(|question| question.kind.to_string()),
            code: question.map(|question| format!("{:?}", question.code).to_uppercase()),
            addresses: question.map(|Question { addresses, .. }| addresses.as_slice()),
            rule: event.allowed.as_ref().map(ToString::to_string),
            refused,
            error,
            from_guest: moved.map(|moved| moved.from_guest),
            to_guest: moved.map(|moved| moved.to_guest),
            took_us: u64::try_from(event.took.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record::of(self).serialize(serializer)
    }
}
