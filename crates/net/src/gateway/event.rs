//! What happened, one record for each connection, flow, query, echo and request, told when it is over.

use std::{fmt, net::IpAddr, time::Duration};

use matchlock_model::printable;

use super::{ClientAddr, OrigDst, Transport};
use crate::{
    MAX_TOLD,
    dns::{RecordType, Reply, ResponseCode},
    policy::{Allowed, Denied, Host, Name},
};

/// Characters of a reason: a few texts of a guest's, and what is said of them.
const MAX_WHY: usize = 4 * MAX_TOLD;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The guest's end.
    pub client: ClientAddr,
    /// The end it wanted. For a DNS query, the server that it asked; the host's own answers.
    pub destination: OrigDst,
    /// What it was.
    pub what: What,
    /// What allowed it, if something did.
    pub allowed: Option<Allowed>,
    /// How it ended.
    pub end: End,
    /// From its beginning to its end.
    pub took: Duration,
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A TCP connection.
    Connection(Moved),
    /// The datagrams between two addresses.
    Flow(Moved),
    /// A DNS query, and what it came to, if it was one that could be judged.
    Query(Transport, Option<Question>),
    /// An ICMP echo request.
    Echo,
    /// A request over HTTP, on a connection that was looked into and has an event of its own.
    Request(Box<Request>),
}

/// A request and its response. Never the query, and no value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// As the guest wrote it, and not all of one that is very long.
    pub method: String,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Whom it is for; `None` if it does not say so in a way that can be understood.
    pub host: Option<Host>,
    /// The port that the guest has connected to.
    pub port: u16,
    /// Without the query, and not all of one that is very long; in printable ASCII, whatever the guest wrote.
    pub path: String,
    /// The response's, the gateway's own included; `None` if there was none.
    pub status: Option<u16>,
    /// Of the bodies.
    pub moved: Moved,
    /// Names of the secrets that were put in.
    pub secrets: Vec<String>,
    /// Names of the rules that it matched.
    pub rules: Vec<String>,
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What was asked for.
    pub name: Name,
    /// What of it.
    pub kind: RecordType,
    /// What became of it.
    pub code: ResponseCode,
    /// The addresses that the guest was given.
    pub addresses: Vec<IpAddr>,
    /// What was kept from it.
    pub refused: Vec<Denied>,
}

impl Question {
    /// That of a reply, if it was one that could be judged.
    #[must_use]
    pub fn of(reply: &Reply) -> Option<Self> {
        let (name, kind) = reply.question.clone()?;
        let (addresses, refused) = (reply.addresses.clone(), reply.refused.clone());
        Some(Self { name, kind, code: reply.code, addresses, refused })
    }
}

/// Bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Sent by the guest.
    pub from_guest: u64,
    /// Sent to the guest.
    pub to_guest: u64,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As its ends wanted it: closed, answered, or idle.
    Done,
    /// Policy does not allow it, and nothing left the host.
    Denied(Denied),
    /// It was stopped for something else than whom it is for, in words.
    Blocked(String),
    /// The other end could not be reached, did not answer, or broke off.
    Failed(String),
}

impl End {
    /// With reasons in one line that is not endless: they have in them what guests and servers say.
    pub(crate) fn bounded(self) -> Self {
        match self {
            Self::Blocked(why) => Self::Blocked(printable(&why, MAX_WHY)),
            Self::Failed(why) => Self::Failed(printable(&why, MAX_WHY)),
            end => end,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Denied(denial) => write!(f, "denied: {denial}"),
            Self::Blocked(why) => write!(f, "blocked: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}
