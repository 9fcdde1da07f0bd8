//! What one guest may use of its supervisor at once, and for how long.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// TCP connections, where the process may have descriptors for so many ([`connections`]). Further ones wait in the listener's
/// backlog.
const CONNECTIONS: usize = 2048;
/// Flows of datagrams, with the same proviso ([`flows`]). The datagrams of further ones are dropped.
const FLOWS: usize = 1024;
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
/// For what is under way when the gateway is ended: to be cancelled, and told of.
pub(super) const END_DEADLINE: Duration = Duration::from_secs(1);
/// TCP has no limit for silence: a connection ends when an end closes it, or no longer answers to the kernel's probes, which
/// start after so long a silence.
pub(super) const PROBE_AFTER: Duration = Duration::from_mins(1);

/// Longest datagram.
pub(super) const DATAGRAM: usize = 65535;

/// Connections to a server for one of the guest's, where the guest speaks HTTP/2 and the server does not.
pub(crate) const SERVER_CONNECTIONS: usize = 6;

/// Descriptors of a connection at most, of a flow, and of all that is not either: DNS and echoes, then what the supervisor has
/// beside its gateway, such as the machine's, the logs, and the clients of `exec.sock` and `control.sock`.
const OF_CONNECTION: usize = 1 + SERVER_CONNECTIONS;
const OF_FLOW: usize = 2;
const OF_OTHERS: usize = QUERIES + 2 * DNS_CONNECTIONS + ECHOES + 192;

/// Let this process have as many descriptors as it may: the usual soft limit, 1024, is for the sake of select(2).
pub(super) fn lift_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Refused, there is less at once.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// TCP connections at once, and no more than leave descriptors for everything else.
pub(super) fn connections() -> usize {
    connections_within(descriptors())
}

/// Flows of datagrams at once, likewise.
pub(super) fn flows() -> usize {
    flows_within(descriptors())
}

fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Three quarters are for connections.
fn connections_within(descriptors: usize) -> usize {
    (descriptors.saturating_sub(OF_OTHERS) / 4 * 3 / OF_CONNECTION).clamp(1, CONNECTIONS)
}

fn flows_within(descriptors: usize) -> usize {
    (descriptors.saturating_sub(OF_OTHERS) / 4 / OF_FLOW).clamp(1, FLOWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_leaves_descriptors_for_the_log() {
        for descriptors in [700, 1024, 4096, 20_000, 524_288, usize::MAX] {
            let (connections, flows) = (connections_within(descriptors), flows_within(descriptors));
            assert!(connections >= 1 && flows >= 1);
            assert!(connections * OF_CONNECTION + flows * OF_FLOW + OF_OTHERS <= descriptors, "{descriptors}");
        }
        assert_eq!((connections_within(1024), flows_within(1024)), (41, 48));
        assert_eq!((connections_within(524_288), flows_within(524_288)), (CONNECTIONS, FLOWS));
    }
}
