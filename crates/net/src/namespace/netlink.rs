//! Links, addresses and routes by rtnetlink(7): the six messages that a sandbox's namespace needs, one after the other.
//!
//! By hand, for the whole of it is shorter than the use of a library that brings an executor of its own; `ip` would be a
//! process per line.

use std::{io, net::IpAddr};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice::name_to_index, recv, send, socket_with,
    },
};

use super::{Addressing, Error, LINK};

// linux/netlink.h
const REQUEST_WITH_ACK: u16 = 0x1 | 0x4;
const CREATE: u16 = 0x200 | 0x400;
const ERROR: u16 = 2;
// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const IFF_UP: u32 = 1;

/// Set both links up and make every address of the world one of the namespace's own, except the guest's.
///
/// The routes are what turns any destination into a delivery to a local socket: they are less specific than the link's own
/// network, by which answers go to the guest.
pub(super) fn configure(a: &Addressing) -> Result<(), Error> {
    let family = AddressFamily::NETLINK;
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::step("open a netlink socket", &e.into()))?;
    let index = |name| name_to_index(&socket, name).map_err(|e| Error::step(&format!("find {name}"), &e.into()));
    let (lo, link) = (index("lo")?, index(LINK)?);
    let mut steps = vec![
        ("set lo up", link_up(lo, None)),
        ("set the link up", link_up(link, Some(a.mtu))),
        ("give the link its IPv4 address", address(link, a.gateway4.into(), a.prefix4)),
        ("route IPv4 to the gateway", local_route(lo, AddressFamily::INET)),
    ];
    if a.carries_ipv6() {
        steps.extend([
            ("give the link its IPv6 address", address(link, a.gateway6.into(), a.prefix6)),
            ("route IPv6 to the gateway", local_route(lo, AddressFamily::INET6)),
        ]);
    }
    for (what, message) in steps {
        ask(&socket, &message.finish()).map_err(|e| Error::step(what, &e))?;
    }
    Ok(())
}

fn link_up(index: u32, mtu: Option<u16>) -> Message {
    let mut message = Message::new(NEW_LINK, 0);
    // ifinfomsg: family, padding, type; index; flags and which of them are meant.
    message.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&IFF_UP.to_ne_bytes()).bytes(&IFF_UP.to_ne_bytes());
    if let Some(mtu) = mtu {
        message.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
    }
    message
}

fn address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let mut message = Message::new(NEW_ADDRESS, CREATE);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // ifaddrmsg: family, prefix, flags, scope; index. Nobody else can have the address, so nobody is asked.
    message.bytes(&[number(family), prefix, IFA_F_NODAD, 0]).bytes(&index.to_ne_bytes());
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    message.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets);
    message
}

fn local_route(lo: u32, family: AddressFamily) -> Message {
    let mut message = Message::new(NEW_ROUTE, CREATE);
    // rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type; flags.
    message.bytes(&[number(family), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL]).bytes(&[0; 4]);
    message.attribute(RTA_OIF, &lo.to_ne_bytes());
    message
}

/// As these messages have it, in a byte.
fn number(family: AddressFamily) -> u8 {
    family.as_raw().to_ne_bytes()[0]
}

/// An nlmsghdr and what follows it.
struct Message(Vec<u8>);

impl Message {
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

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Send a message and wait for the kernel's word on it, which it has ready when `send` returns.
fn ask(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    send(socket, message, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) = recv(socket, &mut answer, RecvFlags::empty())?;
    // nlmsghdr, then nlmsgerr: a negative errno, 0 for an acknowledgement.
    let kind = answer[..length].get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let errno = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, errno) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
