//! Addresses by role: what wants one of these cannot be handed the other.

use std::{fmt, net::SocketAddr};

use tokio::net::TcpStream;

/// Where the guest wanted to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrigDst(SocketAddr);

/// Where in the guest it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(SocketAddr);

impl OrigDst {
    /// IPv4 in IPv6's clothes becomes IPv4.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(canonical(address))
    }

    /// On a transparent socket, the local address is the one that was asked for.
    pub(super) fn of(accepted: &TcpStream) -> std::io::Result<Self> {
        accepted.local_addr().map(Self::new)
    }

    /// The address itself.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl ClientAddr {
    /// As [`OrigDst::new`].
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(canonical(address))
    }

    /// The address itself.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl fmt::Display for OrigDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
