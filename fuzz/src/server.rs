//! The server behind the interceptor. What it is sent, it reads strictly, and answers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{ALLOWED, PLACEHOLDER, VALUE, is_allowed, listen};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// One that listens, and counts the requests that have come.
pub(super) struct Server {
    address: SocketAddr,
    reached: Arc<AtomicUsize>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = listen().await;
        let address = listener.local_addr().expect("it listens");
        let reached = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&reached);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = tokio::spawn(serve(stream, Arc::clone(&counted)));
                // A task's panic is nobody's otherwise.
                tokio::spawn(async move { served.await.unwrap_or_else(|_| std::process::abort()) });
            }
        });
        Self { address, reached }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have come.
    pub(super) fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, reached: Arc<AtomicUsize>) {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if first[0] == 0x16 => tls(&mut stream).await,
        Ok(1) if first[0] == b'P' && is_preface(&stream).await => http2(stream, reached).await,
        Ok(1) => http1(&mut stream, &reached).await,
        _ => {}
    }
}

async fn is_preface(stream: &TcpStream) -> bool {
    let mut first = [0; 4];
    while let Ok(seen) = stream.peek(&mut first).await {
        if seen == first.len() {
            return first == *b"PRI ";
        }
        if seen == 0 || !b"PRI ".starts_with(&first[..seen]) {
            return false;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// The interceptor's own hello says the allowed name.
async fn tls(stream: &mut TcpStream) {
    let (mut acceptor, mut buffer) = (Acceptor::default(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let mut piece = &buffer[..read];
        while !piece.is_empty() {
            acceptor.read_tls(&mut piece).expect("memory");
            if let Some(accepted) = acceptor.accept().map_err(|(e, _)| e).expect("a hello") {
                assert_eq!(accepted.client_hello().server_name(), Some(ALLOWED));
                return;
            }
        }
    }
}

async fn http2(stream: TcpStream, reached: Arc<AtomicUsize>) {
    let service = service_fn(move |request: Request<Incoming>| {
        reached.fetch_add(1, Ordering::Relaxed);
        async move {
            let (parts, body) = request.into_parts();
            let authority = parts.uri.authority().expect("whom it is for").as_str();
            assert!(is_allowed(authority) && !parts.headers.contains_key("host"), "{parts:?}");
            assert!(!format!("{parts:?}").contains(PLACEHOLDER), "{parts:?}");
            if let Ok(body) = body.collect().await {
                assert_hidden(&body.to_bytes());
            }
            Ok::<_, Infallible>(Response::new(Full::new(&b"ok"[..])))
        }
    });
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Requests to the end, each whole, or broken off.
async fn http1(stream: &mut TcpStream, reached: &AtomicUsize) {
    let mut unread = Vec::new();
    while let Some(head) = head(stream, &mut unread).await {
        reached.fetch_add(1, Ordering::Relaxed);
        if head.expects && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
            return;
        }
        let whole = match head.length {
            Some(length) => exactly(stream, &mut unread, length).await,
            None => chunks(stream, &mut unread).await,
        };
        if whole.is_none() || stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

struct Head {
    /// In chunks, if `None`.
    length: Option<usize>,
    expects: bool,
}

/// `None` if there is no other, or it breaks off.
async fn head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Head> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 256];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(unread).unwrap_or_else(|e| panic!("{e} in {}", unread.escape_ascii()));
        if let httparse::Status::Complete(length) = parsed {
            let head = understood(&request);
            assert_hidden(&unread[..length]);
            let text = unread.drain(..length).collect::<Vec<u8>>();
            let placeholder = text.windows(PLACEHOLDER.len()).any(|part| part == PLACEHOLDER.as_bytes());
            assert!(!placeholder, "{}", text.escape_ascii());
            return Some(head);
        }
        more(stream, unread).await?;
    }
}

fn understood(request: &httparse::Request<'_, '_>) -> Head {
    let values = |name: &str| -> Vec<&str> {
        let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| str::from_utf8(header.value).unwrap_or("not ASCII")).collect()
    };
    let path = request.path.expect("it is complete");
    assert!(path.starts_with('/') || path == "*", "{path}");
    assert!(matches!(values("host")[..], [host] if is_allowed(host)), "{request:?}");
    let length = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => Some(0),
        ([length], []) => Some(length.parse().expect("a length")),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => None,
        _ => panic!("its length is not plain: {request:?}"),
    };
    Head { length, expects: !values("expect").is_empty() }
}

async fn exactly(stream: &mut TcpStream, unread: &mut Vec<u8>, length: usize) -> Option<()> {
    while unread.len() < length {
        more(stream, unread).await?;
    }
    assert_hidden(&unread[..length]);
    unread.drain(..length);
    Some(())
}

async fn chunks(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    loop {
        let parsed = httparse::parse_chunk_size(unread).expect("a chunk's length");
        let httparse::Status::Complete((digits, length)) = parsed else {
            more(stream, unread).await?;
            continue;
        };
        unread.drain(..digits);
        if length == 0 {
            return trailers(stream, unread).await;
        }
        exactly(stream, unread, usize::try_from(length).expect("it fits")).await?;
        while unread.len() < 2 {
            more(stream, unread).await?;
        }
        assert!(unread.starts_with(b"\r\n"), "{}", unread.escape_ascii());
        unread.drain(..2);
    }
}

async fn trailers(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 256];
        if let httparse::Status::Complete((length, _)) =
            httparse::parse_headers(unread, &mut headers).expect("trailers")
        {
            unread.drain(..length);
            return Some(());
        }
        more(stream, unread).await?;
    }
}

async fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(unread).await.ok()?;
    (read > 0).then_some(())
}

/// The value goes out over TLS only, of which there is none here.
fn assert_hidden(sent: &[u8]) {
    assert!(!sent.windows(VALUE.len()).any(|part| part == VALUE), "{}", sent.escape_ascii());
}
