//! The sockets through which a guest's packets leave the namespace: made inside, used outside.
//!
//! All are *transparent* (ip(7), `IP_TRANSPARENT`): they receive for, and send from, any address. The TCP, UDP and DNS ones
//! serve both families; IPv4 addresses look mapped on them (`::ffff:a.b.c.d`).

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen, setsockopt,
    socket, sockopt,
};

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
    /// Echo requests, and nothing else, with their IPv4 headers.
    pub icmp4: OwnedFd,
    /// Echo requests and neighbour discovery, without headers.
    pub icmp6: OwnedFd,
}

impl Doors {
    pub(super) const COUNT: usize = 6;

    /// In the namespace: open all of them. The link's addresses need not be there yet.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            tcp: tcp(PORT)?.into(),
            udp: udp(PORT)?.into(),
            dns_udp: udp(DNS_PORT)?.into(),
            dns_tcp: tcp(DNS_PORT)?.into(),
            icmp4: icmp4()?,
            icmp6: icmp6()?,
        })
    }

    pub(super) fn into_descriptors(self) -> [OwnedFd; Self::COUNT] {
        [self.tcp.into(), self.udp.into(), self.dns_udp.into(), self.dns_tcp.into(), self.icmp4, self.icmp6]
    }

    /// The reverse of `into_descriptors`.
    pub(super) fn from_descriptors([tcp, udp, dns_udp, dns_tcp, icmp4, icmp6]: [OwnedFd; Self::COUNT]) -> Self {
        Self { tcp: tcp.into(), udp: udp.into(), dns_udp: dns_udp.into(), dns_tcp: dns_tcp.into(), icmp4, icmp6 }
    }
}

/// A socket that answers the guest at `to` from the address `from`, and receives what else the guest sends there.
///
/// The redirection prefers connected sockets, so only the first datagrams of a flow come in by the common door.
pub(super) fn reply_socket(from: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = transparent(family, SockType::Datagram)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

fn tcp(port: u16) -> io::Result<OwnedFd> {
    let fd = wildcard(SockType::Stream, port)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

fn udp(port: u16) -> io::Result<OwnedFd> {
    let fd = wildcard(SockType::Datagram, port)?;
    setsockopt(&fd, sockopt::Ipv4OrigDstAddr, &true)?;
    setsockopt(&fd, sockopt::Ipv6OrigDstAddr, &true)?;
    Ok(fd)
}

fn wildcard(kind: SockType, port: u16) -> io::Result<OwnedFd> {
    let fd = transparent(AddressFamily::Inet6, kind)?;
    setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?;
    Ok(fd)
}

fn transparent(family: AddressFamily, kind: SockType) -> io::Result<OwnedFd> {
    let fd = socket(family, kind, flags(), None)?;
    // One switch for both families.
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    Ok(fd)
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
