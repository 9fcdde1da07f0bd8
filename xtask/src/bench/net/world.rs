//! The network of the bench: a host, and a client beside it and in two sandboxes.
//!
//! ```text
//!                       ┌ client ───────────────────────────┐   ┌ host ──────────────────────────┐
//!  sandbox: fc-guest ───┤ intercepted  192.168.100.2        │   │ lo  origin, sink, source       │
//!    gateway            │ open         192.168.101.2        │   │     nginx, mitmproxy, gateways │
//!  sandbox: fc-guest ───┤ beside       10.0.0.2  ───────────┼───┤ beside  10.0.0.1               │
//!                       └───────────────────────────────────┘   └────────────────────────────────┘
//! ```
//!
//! All in namespaces that end with the bench. A sandbox's link is its TAP's only in name here: a pair of virtual links takes its
//! place, under its name, so that a packet meets the sandbox's rules and sockets, and no program carries it that would be
//! measured, too.

use std::{fs::File, net::Ipv4Addr, thread};

use anyhow::{Context, Result};
use matchlock_sandbox::net::namespace::Addressing;
use matchlock_testkit::namespace;
use nix::sched::{CloneFlags, setns, unshare};

/// The origin's, and the names it has a certificate for, with the sink's.
pub(super) const ORIGIN: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
pub(super) const ORIGIN_NAME: &str = "origin.test";
/// What takes uploads.
pub(super) const SINK: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 36);
pub(super) const SINK_NAME: &str = "sink.test";
/// What gives bytes without TLS, as seen from the open sandbox.
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 35);
pub(super) const SOURCE_PORT: u16 = 9000;
/// The host, on the link beside the sandboxes.
pub(super) const BESIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const MITMPROXY_PORT: u16 = 8443;

/// The host's namespace.
pub(super) struct World {
    host: File,
}

/// The link of one of the sandboxes.
pub(super) fn addressing(number: u8) -> Addressing {
    let [gateway4, guest4] = [1, 2].map(|end| Ipv4Addr::new(192, 168, 100 + number, end));
    Addressing { gateway4, guest4, ..Addressing::default() }
}

impl World {
    /// Move this process, which has one thread, to the host.
    pub(super) fn enter() -> Result<Self> {
        namespace::enter()?;
        let addresses = [ORIGIN, SINK, SOURCE].map(|address| format!("addr add {address} dev lo\n"));
        namespace::ip(&addresses.concat())?;
        Ok(Self { host: here()? })
    }

    /// Do something on the host.
    pub(super) fn on_host<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.host, work)
    }

    /// Move this thread, which is the process's first, to the client, and link that to the host. `ip` knows a namespace by a process.
    pub(super) fn become_client(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("make the client's namespace")?;
        let pid = std::process::id();
        self.on_host(|| namespace::ip(&format!(
            "link add beside type veth peer name beside netns {pid}\naddr add {BESIDE}/24 dev beside\nlink set beside up\n"
        )))?;
        namespace::ip("link set lo up\nlink set beside up\naddr add 10.0.0.2/24 dev beside\n")
    }
}

/// Link the client, which is the calling thread's namespace, to a sandbox in place of its TAP, by which everything goes to
/// these addresses.
pub(super) fn link(sandbox: &File, name: &str, addressing: &Addressing, to: &[Ipv4Addr]) -> Result<()> {
    let Addressing { gateway4, guest4, prefix4, mtu, .. } = addressing;
    let pid = std::process::id();
    let swap = format!(
        "link set fc-guest down\nlink set fc-guest name tap\naddr flush dev tap\n\
         link add fc-guest mtu {mtu} type veth peer name {name} mtu {mtu} netns {pid}\n\
         addr add {gateway4}/{prefix4} dev fc-guest\nlink set fc-guest up\n"
    );
    inside(sandbox, || namespace::ip(&swap))?;
    let routes = to.iter().map(|to| format!("route add {to} via {gateway4}\n")).collect::<Vec<_>>().concat();
    namespace::ip(&format!("addr add {guest4}/{prefix4} dev {name}\nlink set {name} up\n{routes}"))
}

/// Do something in another namespace.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("enter a namespace")?;
            work()
        };
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn here() -> Result<File> {
    File::open("/proc/thread-self/ns/net").context("open a namespace")
}
