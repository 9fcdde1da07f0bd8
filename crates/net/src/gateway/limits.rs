//! What one guest may use of its supervisor at once, and for how long.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// TCP connections. Further ones wait in the listener's backlog. Two descriptors each.
pub(super) const CONNECTIONS: usize = 4096;
/// Flows of datagrams. The datagrams of further ones are dropped. Two descriptors each.
pub(super) const FLOWS: usize = 1024;
/// Datagrams of a flow that wait for its sockets.
pub(super) const FLOW_QUEUE: usize = 32;
/// DNS queries over UDP without an answer yet. Further ones wait in the socket's buffer.
pub(super) const QUERIES: usize = 256;
/// Connections for DNS.
pub(super) const DNS_CONNECTIONS: usize = 64;
/// Echo requests without an answer yet. Further ones are dropped.
pub(super) const ECHOES: usize = 64;

/// Until a server has accepted a connection.
pub(super) const DIAL_DEADLINE: Duration = Duration::from_secs(30);
/// A flow without a datagram for so long is over; so long does a refused one stay refused.
pub(super) const FLOW_IDLE: Duration = Duration::from_mins(1);
/// Until a DNS server has answered, before the next one is asked. A C library waits 5 s for all of it.
pub(super) const QUERY_DEADLINE: Duration = Duration::from_secs(2);
/// Until a connection is tried again that found no descriptor to spare, if none of the others ends before.
pub(super) const EXHAUSTED_FOR: Duration = Duration::from_secs(1);
/// For the rest of a guest's first words, where they could still become TLS or HTTP and the server is silent, too.
pub(super) const OPENING_DEADLINE: Duration = Duration::from_secs(10);
/// For the next query on a connection for DNS.
pub(super) const DNS_IDLE: Duration = Duration::from_secs(10);
/// Until an echo is answered.
pub(super) const ECHO_DEADLINE: Duration = Duration::from_secs(10);
/// TCP has no limit for silence: a connection ends when an end closes it, or no longer answers to the kernel's probes, which
/// start after so long a silence.
pub(super) const PROBE_AFTER: Duration = Duration::from_mins(1);

/// Longest datagram.
pub(super) const DATAGRAM: usize = 65535;

/// Let this process have as many descriptors as it may: the usual soft limit, 1024, is for the sake of select(2).
pub(super) fn lift_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Refused, the limits above are not reached, and connections wait for others to end.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
