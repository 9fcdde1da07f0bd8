//! The addresses on a sandbox's private link. They are the same in every sandbox: no two can meet.

use std::net::{Ipv4Addr, Ipv6Addr};

use matchlock_netlink::IPV6_MINIMUM_MTU;
use serde::{Deserialize, Serialize};

/// Who is who between guest and gateway, for the namespace and for the guest's own configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressing {
    /// The namespace's end of the link: the guest's default route and resolver.
    pub gateway4: Ipv4Addr,
    /// The guest's address.
    pub guest4: Ipv4Addr,
    /// Length of the IPv4 network's prefix. Short networks hide little of the host's own.
    pub prefix4: u8,
    /// As `gateway4`.
    pub gateway6: Ipv6Addr,
    /// As `guest4`.
    pub guest6: Ipv6Addr,
    /// Length of the IPv6 network's prefix.
    pub prefix6: u8,
    /// The link's MTU at both ends, in bytes.
    pub mtu: u16,
}

impl Addressing {
    /// Whether the link is wide enough for IPv6. Otherwise neither end has an IPv6 address.
    #[must_use]
    pub const fn carries_ipv6(&self) -> bool {
        self.mtu >= IPV6_MINIMUM_MTU
    }
}

impl Default for Addressing {
    fn default() -> Self {
        // "match", in a prefix that nobody routes (RFC 4193).
        let ula = |host| Ipv6Addr::new(0xfd6d, 0x6174, 0x6368, 0, 0, 0, 0, host);
        Self {
            gateway4: Ipv4Addr::new(192, 168, 100, 1),
            guest4: Ipv4Addr::new(192, 168, 100, 2),
            prefix4: 30,
            gateway6: ula(1),
            guest6: ula(2),
            prefix6: 126,
            mtu: 1500,
        }
    }
}
