//! What arrived: kept by the servers, asked for by the test.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes of one read or body that are kept.
const KEPT: usize = 1 << 20;

/// Something that arrived at a server.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// A question at a DNS server of the internet.
    Question {
        /// The name, with its last dot, as it was spelt.
        name: String,
        /// The type of the record.
        kind: String,
        /// `udp`, `tcp`, `tls` or `https`.
        over: &'static str,
        /// The whole message.
        bytes: Vec<u8>,
    },
    /// Bytes of a connection, after TLS if there is any.
    Bytes {
        /// The address that was dialled.
        server: SocketAddr,
        /// The name in TLS.
        sni: Option<String>,
        /// What was read at once.
        bytes: Vec<u8>,
    },
    /// A datagram.
    Datagram {
        /// The port.
        port: u16,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A whole HTTP request.
    Request(Request),
}

/// A request as the server has understood it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The address that was dialled.
    pub server: SocketAddr,
    /// The name in TLS; `None` without TLS or without a name.
    pub sni: Option<String>,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    /// The method.
    pub method: String,
    /// `:authority`, or the value of `Host`.
    pub host: String,
    /// Path and query, or the whole URL where that was sent.
    pub target: String,
    /// Names and values in their order, trailers after them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header; the first, if there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Arrival {
    /// Whether this text is in it: in the clear, in TLS, in a header of HTTP/2, in a name.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        let has = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
        match self {
            Self::Question { name, bytes, .. } => has(name.as_bytes()) || has(bytes),
            Self::Bytes { bytes, .. } | Self::Datagram { bytes, .. } => has(bytes),
            Self::Request(request) => {
                has(request.target.as_bytes())
                    || has(request.host.as_bytes())
                    || has(&request.body)
                    || request.headers.iter().any(|(_, value)| has(value.as_bytes()))
            }
        }
    }
}

/// Everything that servers of the internet have been told, in its order. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(Arc<Mutex<Vec<Arrival>>>);

impl Records {
    pub(super) fn add(&self, mut arrival: Arrival) {
        match &mut arrival {
            Arrival::Question { bytes, .. } | Arrival::Bytes { bytes, .. } | Arrival::Datagram { bytes, .. } => {
                bytes.truncate(KEPT);
            }
            Arrival::Request(request) => request.body.truncate(KEPT),
        }
        self.lock().push(arrival);
    }

    /// What has arrived since the last call.
    pub(super) fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arrival>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line, for messages.
impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Question { name, kind, over, .. } => write!(f, "question {name} {kind} over {over}"),
            Self::Bytes { server, sni, bytes } => {
                write!(f, "{server} {}: {}", sni.as_deref().unwrap_or("-"), bytes.escape_ascii())
            }
            Self::Datagram { port, bytes } => write!(f, "udp {port}: {}", bytes.escape_ascii()),
            Self::Request(request) => {
                let Request { server, version, method, host, target, .. } = request;
                write!(f, "{server} {version} {method} {host} {target}")
            }
        }
    }
}
