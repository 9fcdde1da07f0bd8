//! The gateway: what a guest's packets ask for is done with the host's own sockets, if it is allowed.
//!
//! ```text
//!            in the namespace                              in the supervisor                          on the host
//! guest ─ doors.tcp ─────────────────── tcp: accept ─ decide ─┬ dial ─ copy ──────────────────── connection ─ server
//!                                                                └ inspector: TLS, HTTP ───────── connection ─ server
//!       ─ doors.udp, reply sockets ──── udp: a flow per pair of addresses ─ decide ───────────── socket ─ server
//!       ─ doors.dns_udp, dns_tcp ────── dns ─ Resolver: judge ─ Forwarder ────────────────────── socket ─ the host's resolvers
//!       ─ doors.raw ─────────────────── echo ─ decide ────────────────────────────────────────── ping socket ─ host
//! ```
//!
//! Where the guest's link is among the host's own, there are no reply sockets and no echoes: `doors.raw` sends all datagrams.
//!
//! Called by `sandbox`, which brings the decision (`Settings::decide`, which is a [`Guard`](crate::guard::Guard)'s), the inspector and takes the events. Invariants: nothing leaves the
//! host before `decide` has allowed its destination, and what is dialled is the address that was judged; everything that a
//! guest can make many of has a bound (`limits.rs`); dropping the [`Gateway`] ends all of it, and [`Gateway::end`] waits until all has
//! been told that was under way.

mod accept;
mod address;
mod buffer;
pub(crate) mod copy;
mod counted;
mod datagram;
pub(crate) mod dial;
mod dns;
mod echo;
mod event;
mod forward;
mod limits;
mod opening;
mod packet;
mod record;
mod splice;
mod tcp;
mod telling;
mod udp;
mod way;

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Instant};

use tokio::{sync::mpsc, task::JoinSet, time::timeout};

pub(crate) use self::limits::SERVER_CONNECTIONS;
use self::packet::Datagrams;
pub use self::{
    address::{ClientAddr, OrigDst},
    counted::Counted,
    event::{End, Event, Moved, Question, Request, What},
    forward::{Answer, Forwarder, Heard, Query, Resolve, Resolver, Servers},
    way::{Grant, Inspected, Inspection, Inspector, Way},
};
pub use crate::{dns::Transport, policy::Protocol};
use crate::{
    namespace::{Addressing, Doors, Holder, Raw},
    policy::{Allowed, Denied},
};

/// Whether a guest may go there. Asked once for each connection, flow and echo, before anything leaves the host.
pub type Decide = dyn Fn(Protocol, OrigDst) -> Result<Grant, Denied> + Send + Sync;

/// What a gateway goes by.
pub struct Settings {
    /// The one decision.
    pub decide: Arc<Decide>,
    /// Who carries what is to be inspected. Without one, that fails.
    pub inspector: Option<Arc<dyn Inspector>>,
    /// Who answers DNS queries.
    pub resolver: Arc<dyn Resolver>,
    /// Who hears what happened. Called from the gateway's tasks: it must not block.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    /// The sandbox's link.
    pub addressing: Addressing,
}

/// A gateway at work.
#[derive(Debug)]
pub struct Gateway {
    tasks: JoinSet<()>,
    /// Closed when nothing is left of what the tasks have started.
    ended: mpsc::Receiver<Infallible>,
}

/// What all its tasks share.
struct Shared {
    settings: Settings,
    holder: Holder,
    /// What sends datagrams to the guest where the holder makes no sockets for that.
    datagrams: Option<Datagrams>,
    /// Kept by all that is under way.
    alive: mpsc::Sender<Infallible>,
}

impl Gateway {
    /// Start serving. To be called on a runtime; one thread is enough for it.
    ///
    /// # Errors
    /// If the runtime cannot watch the sockets.
    pub fn start(doors: Doors, holder: Holder, settings: Settings) -> io::Result<Self> {
        limits::lift_descriptor_limit();
        let Doors { tcp, udp, dns_udp, dns_tcp, raw } = doors;
        let (echoes, datagrams) = match raw {
            Raw::Echo(v4, v6) => (vec![echo::Door::v4(v4)?, echo::Door::v6(v6)?], None),
            Raw::Datagrams(v4, v6) => (Vec::new(), Some(Datagrams::new(v4, v6))),
        };
        let (alive, ended) = mpsc::channel(1);
        let shared = Arc::new(Shared { settings, holder, datagrams, alive });
        let (tcp, dns_tcp) = (tokio::net::TcpListener::from_std(tcp)?, tokio::net::TcpListener::from_std(dns_tcp)?);
        let (udp, dns_udp) = (tokio::net::UdpSocket::from_std(udp)?, tokio::net::UdpSocket::from_std(dns_udp)?);
        let mut tasks = JoinSet::new();
        tasks.spawn(tcp::serve(tcp, Arc::clone(&shared)));
        tasks.spawn(udp::serve(udp, Arc::clone(&shared)));
        tasks.spawn(dns::serve_udp(dns_udp, Arc::clone(&shared)));
        tasks.spawn(dns::serve_tcp(dns_tcp, Arc::clone(&shared)));
        for door in echoes {
            tasks.spawn(echo::serve(door, Arc::clone(&shared)));
        }
        Ok(Self { tasks, ended })
    }

    /// End it, and have told before this is over what was under way: connections, flows, and their requests.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
        // What the tasks had started is cancelled now, but the runtime may not have got to it yet. Nothing is ever sent.
        let _ = timeout(limits::END_DEADLINE, self.ended.recv()).await;
    }
}

impl Shared {
    fn decide(&self, protocol: Protocol, destination: OrigDst) -> Result<Grant, End> {
        (self.settings.decide)(protocol, destination).map_err(End::Denied)
    }

    fn tell(
        &self,
        (client, destination): (ClientAddr, OrigDst),
        what: What,
        allowed: Option<Allowed>,
        end: End,
        began: Instant,
    ) {
        let (end, took) = (end.bounded(), began.elapsed());
        (self.settings.events)(Event { client, destination, what, allowed, end, took });
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        let Addressing { gateway4, gateway6, .. } = self.settings.addressing;
        address == IpAddr::V4(gateway4) || address == IpAddr::V6(gateway6)
    }
}
