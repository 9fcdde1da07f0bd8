//! The server of one connection of the guest's: dialled at the address that policy has judged, and nowhere else.
//!
//! Connections are kept for the next request, and end with the guest's. One that the server has closed meanwhile is noticed
//! when it is used; what it has not taken is sent again over a new one, and so is what can do no harm twice.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use http::{
    HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::{Authority, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use matchlock_model::one_line;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    body::Relayed,
    head, limits,
    tasks::Spawner,
    tls::{Tls, is_http2},
};
use crate::{gateway::dial::dial, policy::Name};

/// The server.
pub(super) struct Server {
    address: SocketAddr,
    /// Who it has to prove to be; `None` without TLS.
    secure: Option<(Arc<Tls>, Name)>,
    /// Whether the guest speaks HTTP/2, so that the server may.
    http2: bool,
    spawner: Spawner,
    /// Held while the first connection is made, so that all requests get to know what the server speaks.
    spoken: tokio::sync::Mutex<Spoken>,
    idle: Arc<Idle>,
    permits: Arc<Semaphore>,
}

enum Spoken {
    /// Not yet, with what went wrong when it was tried ahead.
    Unknown(Option<String>),
    Http1,
    Http2(http2::SendRequest<Box<Relayed>>),
}

/// Connections that wait for the next request, with HTTP/1.1.
type Idle = Mutex<Vec<http1::SendRequest<Box<Relayed>>>>;

