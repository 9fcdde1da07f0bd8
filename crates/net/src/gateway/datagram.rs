//! Datagrams with both their addresses, on the sockets that serve every address at once.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
};

use nix::{
    libc::in6_pktinfo,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg},
};
use rustix::net::RecvFlags;
use tokio::{io::Interest, net::UdpSocket};

use super::{ClientAddr, OrigDst};

/// The next datagram: its length in `buffer`, who sent it, and to whom.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, ClientAddr, OrigDst)> {
    socket.async_io(Interest::READABLE, || try_receive(socket, buffer)).await
}

fn try_receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, ClientAddr, OrigDst)> {
    let mut control = nix::cmsg_space!(nix::libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let destination = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(v4) => {
            let address = u32::from_be(v4.sin_addr.s_addr).into();
            Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
        }
        ControlMessageOwned::Ipv6OrigDstAddr(v6) => {
            let address = v6.sin6_addr.s6_addr.into();
            Some(SocketAddrV6::new(address, u16::from_be(v6.sin6_port), 0, 0).into())
        }
        _ => None,
    });
    let client = received.address.and_then(|address| address.as_sockaddr_in6().copied());
    let client = client.map(|address| SocketAddrV6::from(address).into());
    match (client, destination) {
        (Some(client), Some(destination)) => Ok((received.bytes, ClientAddr::new(client), OrigDst::new(destination))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Send from the address that the guest wrote to. The port is the socket's own.
pub(super) async fn send(socket: &UdpSocket, bytes: &[u8], from: OrigDst, to: ClientAddr) -> io::Result<()> {
    let source = in6_pktinfo { ipi6_addr: nix::libc::in6_addr { s6_addr: mapped(from.get().ip()) }, ipi6_ifindex: 0 };
    let (ip, port) = (to.get().ip(), to.get().port());
    let to = SockaddrIn6::from(SocketAddrV6::new(mapped(ip).into(), port, 0, 0));
    let (parts, control) = ([IoSlice::new(bytes)], [ControlMessage::Ipv6PacketInfo(&source)]);
    socket
        .async_io(Interest::WRITABLE, || {
            sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to)).map_err(io::Error::from)
        })
        .await?;
    Ok(())
}

/// As an address of a socket that serves both families.
fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A socket of the host that speaks with `peer` only.
pub(super) async fn connected(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(peer).await?;
    Ok(socket)
}

/// Wait until there is a datagram, or word that nobody takes ours: readiness to read alone does not tell of errors.
pub(super) async fn readable(socket: &UdpSocket) -> io::Result<()> {
    socket.ready(Interest::READABLE | Interest::ERROR).await.map(drop)
}

/// The length of the datagram that is there, as [`readable`] has it.
pub(super) fn try_recv(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    let mut recv = || Ok(rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?.0);
    match socket.try_io(Interest::READABLE, &mut recv) {
        // The runtime tries, and forgets, one readiness at a time.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.try_io(Interest::ERROR, recv),
        outcome => outcome,
    }
}
