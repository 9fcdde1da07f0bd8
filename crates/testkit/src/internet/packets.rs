//! Which packets came by: every packet, whoever may have sent it and whether anybody listens for it.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket};
use rustix::event::{PollFd, PollFlags, poll};

/// As much of a packet as says where it goes.
const HEAD: usize = 512;

// linux/if_ether.h, linux/if_packet.h
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const OUTGOING: u8 = 4;

// IANA, protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Where packets of one kind went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Packet {
    /// Of IP.
    Ip {
        /// The protocol's number.
        protocol: u8,
        /// The address.
        to: IpAddr,
        /// The port, where the protocol has ports.
        port: u16,
    },
    /// Of something else: the type of its Ethernet frame.
    Other(u16),
}

/// Sees all packets that arrive at one link.
#[derive(Debug)]
pub(super) struct Packets {
    socket: OwnedFd,
    link: usize,
    seen: Mutex<BTreeSet<Packet>>,
}

impl Packets {
    /// Watch a link of the calling thread's namespace from now on.
    pub(super) fn watch(link: &str) -> Result<Arc<Self>> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
        let link = rustix::net::netdevice::name_to_index(&socket, link).with_context(|| link.to_owned())?;
        let packets = Arc::new(Self { socket, link: usize::try_from(link)?, seen: Mutex::default() });
        let watching = Arc::clone(&packets);
        std::thread::spawn(move || {
            while poll(&mut [PollFd::new(&watching.socket, PollFlags::IN)], None).is_ok() {
                watching.look();
            }
        });
        Ok(packets)
    }

    /// Those that have arrived since the last call, whichever thread has looked at them.
    pub(super) fn take(&self) -> BTreeSet<Packet> {
        self.look();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut head = [0; HEAD];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut head) {
            if let Some(from) = from
                && from.ifindex() == self.link
                && from.pkttype() != OUTGOING
                && let Some(packet) = read(u16::from_be(from.protocol()), &head[..length])
            {
                seen.insert(packet);
            }
        }
    }
}

/// What it is, unless it is the kernels' own finding of each other.
fn read(kind: u16, packet: &[u8]) -> Option<Packet> {
    let port = |at: usize| packet.get(at + 2..at + 4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    match (kind, packet) {
        (ARP, _) => None,
        (IPV4, [first, ..]) if packet.len() >= 20 => {
            let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]).into();
            let (protocol, data) = (packet[9], usize::from(first & 15) * 4);
            Some(Packet::Ip { protocol, to, port: if matches!(protocol, TCP | UDP) { port(data) } else { 0 } })
        }
        (IPV6, _) if packet.len() >= 40 => {
            let to: [u8; 16] = packet[24..40].try_into().ok()?;
            let (mut protocol, mut data) = (packet[6], 40);
            // Hop-by-hop options, routing, destination options (RFC 8200, section 4).
            while let (0 | 43 | 60, Some([next, length])) = (protocol, packet.get(data..data + 2)) {
                (protocol, data) = (*next, data + usize::from(*length) * 8 + 8);
            }
            // Neighbour discovery and multicast listeners (RFC 4861, RFC 3810).
            if protocol == ICMPV6 && matches!(packet.get(data), Some(130..=137 | 143)) {
                return None;
            }
            let port = if matches!(protocol, TCP | UDP) { port(data) } else { 0 };
            Some(Packet::Ip { protocol, to: Ipv6Addr::from(to).into(), port })
        }
        _ => Some(Packet::Other(kind)),
    }
}

/// `tcp 93.184.216.34:443`, `icmp 10.0.0.5`, `protocol 47 93.184.216.34`, `frame 0x8100`.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { protocol: protocol @ (TCP | UDP), to, port } => {
                let name = if *protocol == TCP { "tcp" } else { "udp" };
                write!(f, "{name} {}", std::net::SocketAddr::new(*to, *port))
            }
            Self::Ip { protocol: ICMP | ICMPV6, to, .. } => write!(f, "icmp {to}"),
            Self::Ip { protocol, to, .. } => write!(f, "protocol {protocol} {to}"),
            Self::Other(kind) => write!(f, "frame {kind:#06x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_say_where_they_go() {
        let mut packet = [0; 40];
        (packet[0], packet[9], packet[22], packet[23]) = (0x45, TCP, 1, 0xbb);
        packet[16..20].copy_from_slice(&[93, 184, 216, 34]);
        assert_eq!(read(IPV4, &packet).unwrap().to_string(), "tcp 93.184.216.34:443");
        packet[9] = 47;
        assert_eq!(read(IPV4, &packet).unwrap().to_string(), "protocol 47 93.184.216.34");
        let mut packet = [0; 64];
        // Hop-by-hop options before UDP.
        (packet[6], packet[40], packet[51]) = (0, UDP, 53);
        packet[39] = 1;
        assert_eq!(read(IPV6, &packet).unwrap().to_string(), "udp [::1]:53");
        (packet[40], packet[48]) = (ICMPV6, 135);
        assert_eq!(read(IPV6, &packet), None);
        packet[48] = 128;
        assert_eq!(read(IPV6, &packet).unwrap().to_string(), "icmp ::1");
        assert_eq!(read(0x8100, &packet).unwrap().to_string(), "frame 0x8100");
        assert_eq!(read(ARP, &packet), None);
    }
}
