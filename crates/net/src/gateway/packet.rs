//! Packets made by hand: what raw sockets send to the guest, from whatever address it wrote to.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};

use super::{ClientAddr, OrigDst};

/// UDP's number (RFC 768), and the length of its header: ports, length and sum.
const UDP: u8 = 17;
const HEADER: usize = 8;

/// What sends datagrams, where no socket can have the address and port that they come from.
pub(super) struct Datagrams {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Datagrams {
    /// On raw sockets for UDP.
    pub(super) fn new(v4: OwnedFd, v6: OwnedFd) -> Self {
        Self { v4, v6 }
    }

    /// Send one, or lose it, as on any wire, where there is no room for it.
    pub(super) fn send(&self, payload: &[u8], from: OrigDst, to: ClientAddr) -> io::Result<()> {
        let (from, to) = (from.get(), to.get());
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let length = u16::try_from(HEADER + payload.len()).map_err(too_long)?.to_be_bytes();
        let mut datagram = Vec::with_capacity(HEADER + payload.len());
        for part in [from.port().to_be_bytes(), to.port().to_be_bytes(), length, [0, 0]] {
            datagram.extend_from_slice(&part);
        }
        datagram.extend_from_slice(payload);
        let sum = match checksum(&[&octets(from.ip()), &octets(to.ip()), &[0, UDP], &length, &datagram]) {
            // Which would say that there is none.
            [0, 0] => [0xff, 0xff],
            sum => sum,
        };
        datagram[HEADER - 2..HEADER].copy_from_slice(&sum);
        send(if to.is_ipv4() { &self.v4 } else { &self.v6 }, &datagram, from.ip(), to.ip())
    }
}

/// Send what follows the IP header, without waiting.
pub(super) fn send(fd: &OwnedFd, message: &[u8], from: IpAddr, to: IpAddr) -> io::Result<()> {
    let parts = [IoSlice::new(message)];
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    let send = |control: ControlMessage<'_>| {
        sendmsg(fd.as_raw_fd(), &parts, &[control], MsgFlags::MSG_DONTWAIT, Some(&to)).map(drop)
    };
    match from {
        IpAddr::V4(from) => {
            let source = in_addr { s_addr: u32::from(from).to_be() };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
            send(ControlMessage::Ipv4PacketInfo(&info))
        }
        IpAddr::V6(from) => {
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            send(ControlMessage::Ipv6PacketInfo(&info))
        }
    }?;
    Ok(())
}

/// The sum over these in their order, of which all but the last have an even length (RFC 1071).
pub(super) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
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
    fn sums() {
        // RFC 1071, section 3: the sum is ddf2.
        let numbers = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&[&numbers]), [!0xdd, !0xf2]);
        assert_eq!(checksum(&[&numbers[..2], &numbers[2..]]), [!0xdd, !0xf2]);
        assert_eq!(checksum(&[&[0xff]]), [0x00, 0xff]);
    }
}
