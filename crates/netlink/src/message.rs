//! The messages as bytes: a header, a fixed part, and attributes (linux/netlink.h, linux/rtnetlink.h).

use std::net::IpAddr;

use rustix::{io::Errno, net::AddressFamily};

use crate::Link;

const REQUEST_WITH_ACK: u16 = 0x1 | 0x4;
const REPLACE: u16 = 0x100 | 0x400;
const CREATE: u16 = 0x200 | 0x400;
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DELETE_LINK: u16 = 17;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
// linux/if_link.h, linux/if_addr.h
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u8 = 2;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const RT_TABLE_UNSPEC: u8 = 0;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
// linux/fib_rules.h
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FR_ACT_TO_TBL: u8 = 1;

/// Before the rules of VPNs, which begin at the end (32765), after the host's own addresses (0).
const RULE_PRIORITY: u32 = 100;
const IFF_UP: u32 = 1;

/// An nlmsghdr and what follows it.
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn set_up(Link(index): Link, mtu: Option<u16>) -> Self {
        let mut message = Self::new(NEW_LINK, 0);
        // ifinfomsg: family, padding, type; index; flags and which of them are meant.
        message.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&IFF_UP.to_ne_bytes()).bytes(&IFF_UP.to_ne_bytes());
        if let Some(mtu) = mtu {
            message.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        message
    }

    pub(crate) fn add_address(Link(index): Link, address: IpAddr, prefix: u8) -> Self {
        let mut message = Self::new(NEW_ADDRESS, CREATE);
        // ifaddrmsg: family, prefix, flags, scope; index.
        message.bytes(&[family(address.is_ipv6()), prefix, IFA_F_NODAD, 0]).bytes(&index.to_ne_bytes());
        let octets = octets(address);
        message.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets);
        message
    }

    pub(crate) fn default_route(gateway: IpAddr) -> Self {
        let mut message = Self::route(gateway.is_ipv6(), RT_SCOPE_UNIVERSE, RTN_UNICAST, REPLACE);
        message.attribute(RTA_GATEWAY, &octets(gateway));
        message
    }

    pub(crate) fn all_local(Link(loopback): Link, ipv6: bool) -> Self {
        let mut message = Self::route(ipv6, RT_SCOPE_HOST, RTN_LOCAL, CREATE);
        message.attribute(RTA_OIF, &loopback.to_ne_bytes());
        message
    }

    pub(crate) fn rename(Link(index): Link, name: &str) -> Self {
        let mut message = Self::new(NEW_LINK, 0);
        message.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&[0; 8]);
        // With the zero at its end, and more of them up to the alignment.
        let mut name = name.as_bytes().to_vec();
        name.resize((name.len() + 1).next_multiple_of(4), 0);
        message.attribute(IFLA_IFNAME, &name);
        message
    }

    pub(crate) fn delete_link(Link(index): Link) -> Self {
        let mut message = Self::new(DELETE_LINK, 0);
        message.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&[0; 8]);
        message
    }

    /// An address that leads nowhere.
    pub(crate) fn add_lone_address(link: Link, address: IpAddr) -> Self {
        let mut message = Self::add_address(link, address, bits(address));
        message.attribute(IFA_FLAGS, &(IFA_F_NOPREFIXROUTE | u32::from(IFA_F_NODAD)).to_ne_bytes());
        message
    }

    /// What has the mark goes by the table of the same number; or no longer.
    pub(crate) fn mark_rule(mark: u32, ipv6: bool, add: bool) -> Self {
        let (kind, flags) = if add { (NEW_RULE, CREATE) } else { (DELETE_RULE, 0) };
        let mut message = Self::new(kind, flags);
        // fib_rule_hdr: family, lengths of destination and source, tos, table, two reserved, action; flags.
        message.bytes(&[family(ipv6), 0, 0, 0, RT_TABLE_UNSPEC, 0, 0, FR_ACT_TO_TBL]).bytes(&[0; 4]);
        message
            .attribute(FRA_PRIORITY, &RULE_PRIORITY.to_ne_bytes())
            .attribute(FRA_FWMARK, &mark.to_ne_bytes())
            .attribute(FRA_FWMASK, &u32::MAX.to_ne_bytes())
            .attribute(FRA_TABLE, &mark.to_ne_bytes());
        message
    }

    /// In a table of its own, every address is this machine's; or no longer.
    pub(crate) fn all_local_in(table: u32, Link(loopback): Link, ipv6: bool, add: bool) -> Self {
        let (kind, flags) = if add { (NEW_ROUTE, CREATE) } else { (DELETE_ROUTE, 0) };
        let mut message = Self::new(kind, flags);
        message
            .bytes(&[family(ipv6), 0, 0, 0, RT_TABLE_UNSPEC, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL])
            .bytes(&[0; 4]);
        message.attribute(RTA_TABLE, &table.to_ne_bytes()).attribute(RTA_OIF, &loopback.to_ne_bytes());
        message
    }

    /// In a table of its own, an address is at the other end of a link.
    pub(crate) fn at_link_in(table: u32, Link(index): Link, address: IpAddr) -> Self {
        let mut message = Self::new(NEW_ROUTE, CREATE);
        let (family, bits) = (family(address.is_ipv6()), bits(address));
        message.bytes(&[family, bits, 0, 0, RT_TABLE_UNSPEC, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST]).bytes(&[0; 4]);
        message
            .attribute(RTA_TABLE, &table.to_ne_bytes())
            .attribute(RTA_DST, &octets(address))
            .attribute(RTA_OIF, &index.to_ne_bytes());
        message
    }

    fn route(ipv6: bool, scope: u8, kind: u8, flags: u16) -> Self {
        let mut message = Self::new(NEW_ROUTE, flags);
        // rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type; flags.
        message.bytes(&[family(ipv6), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, kind]).bytes(&[0; 4]);
        message
    }

    fn new(kind: u16, flags: u16) -> Self {
        let mut message = Self(Vec::with_capacity(64));
        // nlmsghdr: length (see `finish`), type, flags, sequence number, port.
        message
            .bytes(&[0; 4])
            .bytes(&kind.to_ne_bytes())
            .bytes(&(REQUEST_WITH_ACK | flags).to_ne_bytes())
            .bytes(&[0; 8]);
        message
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// All values are whole multiples of the alignment, 4 bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes(&length.to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(value)
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// What the kernel's answer says.
pub(crate) fn outcome(answer: &[u8]) -> Result<(), Errno> {
    // nlmsghdr, then nlmsgerr: a negative errno, 0 for an acknowledgement.
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let errno = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, errno) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(errno)) => Err(Errno::from_raw_os_error(-errno)),
        _ => Err(Errno::BADMSG),
    }
}