/// A connection for a request.
pub(super) struct Lease {
    sender: Sender,
    idle: Arc<Idle>,
    /// Whether it was used before.
    again: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Sender {
    Http1(http1::SendRequest<Box<Relayed>>),
    Http2(http2::SendRequest<Box<Relayed>>),
}

impl Server {
    pub(super) fn new(
        address: SocketAddr,
        secure: Option<(Arc<Tls>, Name)>,
        http2: bool,
        spawner: Spawner,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            secure,
            http2,
            spawner,
            spoken: tokio::sync::Mutex::new(Spoken::Unknown(None)),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(limits::SERVER_CONNECTIONS)),
        })
    }

    /// Connect while the guest's handshake goes on. What goes wrong is told to the first request.
    pub(super) fn connect_ahead(self: &Arc<Self>) {
        let server = Arc::clone(self);
        // In a box, for the task's own memory is kept until the next one starts.
        self.spawner.spawn(Box::pin(async move {
            let mut spoken = server.spoken.lock().await;
            *spoken = match server.connect().await {
                Ok(sender) => server.keep(sender),
                Err(why) => Spoken::Unknown(Some(why)),
            };
        }));
    }

    /// Send a request and wait for the head of the response; with HTTP/1.1, the connection comes with it, to be given back.
    pub(super) async fn send(
        &self,
        request: Request<Box<Relayed>>,
        authority: &Authority,
    ) -> Result<(Response<Incoming>, Option<Lease>), String> {
        let mut lease = self.lease().await?;
        let mut spare = spare(&request).filter(|_| lease.again);
        let mut request = request;
        loop {
            self.address(&mut request, authority, &lease.sender);
            let mut failed = match lease.send(request).await {
                Ok(response) => return Ok((response, matches!(lease.sender, Sender::Http1(_)).then_some(lease))),
                Err(failed) => failed,
            };
            match failed.take_message().or_else(|| spare.take()) {
                Some(unsent) if lease.again => {
                    request = unsent;
                    lease = self.anew(lease).await?;
                }
                _ => return Err(format!("no answer from {}: {}", self.address, one_line(failed.error()))),
            }
        }
    }

    async fn lease(&self) -> Result<Lease, String> {
        let mut spoken = self.spoken.lock().await;
        match &mut *spoken {
            Spoken::Http2(sender) if !sender.is_closed() => {
                return Ok(self.lent(Sender::Http2(sender.clone()), true, None));
            }
            Spoken::Http1 => {}
            Spoken::Unknown(Some(why)) => {
                let why = std::mem::take(why);
                *spoken = Spoken::Unknown(None);
                return Err(why);
            }
            Spoken::Unknown(None) | Spoken::Http2(_) => {
                *spoken = self.connect().await.map(|sender| self.keep(sender))?;
                if let Spoken::Http2(sender) = &*spoken {
                    return Ok(self.lent(Sender::Http2(sender.clone()), false, None));
                }
            }
        }
        drop(spoken);
        let turn = timeout(limits::TURN_DEADLINE, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = turn.map_err(|_| format!("all connections to {} are taken by other requests", self.address))?.ok();
        while let Some(mut sender) = self.idle() {
            let ready = timeout(limits::REUSE_DEADLINE, sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                return Ok(self.lent(Sender::Http1(sender), true, permit));
            }
        }
        let sender = self.connect().await?;
        Ok(self.lent(sender, false, permit))
    }

    /// A new connection in place of one that is gone.
    async fn anew(&self, gone: Lease) -> Result<Lease, String> {
        let sender = self.connect().await?;
        if let Sender::Http2(sender) = &sender {
            *self.spoken.lock().await = Spoken::Http2(sender.clone());
        }
        Ok(Lease { sender, again: false, ..gone })
    }

    fn lent(&self, sender: Sender, again: bool, permit: Option<OwnedSemaphorePermit>) -> Lease {
        Lease { sender, idle: Arc::clone(&self.idle), again, _permit: permit }
    }

    /// What a connection says about the server; with HTTP/1.1, it waits for a request.
    fn keep(&self, sender: Sender) -> Spoken {
        match sender {
            Sender::Http2(sender) => Spoken::Http2(sender),
            Sender::Http1(sender) => {
                lock(&self.idle).push(sender);
                Spoken::Http1
            }
        }
    }

    fn idle(&self) -> Option<http1::SendRequest<Box<Relayed>>> {
        lock(&self.idle).pop()
    }

    /// A new connection. In a box: the future of each request would keep room for it, and few need it.
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Sender, String>> + Send + '_>> {
        Box::pin(self.dial())
    }

    async fn dial(&self) -> Result<Sender, String> {
        let address = self.address;
        let tcp = dial(address).await.map_err(|e| format!("cannot connect to {address}: {e}"))?;
        let Some((tls, name)) = &self.secure else { return self.speak(tcp, self.http2).await };
        let refused = |e: &dyn std::fmt::Display| format!("no TLS with {name} at {address}: {e}");
        let server_name = ServerName::try_from(name.as_str().to_owned()).map_err(|e| refused(&e))?;
        let secured = Box::new(tls.connect(tcp, server_name, self.http2).await.map_err(|e| refused(&e))?);
        let http2 = is_http2(secured.get_ref().1.alpn_protocol());
        self.speak(secured, http2).await
    }

    async fn speak<S>(&self, stream: S, http2: bool) -> Result<Sender, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        let refused = |e: hyper::Error| format!("no HTTP with {}: {}", self.address, one_line(&e));
        if http2 {
            let (stream_window, connection_window) = limits::SERVER_WINDOWS;
            let mut builder = http2::Builder::new(self.spawner.clone());
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(stream_window)
                .initial_connection_window_size(connection_window)
                .max_header_list_size(limits::MAX_HEAD_LIST)
                .max_send_buf_size(limits::SEND_BUFFER)
                .max_local_error_reset_streams(limits::RESETS);
            let handshake = timeout(limits::HANDSHAKE_DEADLINE, builder.handshake(io)).await;
            let silent = |_| format!("no HTTP with {}: it does not take the beginning", self.address);
            let (sender, connection) = handshake.map_err(silent)?.map_err(refused)?;
            self.spawner.spawn(async move { drop(connection.await) });
            return Ok(Sender::Http2(sender));
        }
        let mut builder = http1::Builder::new();
        builder
            .preserve_header_case(true)
            .max_headers(limits::MAX_HEADERS)
            .max_header_size(limits::MAX_HEAD)
            .max_buf_size(limits::READ_BUFFER);
        let (sender, connection) = builder.handshake(io).await.map_err(refused)?;
        let connection = Box::pin(connection.with_upgrades());
        self.spawner.spawn(async move { drop(connection.await) });
        Ok(Sender::Http1(sender))
    }

    /// Write the target and the host in the way of what is spoken.
    fn address(&self, request: &mut Request<Box<Relayed>>, authority: &Authority, sender: &Sender) {
        let path = head::origin_form(request.uri());
        match sender {
            Sender::Http1(_) => {
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = path;
                if !request.headers().contains_key(HOST)
                    && let Ok(host) = authority.as_str().parse()
                {
                    request.headers_mut().insert(HOST, host);
                }
                // hyper frames all other bodies by itself, and takes it that these methods have none.
                if matches!(*request.method(), Method::GET | Method::HEAD)
                    && !request.body().is_nothing()
                    && !request.headers().contains_key(CONTENT_LENGTH)
                {
                    request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
            }
            Sender::Http2(_) => {
                let mut parts = path.into_parts();
                parts.scheme = Some(if self.secure.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
                parts.authority = Some(authority.clone());
                // `*` is written as it is; there is no other target that this could be.
                if let Ok(uri) = Uri::from_parts(parts) {
                    *request.uri_mut() = uri;
                }
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(HOST);
                // Of a connection with HTTP/1.1 that has not taken it.
                request.headers_mut().remove(TRANSFER_ENCODING);
                request.body_mut().release();
            }
        }
    }
}

impl Lease {
    async fn send(
        &mut self,
        request: Request<Box<Relayed>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Box<Relayed>>>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    /// The response has been read: the next request may have the connection.
    pub(super) fn give_back(self) {
        if let Sender::Http1(sender) = self.sender
            && !sender.is_closed()
        {
            lock(&self.idle).push(sender);
        }
    }
}

/// The request once more, if it can be sent twice (RFC 9110, section 9.2.2) and has no body.
fn spare(request: &Request<Box<Relayed>>) -> Option<Request<Box<Relayed>>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    (idempotent && request.body().is_nothing()).then(|| {
        let mut spare = Request::new(Relayed::whole(bytes::Bytes::new()));
        *spare.method_mut() = request.method().clone();
        *spare.uri_mut() = request.uri().clone();
        *spare.headers_mut() = request.headers().clone();
        *spare.extensions_mut() = request.extensions().clone();
        spare
    })
}

fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<http1::SendRequest<Box<Relayed>>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{super::tasks::Tasks, *};

    fn server(tasks: &Tasks) -> Arc<Server> {
        Server::new("192.0.2.1:80".parse().unwrap(), None, true, tasks.spawner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_ever_for_its_turn() {
        let server = server(&Tasks::default());
        *server.spoken.lock().await = Spoken::Http1;
        let _others = server.permits.acquire_many(u32::try_from(limits::SERVER_CONNECTIONS).unwrap()).await.unwrap();
        let why = server.lease().await.err().unwrap();
        assert_eq!(why, "all connections to 192.0.2.1:80 are taken by other requests");
    }

    #[tokio::test(start_paused = true)]
    async fn nor_for_a_server_that_does_not_read() {
        let (ours, _theirs) = tokio::io::duplex(1);
        let why = server(&Tasks::default()).speak(ours, true).await.err().unwrap();
        assert_eq!(why, "no HTTP with 192.0.2.1:80: it does not take the beginning");
    }
}
