//! A range of addresses: all that begin with the same bits (CIDR, RFC 4632 and RFC 4291, section 2.3).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address and how many of its leading bits count; the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpNetwork {
    address: IpAddr,
    prefix: u8,
}

impl IpNetwork {
    /// All addresses that share `prefix` bits with `address`. IPv4 in IPv6's clothes becomes IPv4.
    ///
    /// `None` if the prefix is longer than the address or the address has bits beyond it.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        if prefix > width(address) || bits(address) & !mask(prefix, width(address)) != 0 {
            return None;
        }
        match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(inner)) if prefix >= 96 => {
                Some(Self { address: inner.into(), prefix: prefix - 96 })
            }
            _ => Some(Self { address, prefix }),
        }
    }

    /// The one address.
    #[must_use]
    pub fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: width(address) }
    }

    /// The network of `prefix` bits that `address` is in; a prefix longer than the address means the address alone.
    #[must_use]
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(width(address));
        let bits = bits(address) & mask(prefix, width(address));
        let address = match address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or_default()).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        };
        Self { address, prefix }
    }

    /// Whether `address` is in it; an IPv4 address in IPv6's clothes counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.address.is_ipv4() == address.is_ipv4()
            && bits(address) & mask(self.prefix, width(address)) == bits(self.address)
    }

    /// Whether it is one address only.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.prefix == width(self.address)
    }

    /// Whether it is of IPv6, and so in need of brackets before a port.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// `prefix` ones and then zeros, `width` bits in all.
fn mask(prefix: u8, width: u8) -> u128 {
    let all = u128::MAX >> (128 - width);
    all ^ all.checked_shr(prefix.into()).unwrap_or(0)
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        if self.is_single() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}