/// As these messages have it, in a byte.
fn family(ipv6: bool) -> u8 {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    family.as_raw().to_ne_bytes()[0]
}

/// All of an address.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let answer = |kind: u16, errno: i32| {
            [&36_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &errno.to_ne_bytes(), &[0; 16]].concat()
        };
        assert!(outcome(&answer(ERROR, 0)).is_ok());
        assert_eq!(outcome(&answer(ERROR, -17)), Err(Errno::EXIST));
        for unreadable in [&answer(NEW_LINK, 0)[..], &answer(ERROR, 0)[..18], &[]] {
            assert_eq!(outcome(unreadable), Err(Errno::BADMSG));
        }
    }

    #[test]
    fn messages_say_how_long_they_are() {
        let one = Link(1);
        for message in [
            Message::set_up(one, Some(1500)),
            Message::add_address(one, IpAddr::from([10, 0, 0, 1]), 24),
            Message::add_address(one, "fd00::1".parse().unwrap(), 64),
            Message::default_route("fd00::1".parse().unwrap()),
            Message::all_local(one, false),
            Message::rename(one, "fc-0123abcd"),
            Message::rename(one, "fc-0123456789a"),
            Message::delete_link(one),
            Message::add_lone_address(one, IpAddr::from([192, 0, 0, 8])),
            Message::mark_rule(7, true, true),
            Message::all_local_in(7, one, false, false),
            Message::at_link_in(7, one, "fd00::2".parse().unwrap()),
        ] {
            let bytes = message.finish();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(bytes[..4], u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        }
    }
}
