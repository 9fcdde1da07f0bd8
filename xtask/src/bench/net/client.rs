//! The client: HTTPS over connections of its own making, on the one thread of its runtime; the same for all contestants.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::world::{ORIGIN_NAME, SINK, SINK_NAME};

/// The small file, and its length.
pub(super) const SMALL: (&str, u64) = ("/small", 1000);
/// The large one.
pub(super) const LARGE: (&str, u64) = ("/large", 256 << 20);

/// For one exchange, however large.
const DEADLINE: Duration = Duration::from_mins(5);
/// Of a body that is sent, at once.
static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];

/// Somebody to talk to.
#[derive(Clone)]
pub(super) struct Peer {
    address: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// A body of zeros.
pub(super) struct Zeros(u64);

/// A connection that waits for a request.
pub(super) struct Connection {
    sender: http1::SendRequest<Zeros>,
    host: String,
}

impl Peer {
    /// Who has the origin's name there, by a certificate of this authority (PEM).
    pub(super) fn origin(address: Ipv4Addr, port: u16, authority: &str) -> Result<Self> {
        Self::new((address, port).into(), ORIGIN_NAME, authority)
    }

    /// Who has the sink's.
    pub(super) fn sink(authority: &str) -> Result<Self> {
        Self::new((SINK, 443).into(), SINK_NAME, authority)
    }

    fn new(address: SocketAddr, name: &'static str, authority: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every connection is one with somebody new.
        config.resumption = Resumption::disabled();
        Ok(Self { address, name: ServerName::try_from(name)?, config: Arc::new(config) })
    }

    async fn secure(&self) -> Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await.with_context(|| format!("connect to {}", self.address))?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(self.name.clone(), tcp).await.with_context(|| format!("TLS with {}", self.address))
    }

    /// Connect.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.secure().await?)).await?;
        // Its end is seen by who asks over it.
        tokio::spawn(connection);
        Ok(Connection { sender, host: self.name.to_str().into_owned() })
    }

    /// So many connections, over each of which the small file has come once.
    pub(super) async fn connections(&self, count: usize) -> Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let mut connection = self.connect().await?;
            connection.get(SMALL).await?;
            connections.push(connection);
        }
        Ok(connections)
    }

    /// How often the small file comes in this time over so many connections, which are there before.
    pub(super) async fn requests(&self, connections: usize, time: Duration) -> Result<u64> {
        let mut clients = JoinSet::new();
        let connections = self.connections(connections).await?;
        let end = Instant::now() + time;
        for mut connection in connections {
            clients.spawn(async move {
                let mut count = 0;
                while Instant::now() < end {
                    connection.get(SMALL).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            });
        }
        sum(clients).await
    }

    /// How often the small file comes in this time, each time over a new connection, by so many clients at once.
    pub(super) async fn new_connections(&self, clients_at_once: usize, time: Duration) -> Result<u64> {
        let mut clients = JoinSet::new();
        let end = Instant::now() + time;
        for _ in 0..clients_at_once {
            let peer = self.clone();
            clients.spawn(async move {
                let mut count = 0;
                while Instant::now() < end {
                    peer.connect().await?.get(SMALL).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            });
        }
        sum(clients).await
    }
}

async fn sum(mut clients: JoinSet<Result<u64>>) -> Result<u64> {
    let mut sum = 0;
    while let Some(count) = clients.join_next().await {
        sum += count??;
    }
    Ok(sum)
}

impl Connection {
    /// Get a file, all of it.
    pub(super) async fn get(&mut self, (path, length): (&str, u64)) -> Result<()> {
        let request = Request::get(path).header("host", &self.host).body(Zeros(0))?;
        let came = timeout(DEADLINE, self.exchange(request)).await.context("too late")??;
        ensure!(came == length, "{came} bytes of {length} came from {path}");
        Ok(())
    }

    /// Send so many bytes, and be told that they have arrived.
    pub(super) async fn put(&mut self, length: u64) -> Result<()> {
        let request = Request::put("/").header("host", &self.host).body(Zeros(length))?;
        timeout(DEADLINE, self.exchange(request)).await.context("too late")??;
        Ok(())
    }

    /// Length of the response.
    async fn exchange(&mut self, request: Request<Zeros>) -> Result<u64> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{}", response.status());
        length(response.into_body()).await
    }
}

/// Read a body to its end.
pub(super) async fn length(mut body: Incoming) -> Result<u64> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    Ok(length)
}

/// Time until a connection without TLS has given all it has, which is `length`.
pub(super) async fn drain(address: Ipv4Addr, port: u16, length: u64) -> Result<Duration> {
    let begin = Instant::now();
    let read = async {
        let mut stream = TcpStream::connect((address, port)).await.with_context(|| format!("connect to {address}"))?;
        let (mut buffer, mut came) = (vec![0; 256 * 1024], 0);
        loop {
            match stream.read(&mut buffer).await? {
                0 => return anyhow::Ok(came),
                count => came += count as u64,
            }
        }
    };
    let came = timeout(DEADLINE, read).await.context("too late")??;
    ensure!(came == length, "{came} bytes of {length} came from {address}");
    Ok(begin.elapsed())
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.0.min(PIECE.len() as u64);
        self.0 -= next;
        let piece = usize::try_from(next).ok().filter(|next| *next > 0);
        Poll::Ready(piece.map(|next| Ok(Frame::data(Bytes::from_static(&PIECE[..next])))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}
