//! DNS queries on their way to the host's resolvers. What they say is for whoever asks to judge.

use std::{
    fs,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{ClientAddr, End, Question, Transport, buffer::with_buffer, datagram, limits};
use crate::policy::Allowed;

/// A message's header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;
const PORT: u16 = 53;
/// What a C library reads of a `resolv.conf`.
const MAX_SERVERS: usize = 3;
/// How often each is asked.
const ROUNDS: usize = 2;

/// What a guest asked.
#[derive(Clone, Debug)]
pub struct Query {
    /// The message, without a length.
    pub message: Vec<u8>,
    /// How it came.
    pub transport: Transport,
    /// Who asked.
    pub client: ClientAddr,
}

/// What the guest is told, and what there is to tell of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For the guest, with the query's id.
    pub message: Vec<u8>,
    /// What it says, if that is known.
    pub question: Option<Question>,
    /// What allowed the name.
    pub allowed: Option<Allowed>,
    /// What became of it.
    pub end: End,
}

/// An [`Answer`] to come. `None`: this is nothing that anybody answers. After an error the guest is told that the server failed.
pub type Resolve<'a> = Pin<Box<dyn Future<Output = io::Result<Option<Answer>>> + Send + 'a>>;

/// Who answers queries: a [`Forwarder`], or what stands before one and judges.
pub trait Resolver: Send + Sync {
    /// The answer to a query.
    fn resolve<'a>(&'a self, query: &'a Query) -> Resolve<'a>;
}

/// What a message is that came from where a server was asked.
#[derive(Clone, Debug)]
pub enum Heard<T> {
    /// Not the server's answer: over UDP, anybody can send.
    Nothing,
    /// It did not fit into a datagram.
    Truncated,
    /// The server will not or cannot; why.
    Failed(String),
    /// The answer.
    Answer(T),
}

/// Which servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// The host's, as its `/etc/resolv.conf` has them at the time: hosts move between networks.
    Host,
    /// These, in this order.
    These(Vec<SocketAddr>),
}

/// Asks servers, one after the other until one answers. As a [`Resolver`], it passes messages as they are, but for their ids.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// Whom it asks.
    pub servers: Servers,
}

impl Resolver for Forwarder {
    fn resolve<'a>(&'a self, query: &'a Query) -> Resolve<'a> {
        Box::pin(async {
            let (Some((theirs, rest)), true) = (query.message.split_first_chunk::<2>(), query.message.len() >= HEADER)
            else {
                return Ok(None);
            };
            // Guests may use ids that can be guessed.
            let [a, b, ..] = getrandom::u32()?.to_ne_bytes();
            let asked = [&[a, b], rest].concat();
            let hear = |answer: &[u8]| match answer {
                [x, y, flags, rest @ ..] if answer.len() >= HEADER && [x, y] == [&a, &b] && flags & 0x80 != 0 => {
                    Heard::Answer([&theirs[..], &[*flags], rest].concat())
                }
                _ => Heard::Nothing,
            };
            let message = self.ask(&asked, query.transport, hear).await?;
            Ok(Some(Answer { message, question: None, allowed: None, end: End::Done }))
        })
    }
}

impl Forwarder {
    /// The first answer to a query that `hear` finds in what servers send. One that is truncated is asked for again, of the
    /// same server over TCP; one that fails, of the next server.
    ///
    /// # Errors
    /// The last server's, if none did.
    pub async fn ask<T: Send>(
        &self,
        query: &[u8],
        transport: Transport,
        hear: impl Fn(&[u8]) -> Heard<T> + Send + Sync,
    ) -> io::Result<T> {
        let servers = self.servers.now();
        let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "no DNS server"));
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            let by_datagram = async {
                match transport {
                    Transport::Udp => by_datagram(*server, query, &hear).await,
                    Transport::Tcp => Ok(None),
                }
            };
            let answer = async {
                match in_time(by_datagram).await? {
                    Some(answer) => Ok(answer),
                    None => in_time(by_connection(*server, query, &hear)).await,
                }
            };
            match answer.await {
                Err(e) => outcome = Err(io::Error::new(e.kind(), format!("{server}: {e}"))),
                answer => return answer,
            }
        }
        outcome
    }
}

async fn in_time<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limits::QUERY_DEADLINE, answer).await?
}

/// `None`, if it did not fit.
async fn by_datagram<T>(
    server: SocketAddr,
    query: &[u8],
    hear: &(impl Fn(&[u8]) -> Heard<T> + Sync),
) -> io::Result<Option<T>> {
    let socket = datagram::connected(server).await?;
    socket.send(query).await?;
    loop {
        datagram::readable(&socket).await?;
        match with_buffer(|buffer| datagram::try_recv(&socket, buffer).map(|length| hear(&buffer[..length]))) {
            Ok(Heard::Answer(answer)) => return Ok(Some(answer)),
            Ok(Heard::Truncated) => return Ok(None),
            Ok(Heard::Failed(why)) => return Err(io::Error::other(why)),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            Ok(Heard::Nothing) | Err(_) => {}
        }
    }
}

async fn by_connection<T>(
    server: SocketAddr,
    query: &[u8],
    hear: &(impl Fn(&[u8]) -> Heard<T> + Sync),
) -> io::Result<T> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    match read_message(&mut stream).await?.as_deref().map(hear) {
        Some(Heard::Answer(answer)) => Ok(answer),
        Some(Heard::Failed(why)) => Err(io::Error::other(why)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not an answer to the query")),
    }
}

/// The next message on a connection (RFC 1035, section 4.2.2), or `None` at its end.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

impl Servers {
    fn now(&self) -> Vec<SocketAddr> {
        match self {
            Self::Host => name_servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            Self::These(servers) => servers.clone(),
        }
    }
}

/// The servers of a `resolv.conf` (resolv.conf(5)); the host itself, where it names none.
fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let named = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        // A link-local server is named with its link, which is not looked up here.
        address.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT))
    });
    let mut servers: Vec<_> = named.take(MAX_SERVERS).collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_a_c_library_reads_it() {
        let named = |text| name_servers(text).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(
            named("# x\nsearch a.b\nnameserver 9.9.9.9 # y\n nameserver\t2620:fe::fe\n"),
            "9.9.9.9:53 [2620:fe::fe]:53"
        );
        assert_eq!(named("nameserver fe80::1%eth0\nnameserver\nnameserver x\nnameservers 1.1.1.1\n"), "127.0.0.1:53");
        assert_eq!(named(&"nameserver 1.1.1.1\n".repeat(9)), ["1.1.1.1:53"; MAX_SERVERS].join(" "));
    }
}
