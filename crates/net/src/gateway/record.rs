//! An event as a line of JSON: one flat object, in which what does not apply is left out.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{End, Event, Question, Request, Transport, What};
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
    blocked: Option<&'a str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    request: Option<Requested<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_guest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_guest: Option<u64>,
    took_us: u64,
}

#[derive(Serialize)]
struct Requested<'a> {
    method: &'a str,
    scheme: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    port: u16,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    secrets: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    rules: &'a [String],
}

impl<'a> From<&'a Request> for Requested<'a> {
    fn from(request: &'a Request) -> Self {
        let Request { method, tls, host, port, path, status, moved: _, secrets, rules } = request;
        let scheme = if *tls { "https" } else { "http" };
        let host = host.as_ref().map(ToString::to_string);
        Self { method, scheme, host, port: *port, path, status: *status, secrets, rules }
    }
}

#[derive(Serialize)]
struct Refusal {
    destination: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<String>,
    /// All of it in a line.
    told: String,
}

impl From<&Denied> for Refusal {
    fn from(denied: &Denied) -> Self {
        Self {
            destination: denied.destination(),
            reason: denied.reason(),
            flag: denied.flag(),
            told: denied.to_string(),
        }
    }
}

impl<'a> Record<'a> {
    fn of(event: &'a Event) -> Self {
        let (kind, moved, transport, question) = match &event.what {
            What::Connection(moved) => ("connection", Some(moved), None, None),
            What::Flow(moved) => ("flow", Some(moved), None, None),
            What::Query(transport, question) => ("query", None, Some(*transport), question.as_ref()),
            What::Echo => ("echo", None, None, None),
            What::Request(request) => ("request", Some(&request.moved), None, None),
        };
        let (outcome, denied, blocked, error) = match &event.end {
            End::Done => ("done", None, None, None),
            End::Denied(denied) => ("denied", Some(denied), None, None),
            End::Blocked(why) => ("blocked", None, Some(why.as_str()), None),
            End::Failed(why) => ("failed", None, None, Some(why.as_str())),
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
            blocked,
            request: match &event.what {
                What::Request(request) => Some(Requested::from(&**request)),
                _ => None,
            },
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
