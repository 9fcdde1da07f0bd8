//! A sandbox's private network: a namespace in which there is a link to the guest, rules, and the sockets of the gateway.
//!
//! ```text
//!  guest eth0 ─ virtio ─ VMM ─ TAP fd ─┤ fc-guest              the sandbox's namespace              ├─ no other link
//!                                      │    │
//!                                      │ arrive: which socket   input: may it get there, policy drop
//!                                      │    ├─ any TCP ──────── doors.tcp ────┐
//!                                      │    ├─ any UDP ──────── doors.udp ────┤ descriptors, passed out
//!                                      │    ├─ port 53 ──────── doors.dns_* ──┤ of the namespace
//!                                      │    └─ echo request ─── doors.icmp* ──┘      │
//!                                      └──────────────────────────────────────       │
//!                                                              gateway, in the supervisor ─ the host's sockets
//! ```
//!
//! Every address of the world is *local* in the namespace (one route of type `local` per family), and transparent sockets take
//! what arrives, so the destination that a guest wanted is simply the local address of a connection. Nothing is translated,
//! tracked or forwarded.
//!
//! Called by `sandbox` before a VMM starts: [`create`] starts a holder ([`hold`], this program again), which enters the
//! namespace, makes the TAP and passes it out. That is all a machine needs, which may be made before anybody knows whose it
//! will be. What depends on that, addresses, rules and doors, follows when it is known:
//!
//! ```text
//! create ─> TAP, Unfurnished ─(perhaps to another process)─ furnish(Plan) ─> Doors, Holder
//! ```
//!
//! Where user namespaces are forbidden, and this program has rights in the host's network, the link is among the host's
//! (`host.rs`; why and how, `docs/adr/0008-links-among-the-hosts-own.md`).
//!
//! Invariant: nothing is left on the host. The namespace lives as long as the holder and the descriptors do, and the holder
//! as long as whoever has the other end of its socket, which [`Unfurnished`] and [`Holder`] are.

mod addressing;
mod doors;
mod error;
mod holder;
mod host;
mod link;
mod message;
mod owner;
mod ruleset;
mod tap;

use std::{
    ffi::OsString,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

pub use matchlock_netlink::{HostLink, HostLinkError};

pub use self::{
    addressing::Addressing,
    doors::{Doors, Raw},
    error::Error,
    holder::hold,
    owner::{Furnished, Holder, OnHost, Unfurnished, create},
};

/// The guest's link, as it is called in the namespace. Nobody outside sees it.
const LINK: &str = "fc-guest";

/// What is asked of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The link's addresses and MTU.
    pub addressing: Addressing,
    /// Whether IPv6 is let through to the gateway, or refused so that clients take IPv4 ([`host_has_ipv6`]).
    pub ipv6: bool,
    /// Whether UDP other than DNS is let through to the gateway, or refused so that clients take TCP.
    pub udp: bool,
}

/// How this program is started as a holder.
#[derive(Clone, Debug)]
pub struct HolderCommand {
    /// This program.
    pub program: PathBuf,
    /// What makes it call [`hold`].
    pub arguments: Vec<OsString>,
}

/// Whether the host has a way to the IPv6 internet. Sends nothing.
#[must_use]
pub fn host_has_ipv6() -> bool {
    // A name server of the root (a.root-servers.net): its address will stay, and connecting only looks up the route.
    let global = SocketAddr::from(([0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30], 53));
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(global)).is_ok()
}
