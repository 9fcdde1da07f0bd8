//! What happened, one record for each connection, flow, query and echo, told when it is over.

use std::{fmt, time::Duration};

use super::{ClientAddr, Denial, OrigDst, Transport};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The guest's end.
    pub client: ClientAddr,
    /// The end it wanted. For a DNS query, the server that it asked; the host's own answers.
    pub destination: OrigDst,
    /// What it was.
    pub what: What,
    /// How it ended.
    pub end: End,
    /// From its beginning to its end.
    pub took: Duration,
}

/// What it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A TCP connection.
    Connection(Moved),
    /// The datagrams between two addresses.
    Flow(Moved),
    /// A DNS query.
    Query(Transport),
    /// An ICMP echo request.
    Echo,
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
    /// It was not allowed, and nothing left the host.
    Denied(Denial),
    /// The other end could not be reached, did not answer, or broke off.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Denied(denial) => write!(f, "denied: {denial}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}
