//! What kind of address an address is. Only those of the public Internet may be reached without having been named.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::IpNetwork;

/// What an address means to a host that dials it. Every address is of exactly one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressClass {
    /// Somebody's on the Internet.
    Public,
    /// RFC 1918.
    Private,
    /// Behind a carrier's NAT (RFC 6598).
    Shared,
    /// IPv6 within an organisation (RFC 4193; site-local, RFC 3879).
    UniqueLocal,
    /// The machine that the gateway runs on: loopback and its own addresses.
    HostItself,
    /// One that a cloud answers at with what only its machines may know, credentials above all.
    CloudMetadata,
    /// Valid on one link only (RFC 3927, RFC 4291).
    LinkLocal,
    /// Leads to an IPv4 address inside it by way of somebody's relay (6to4, Teredo, local NAT64, IPv4-compatible).
    Tunnel,
    /// For examples (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// For measuring devices (RFC 2544).
    Benchmarking,
    /// To many at once.
    Multicast,
    /// To all of a link.
    Broadcast,
    /// None: a socket takes it for "here" (RFC 1122, section 3.2.1.3).
    Unspecified,
    /// For protocols themselves, or for nothing yet (the IANA special-purpose registries).
    Reserved,
}

use AddressClass::{
    Benchmarking, Broadcast, CloudMetadata, Documentation, HostItself, LinkLocal, Multicast, Private, Public, Reserved,
    Shared, Tunnel, UniqueLocal, Unspecified,
};

/// Where clouds answer their machines. These come first, whatever range they are in.
const METADATA_V4: &[[u8; 4]] = &[
    [169, 254, 169, 254], // nearly all
    [169, 254, 169, 123], // Amazon: time
    [169, 254, 169, 253], // Amazon: DNS
    [169, 254, 170, 2],   // Amazon ECS: credentials
    [169, 254, 170, 23],  // Amazon EKS: credentials
    [169, 254, 0, 23],    // Tencent
    [100, 100, 100, 200], // Alibaba
    [192, 0, 0, 192],     // Oracle
    [168, 63, 129, 16],   // Azure: the machine's agent
];

const METADATA_V6: &[[u16; 8]] = &[
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23],            // Amazon EKS: credentials
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123],           // Amazon: time
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253],           // Amazon: DNS
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],           // Amazon
    [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],            // Google
    [0xfd00, 0xc1, 0, 0, 0, 0xa9fe, 0xa9fe, 0xa9fe], // Oracle
];

/// Ranges of IPv4 that are not the public Internet (IANA IPv4 Special-Purpose Address Registry); the first that fits decides.
const V4: &[([u8; 4], u8, AddressClass)] = &[
    ([0, 0, 0, 0], 8, Unspecified),
    ([10, 0, 0, 0], 8, Private),
    ([100, 64, 0, 0], 10, Shared),
    ([127, 0, 0, 0], 8, HostItself),
    ([169, 254, 0, 0], 16, LinkLocal),
    ([172, 16, 0, 0], 12, Private),
    ([192, 0, 0, 0], 24, Reserved),
    ([192, 0, 2, 0], 24, Documentation),
    ([192, 88, 99, 0], 24, Tunnel), // the relays of 6to4 (RFC 7526)
    ([192, 168, 0, 0], 16, Private),
    ([198, 18, 0, 0], 15, Benchmarking),
    ([198, 51, 100, 0], 24, Documentation),
    ([203, 0, 113, 0], 24, Documentation),
    ([224, 0, 0, 0], 4, Multicast),
    ([255, 255, 255, 255], 32, Broadcast),
    ([240, 0, 0, 0], 4, Reserved),
];

/// Ranges of IPv6 (IANA IPv6 Special-Purpose Address Registry); the first that fits decides.
const V6: &[([u16; 8], u8, AddressClass)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, Unspecified),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, HostItself),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, Tunnel), // IPv4-compatible (RFC 4291, section 2.5.5.1)
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Tunnel), // NAT64 with a local meaning (RFC 8215)
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, UniqueLocal),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, LinkLocal),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, UniqueLocal),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Multicast),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Tunnel), // Teredo (RFC 4380)
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Documentation),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Benchmarking), // RFC 5180
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Reserved),     // protocols (RFC 2928)
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Tunnel),       // 6to4 (RFC 3056)
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Documentation),
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Public),
    // Nothing else has been given out (RFC 4291, section 2.4).
    ([0, 0, 0, 0, 0, 0, 0, 0], 0, Reserved),
];

