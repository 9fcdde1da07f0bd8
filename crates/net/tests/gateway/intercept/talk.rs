//! The two ends of a connection, in bytes.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use matchlock_net::{intercept::Authority, policy::Host};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::ServerName,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::trusting;
use crate::world::DEADLINE;

/// One end.
pub(crate) struct Talk {
    stream: Stream,
    /// Read ahead.
    ahead: Option<u8>,
}

enum Stream {
    Clear(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A server without TLS that does this with each of its connections.
pub(crate) fn serve(address: SocketAddr, talk: impl Fn(Talk) + Send + Sync + 'static) {
    listen(address, move |tcp| talk(Stream::Clear(tcp).into()));
}

/// One with TLS, as `name`.
pub(crate) fn serve_tls(
    address: SocketAddr,
    internet: &Authority,
    name: &str,
    talk: impl Fn(Talk) + Send + Sync + 'static,
) {
    let config = server_config(internet, name, &[b"http/1.1"]);
    listen(address, move |tcp| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        talk(Stream::Server(Box::new(StreamOwned::new(connection, tcp))).into());
    });
}

pub(crate) fn server_config(internet: &Authority, name: &str, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let leaf = internet.leaf(&name.parse::<Host>().unwrap()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(leaf)));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

pub(crate) fn client_config(authority: &Authority, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusting(authority))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

fn listen(address: SocketAddr, talk: impl Fn(TcpStream) + Send + Sync + 'static) {
    let listener = TcpListener::bind(address).unwrap();
    let talk = Arc::new(talk);
    thread::spawn(move || {
        for tcp in listener.incoming() {
            let (tcp, talk) = (tcp.unwrap(), Arc::clone(&talk));
            tcp.set_read_timeout(Some(DEADLINE)).unwrap();
            thread::spawn(move || talk(tcp));
        }
    });
}

/// In the guest: connect.
pub(crate) fn connect(address: SocketAddr) -> Talk {
    Stream::Clear(reach(address)).into()
}

fn reach(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp
}

/// In the guest: connect with TLS, as to `name`.
pub(crate) fn connect_tls(address: SocketAddr, authority: &Authority, name: &str) -> io::Result<Talk> {
    connect_with(address, client_config(authority, &[b"http/1.1"]), name)
}

pub(crate) fn connect_with(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> io::Result<Talk> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), reach(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Stream::Client(Box::new(stream)).into())
}

impl Talk {
    pub(crate) fn say(&mut self, text: &str) {
        self.write_all(text.as_bytes()).unwrap();
        self.flush().unwrap();
    }

    /// Whether anything more is said.
    pub(crate) fn hears(&mut self) -> bool {
        let mut byte = [0];
        // How it ends is not what is looked at here.
        let said = matches!(self.read(&mut byte), Ok(1));
        self.ahead = said.then_some(byte[0]);
        said
    }

    /// Bytes until these, which are the last.
    pub(crate) fn until(&mut self, end: &str) -> String {
        let mut said = Vec::new();
        while !said.ends_with(end.as_bytes()) {
            let mut byte = [0];
            let count = self.read(&mut byte).unwrap_or_else(|e| panic!("{e} after {}", said.escape_ascii()));
            assert_ne!(count, 0, "the end after {}", said.escape_ascii());
            said.push(byte[0]);
        }
        String::from_utf8(said).unwrap()
    }

    /// A head of a message.
    pub(crate) fn head(&mut self) -> String {
        self.until("\r\n\r\n")
    }

    /// A message: its head and its body as it comes, in chunks or with a length.
    pub(crate) fn message(&mut self) -> String {
        let head = self.head();
        if head.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n") {
            return head + &self.until("\r\n0\r\n\r\n");
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.read_exact(&mut body).unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // That TLS is not closed in its own way is not what is looked at here.
        let _ = self.read_to_end(&mut rest);
        String::from_utf8(rest).unwrap()
    }
}

impl From<Stream> for Talk {
    fn from(stream: Stream) -> Self {
        Self { stream, ahead: None }
    }
}

impl Read for Talk {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(byte) = self.ahead.take() {
            buf[0] = byte;
            return Ok(1);
        }
        match &mut self.stream {
            Stream::Clear(stream) => stream.read(buf),
            Stream::Client(stream) => stream.read(buf),
            Stream::Server(stream) => stream.read(buf),
        }
    }
}

impl Write for Talk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Clear(stream) => stream.write(buf),
            Stream::Client(stream) => stream.write(buf),
            Stream::Server(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Clear(stream) => stream.flush(),
            Stream::Client(stream) => stream.flush(),
            Stream::Server(stream) => stream.flush(),
        }
    }
}

/// What servers tell their story.
pub(crate) struct Told<T>(Mutex<mpsc::Receiver<T>>);

pub(crate) fn telling<T>() -> (mpsc::Sender<T>, Told<T>) {
    let (tell, told) = mpsc::channel();
    (tell, Told(Mutex::new(told)))
}

impl<T> Told<T> {
    pub(crate) fn next(&self) -> T {
        self.0.lock().unwrap().recv_timeout(DEADLINE).unwrap()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap().try_recv().is_err()
    }
}
