//! The sockets through which a guest's packets leave the namespace: made inside, used outside.
//!
//! Among the host's own links they are bound to the guest's, so that nobody else reaches them and those of different guests do not
//! meet, and have its mark, by which what they send finds it.
//!
//! All are *transparent* (ip(7), `IP_TRANSPARENT`): they receive for, and send from, any address. The TCP, UDP and DNS ones
//! serve both families; IPv4 addresses look mapped on them (`::ffff:a.b.c.d`).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use matchlock_netlink::HostLink;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen, setsockopt,
    socket, sockopt,
};

use super::link;

/// Where all TCP and UDP goes that is not DNS. Any port would do, for nothing else listens in the namespace.
pub(super) const PORT: u16 = 7000;
const DNS_PORT: u16 = 53;

/// Connections that wait to be accepted: what a guest may open at once while the gateway is busy.
const BACKLOG: i32 = 1024;

/// Where a guest's packets arrive.
#[derive(Debug)]
pub struct Doors {
    /// All TCP but DNS. The local address of an accepted connection is the one that the guest wanted.
    pub tcp: TcpListener,
    /// Datagrams that no flow's own socket takes, with their original destination.
    pub udp: UdpSocket,
    /// DNS over UDP, to whatever server.
    pub dns_udp: UdpSocket,
    /// DNS over TCP, to whatever server.
    pub dns_tcp: TcpListener,
    /// Two more, for packets.
    pub raw: Raw,
}

/// Sockets for whole packets, one for each family.
#[derive(Debug)]
pub enum Raw {
    /// In a namespace: where echo requests arrive, and nothing else for IPv4, with its headers; for IPv6 neighbour discovery, too,
    /// without headers.
    Echo(OwnedFd, OwnedFd),
    /// On a link of the host's: what sends datagrams of UDP from any address and port. Bound sockets could not, since the host's
    /// own servers have such ports. Nothing arrives there, and the kernel would answer echo requests itself.
    Datagrams(OwnedFd, OwnedFd),
}

impl Doors {
    pub(super) const COUNT: usize = 6;

    /// Open all of them: in the namespace, or on a link of the host's, which has to be there, with ports that are free. The link's
    /// addresses need not be there yet.
    pub(super) fn open(link: Option<&HostLink>) -> io::Result<Self> {
        let port = |port| if link.is_some() { 0 } else { port };
        Ok(Self {
            tcp: tcp(link, port(PORT))?.into(),
            udp: udp(link, port(PORT))?.into(),
            dns_udp: udp(link, port(DNS_PORT))?.into(),
            dns_tcp: tcp(link, port(DNS_PORT))?.into(),
            raw: match link {
                None => Raw::Echo(icmp4()?, icmp6()?),
                Some(link) => Raw::Datagrams(
                    datagrams(link, AddressFamily::Inet, NOT_HERE4.into())?,
                    datagrams(link, AddressFamily::Inet6, NOT_HERE6.into())?,
                ),
            },
        })
    }

    pub(super) fn into_descriptors(self) -> [OwnedFd; Self::COUNT] {
        let (Raw::Echo(raw4, raw6) | Raw::Datagrams(raw4, raw6)) = self.raw;
        [self.tcp.into(), self.udp.into(), self.dns_udp.into(), self.dns_tcp.into(), raw4, raw6]
    }

    /// The reverse of `into_descriptors`, of the one kind of raw sockets or the other.
    pub(super) fn from_descriptors(
        [tcp, udp, dns_udp, dns_tcp, raw4, raw6]: [OwnedFd; Self::COUNT],
        raw: fn(OwnedFd, OwnedFd) -> Raw,
    ) -> Self {
        let (tcp, udp, dns_udp, dns_tcp) = (tcp.into(), udp.into(), dns_udp.into(), dns_tcp.into());
        Self { tcp, udp, dns_udp, dns_tcp, raw: raw(raw4, raw6) }
    }
}

/// In a namespace: a socket that answers the guest at `to` from the address `from`, and receives what else the guest sends there.
///
/// The redirection prefers connected sockets, so only the first datagrams of a flow come in by the common door.
pub(super) fn reply_socket(from: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = transparent(None, family, SockType::Datagram)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

fn tcp(link: Option<&HostLink>, port: u16) -> io::Result<OwnedFd> {
    let fd = wildcard(link, SockType::Stream, port)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

fn udp(link: Option<&HostLink>, port: u16) -> io::Result<OwnedFd> {
    let fd = wildcard(link, SockType::Datagram, port)?;
    setsockopt(&fd, sockopt::Ipv4OrigDstAddr, &true)?;
    setsockopt(&fd, sockopt::Ipv6OrigDstAddr, &true)?;
    Ok(fd)
}

fn wildcard(link: Option<&HostLink>, kind: SockType, port: u16) -> io::Result<OwnedFd> {
    let fd = transparent(link, AddressFamily::Inet6, kind)?;
    setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?;
    Ok(fd)
}

fn transparent(link: Option<&HostLink>, family: AddressFamily, kind: SockType) -> io::Result<OwnedFd> {
    let fd = socket(family, kind, flags(), None)?;
    tie(&fd, link)?;
    // One switch for both families.
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    Ok(fd)
}

fn tie(fd: &OwnedFd, link: Option<&HostLink>) -> io::Result<()> {
    if let Some(link) = link {
        setsockopt(fd, sockopt::BindToDevice, &link.name().into())?;
        setsockopt(fd, sockopt::Mark, &link.mark())?;
    }
    Ok(())
}

fn flags() -> SockFlag {
    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK
}

fn icmp4() -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Inet, SockType::Raw, flags(), SockProtocol::Icmp)?;
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    Ok(fd)
}

fn icmp6() -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Inet6, SockType::Raw, flags(), SockProtocol::IcmpV6)?;
    setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
    Ok(fd)
}

/// A raw socket of UDP gets a copy of every datagram, unless it is bound to where none is sent ("Discard-Only", RFC 6666; the dummy
/// of `link.rs`).
const NOT_HERE4: Ipv4Addr = link::DUMMY;
const NOT_HERE6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

fn datagrams(link: &HostLink, family: AddressFamily, not_here: IpAddr) -> io::Result<OwnedFd> {
    let fd = socket(family, SockType::Raw, flags(), SockProtocol::Udp)?;
    tie(&fd, Some(link))?;
    // Each family has its own switch here.
    match family {
        AddressFamily::Inet6 => rustix::net::sockopt::set_ipv6_freebind(&fd, true)?,
        _ => setsockopt(&fd, sockopt::IpTransparent, &true)?,
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(not_here, 0)))?;
    Ok(fd)
}
