//! ICMP echo: asked of the real host by a ping socket (icmp(7), `ping_group_range`), so that the answer is true.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use nix::{
    errno::Errno,
    libc::in6_pktinfo,
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, SockaddrStorage,
        recvmsg, socket,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UdpSocket,
    task::JoinSet,
    time::timeout,
};

use super::{ClientAddr, End, OrigDst, Protocol, Shared, What, datagram, limits, packet};
use crate::{policy::Allowed, watched::watched};

/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443).
const HEADER: usize = 8;
/// Why there is no socket (`icmp(7)`).
const NO_PING: &str = "net.ipv4.ping_group_range lets no group of this user ping";
/// Longest message that is carried.
const MAX_MESSAGE: usize = 65535;

/// Where echo requests arrive.
pub(super) struct Door {
    socket: AsyncFd<OwnedFd>,
    family: Family,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

struct Request {
    client: IpAddr,
    destination: IpAddr,
    /// The message, from its type on.
    message: Vec<u8>,
}

impl Family {
    const fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The types of a request and of its reply.
    const fn types(self) -> (u8, u8) {
        match self {
            Self::V4 => (8, 0),
            Self::V6 => (128, 129),
        }
    }
}

impl Door {
    pub(super) fn v4(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: watched(socket)?, family: Family::V4 })
    }

    pub(super) fn v6(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: watched(socket)?, family: Family::V6 })
    }

    /// The next request. What else comes in is passed over.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Request> {
        loop {
            let received = self.socket.async_io(Interest::READABLE, |fd| self.try_receive(fd, buffer)).await?;
            let request = received.filter(|r| r.message.len() >= HEADER && r.message[0] == self.family.types().0);
            if let Some(request) = request {
                return Ok(request);
            }
        }
    }

    fn try_receive(&self, fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<Request>> {
        let mut control = nix::cmsg_space!(in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let received =
            recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let length = received.bytes;
        if self.family == Family::V6 {
            let client = received.address.and_then(|a| a.as_sockaddr_in6().map(SockaddrIn6::ip));
            let destination = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
                _ => None,
            });
            let ends = client.zip(destination);
            return Ok(ends.map(|(client, destination)| Request {
                client: client.into(),
                destination: destination.into(),
                message: buffer[..length].to_vec(),
            }));
        }
        Ok(with_header(&buffer[..length]))
    }

    async fn reply(&self, to: &Request, message: &[u8]) -> io::Result<()> {
        let [to_address, from] = [to.client, to.destination];
        self.socket.async_io(Interest::WRITABLE, |fd| packet::send(fd, message, from, to_address)).await
    }
}

/// An IPv4 packet, as raw sockets give it (RFC 791, section 3.1).
fn with_header(packet: &[u8]) -> Option<Request> {
    let address =
        |at: usize| packet.get(at..at + 4)?.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into());
    let header = usize::from(packet.first()? & 0x0f) * 4;
    Some(Request { client: address(12)?, destination: address(16)?, message: packet.get(header..)?.to_vec() })
}

pub(super) async fn serve(door: Door, shared: Arc<Shared>) {
    let door = Arc::new(door);
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut echoes = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = echoes.join_next() => {}
            received = door.receive(&mut buffer), if echoes.len() < limits::ECHOES => {
                let Ok(request) = received else { continue };
                echoes.spawn(answer(Arc::clone(&door), request, Arc::clone(&shared)));
            }
        }
    }
}

async fn answer(door: Arc<Door>, request: Request, shared: Arc<Shared>) {
    let began = Instant::now();
    let [client, destination] = [request.client, request.destination].map(|ip| SocketAddr::new(ip, 0));
    let (client, destination) = (ClientAddr::new(client), OrigDst::new(destination));
    let mut allowed = None;
    let end = match echo(&door, &request, destination, &shared, &mut allowed).await {
        Ok(()) => End::Done,
        Err(end) => end,
    };
    shared.tell((client, destination), What::Echo, allowed, end, began);
}

async fn echo(
    door: &Door,
    request: &Request,
    destination: OrigDst,
    shared: &Shared,
    allowed: &mut Option<Allowed>,
) -> Result<(), End> {
    // The gateway is here: it need not be asked.
    let payload = if shared.is_gateway(request.destination) {
        request.message[HEADER..].to_vec()
    } else {
        *allowed = Some(shared.decide(Protocol::Icmp, destination)?.allowed);
        let socket = ping_socket(Family::of(request.destination))?;
        let asked = timeout(limits::ECHO_DEADLINE, ask(socket, destination.get(), &request.message)).await;
        asked.map_err(io::Error::from).flatten().map_err(|e| failed(&e))?
    };
    let mut reply = [&request.message[..HEADER], &payload].concat();
    (reply[0], reply[1]) = (door.family.types().1, 0);
    checksum(&mut reply, door.family);
    door.reply(request, &reply).await.map_err(|e| failed(&e))
}

fn failed(e: &io::Error) -> End {
    End::Failed(e.to_string())
}

/// One that the kernel sends echo requests from, if this user may.
fn ping_socket(family: Family) -> Result<UdpSocket, End> {
    let (domain, protocol) = match family {
        Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
        Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // A ping socket is one of datagrams; the kernel chooses the identifier and sums up.
    let socket = socket(domain, SockType::Datagram, flags, protocol).map_err(|errno| match errno {
        Errno::EACCES => End::Blocked(NO_PING.to_owned()),
        other => failed(&other.into()),
    })?;
    UdpSocket::from_std(socket.into()).map_err(|e| failed(&e))
}

/// Send a request with the sequence number and payload of `message`, and wait for the payload that comes back.
async fn ask(socket: UdpSocket, destination: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let family = Family::of(destination.ip());
    socket.connect(destination).await?;
    socket.send(message).await?;
    let mut answer = vec![0; message.len()];
    loop {
        datagram::readable(&socket).await?;
        let length = match datagram::try_recv(&socket, &mut answer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            length => length?,
        };
        let same_number = answer[6..HEADER] == message[6..HEADER];
        if length >= HEADER && answer[0] == family.types().1 && same_number {
            answer.truncate(length);
            return Ok(answer.split_off(HEADER));
        }
    }
}

/// The sum over an ICMP message. For IPv6 it covers addresses, too, and the kernel makes it.
fn checksum(message: &mut [u8], family: Family) {
    message[2..4].fill(0);
    if family == Family::V4 {
        let sum = packet::checksum(&[message]);
        message[2..4].copy_from_slice(&sum);
    }
}
