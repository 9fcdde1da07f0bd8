//! DNS queries on their way to the host's resolvers. Messages pass as they are, but for their ids.

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

use super::{ClientAddr, buffer::with_buffer, datagram, limits};

/// A message's header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;
const PORT: u16 = 53;
/// What a C library reads of a `resolv.conf`.
const MAX_SERVERS: usize = 3;
/// How often each is asked.
const ROUNDS: usize = 2;

/// How a query came, and how its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram. An answer may be truncated; the client then asks again by TCP.
    Udp,
    /// On a connection.
    Tcp,
}

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

/// Who answers queries: a [`Forwarder`], or what stands before one and judges.
pub trait Resolver: Send + Sync {
    /// The answer to a query, with its id. After an error the guest is told that the server failed.
    fn resolve<'a>(&'a self, query: &'a Query) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send + 'a>>;
}

/// Which servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// The host's, as its `/etc/resolv.conf` has them at the time: hosts move between networks.
    Host,
    /// These, in this order.
    These(Vec<SocketAddr>),
}

/// Asks servers, by the way a query came, one after the other until one answers.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// Whom it asks.
    pub servers: Servers,
}

impl Resolver for Forwarder {
    fn resolve<'a>(&'a self, query: &'a Query) -> Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send + 'a>> {
        Box::pin(self.ask(&query.message, query.transport))
    }
}

impl Forwarder {
    /// The answer to `query`, from the first server that gives one.
    ///
    /// # Errors
    /// The last server's, if none did.
    pub async fn ask(&self, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
        let ours = getrandom::u32()?.to_ne_bytes();
        let (Some((theirs, rest)), true) = (query.split_first_chunk::<2>(), query.len() >= HEADER) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a DNS message"));
        };
        // Guests may use ids that can be guessed.
        let asked = [&ours[..2], rest].concat();
        let servers = self.servers.now();
        let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "no DNS server"));
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            let answer = async {
                match transport {
                    Transport::Udp => by_datagram(*server, &asked).await,
                    Transport::Tcp => by_connection(*server, &asked).await,
                }
            };
            match timeout(limits::QUERY_DEADLINE, answer).await.unwrap_or_else(|late| Err(late.into())) {
                Ok(mut answer) => {
                    answer[..2].copy_from_slice(theirs);
                    return Ok(answer);
                }
                Err(e) => outcome = Err(io::Error::new(e.kind(), format!("{server}: {e}"))),
            }
        }
        outcome
    }
}

async fn by_datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = datagram::connected(server).await?;
    socket.send(query).await?;
    loop {
        datagram::readable(&socket).await?;
        match with_buffer(|buffer| datagram::try_recv(&socket, buffer).map(|length| buffer[..length].to_vec())) {
            Ok(answer) if answers(&answer, query) => return Ok(answer),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            _ => {}
        }
    }
}

async fn by_connection(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    match read_message(&mut stream).await? {
        Some(answer) if answers(&answer, query) => Ok(answer),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not an answer to the query")),
    }
}

/// Whether it has the query's id and says that it is an answer.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= HEADER && answer[..2] == query[..2] && answer[2] & 0x80 != 0
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