/// The prefix below which every NAT64 has all of IPv4 (RFC 6052, section 2.1).
const NAT64: [u16; 8] = [0x64, 0xff9b, 0, 0, 0, 0, 0, 0];

impl AddressClass {
    /// The class of an address by itself; a [`Policy`](super::Policy) knows which addresses are the host's own, too.
    ///
    /// An IPv4 address within an IPv6 one counts as what it is where hosts reach it without a relay (mapped, RFC 4291,
    /// section 2.5.5.2; NAT64, RFC 6052). Through a relay it is never public, and metadata stays metadata.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Whether anybody may be meant to reach it.
    #[must_use]
    pub fn is_public(self) -> bool {
        self == Public
    }

    /// Whether `--allow-private-host` with a *name* opens it where that name's DNS says so: what organisations give their own
    /// machines. Whoever answers for a name could otherwise point it at the host itself or at the cloud's credentials.
    #[must_use]
    pub fn opens_by_name(self) -> bool {
        matches!(self, Private | Shared | UniqueLocal)
    }

    /// Whether a connection can lead there at all, so that `--allow-private-host` with the address itself opens it.
    #[must_use]
    pub fn opens_by_address(self) -> bool {
        !matches!(self, Multicast | Broadcast | Unspecified)
    }
}

fn of_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&address.octets()) {
        return CloudMetadata;
    }
    let fits = |(network, prefix, _): &&([u8; 4], u8, _)| {
        IpNetwork::around(Ipv4Addr::from_octets(*network).into(), *prefix).contains(address.into())
    };
    V4.iter().find(fits).map_or(Public, |(_, _, class)| *class)
}

fn of_v6(address: Ipv6Addr) -> AddressClass {
    if METADATA_V6.contains(&address.segments()) {
        return CloudMetadata;
    }
    if let IpAddr::V4(inner) = delivered_to(address.into()) {
        return of_v4(inner);
    }
    let fits = |(network, prefix, _): &&([u16; 8], u8, _)| {
        IpNetwork::around(Ipv6Addr::from_segments(*network).into(), *prefix).contains(address.into())
    };
    let class = V6.iter().find(fits).map_or(Reserved, |(_, _, class)| *class);
    match class {
        Tunnel if carried(address).into_iter().any(|inner| of_v4(inner) == CloudMetadata) => CloudMetadata,
        class => class,
    }
}

/// Where packets for `address` end up when no relay of somebody else's is asked: the IPv4 address within a mapped one or one
/// below NAT64's prefix.
pub(super) fn delivered_to(address: IpAddr) -> IpAddr {
    let nat64 = IpNetwork::around(Ipv6Addr::from_segments(NAT64).into(), 96);
    match address.to_canonical() {
        IpAddr::V6(address) if nat64.contains(address.into()) => last_v4(address).into(),
        address => address,
    }
}

/// The IPv4 addresses that a tunnelling address may lead to: 6to4's, Teredo's (inverted), and that at the end.
fn carried(address: Ipv6Addr) -> [Ipv4Addr; 3] {
    let last = last_v4(address);
    let [_, a, b, ..] = address.segments();
    [Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b)), Ipv4Addr::from_bits(!last.to_bits()), last]
}

fn last_v4(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// What people call it, to stand after "is".
impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Public => "a public address",
            Private | UniqueLocal => "a private address",
            Shared => "a private address of the provider's network",
            HostItself => "the host itself",
            CloudMetadata => "a cloud metadata address",
            LinkLocal => "an address of the local link",
            Tunnel => "an address that tunnels to another",
            Documentation => "an address for examples",
            Benchmarking => "an address for measurements",
            Multicast => "a multicast address",
            Broadcast => "the broadcast address",
            Unspecified => "an address of no machine",
            Reserved => "a reserved address",
        })
    }
}
