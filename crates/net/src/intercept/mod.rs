//! Connections whose TLS and HTTP end here, and begin again towards the server.
//!
//! ```text
//! guest ── hello: TLS or HTTP? ── whom does it mean? ── Guard::decide_host ─┬ alert, 403
//!            │                                                             ├ passthrough: spliced
//!            └ tls: a leaf of the Authority's ── HTTP/1.1 or HTTP/2 ── carry: one request after the other, or many at once
//!                                                                             │
//! server ── tls: the host's roots ───────────── HTTP/1.1 or HTTP/2 ── Server: connections of this one of the guest's
//! ```
//!
//! [`Interceptor`] is the gateway's [`Inspector`]; `sandbox` makes it. Invariants:
//!
//! - Nothing is dialled, and no certificate minted, for a name before policy has allowed it at the address that the guest has
//!   connected to. That address is what is dialled; no name is resolved here.
//! - Who the TLS is with, who the request is for and who the server has proven to be is one name, in its one spelling. Each
//!   request asks policy anew, so a rule that was taken away counts for the next one on a connection that is open.
//! - A secret's value is put in after all of this, and only towards a server that has proven its name.
//! - What is sent on is written anew from what was understood, so that no server can understand something else: bodies are framed
//!   by us, and what concerns one hop only is taken out. Headers are neither invented (but for the one that asks
//!   for no compression, `readable.rs`) nor renamed; over HTTP/1.1 they keep their
//!   case and order (but two of one name come together).
//! - All that a guest can make many or long has a bound, all that is waited for a deadline (`limits.rs`). A response may take as
//!   long as it likes: those of language models do.
//!
//! # Versions of HTTP
//!
//! The guest is offered HTTP/2 and HTTP/1.1. The server is offered HTTP/2 only if the guest has taken it, and connected to while the
//! guest's handshake goes on. So one that speaks HTTP/1.1 gets it from end to end, its web sockets included; one that speaks HTTP/2, as
//! gRPC does, is served by servers that do not, too, with a few connections (gRPC itself then fails as it would without us).
//! Interim responses are not passed on, but for 100: a body that the guest holds back until it is wanted is held back here, too.
//!
//! # Secrets in memory
//!
//! A value is copied into what hyper sends, into TLS's buffers and the kernel's, and these copies are not zeroed. Headers that have
//! one are marked sensitive: HTTP/2 does not index them, and they cannot be printed.

mod account;
mod authority;
mod body;
mod carry;
mod frames;
mod head;
mod headers;
mod hello;
mod limits;
mod page;
mod passthrough;
mod serve;
mod server;
mod stream;
mod tasks;
mod tls;
mod websocket;
mod whole;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use matchlock_model::one_line;
use rustls::RootCertStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use self::{
    authority::{Authority, AuthorityError, CACHED_LEAVES},
    limits::HTTP2_CONNECTIONS,
};
use self::{hello::Spoken, server::Server, stream::GuestStream, tasks::Tasks, tls::Tls, whole::Room};
use crate::{
    gateway::{ClientAddr, Counted, End, Event, Inspected, Inspection, Inspector, OrigDst, dial::prepare},
    guard::Guard,
    policy::{Host, Name},
    rules::Rules,
    secret::Current,
};

/// What an interceptor goes by.
pub struct Settings {
    /// The policy, and what it says about single requests.
    pub guard: Guard,
    /// What is put in and taken out.
    pub secrets: Current,
    /// Who signs towards the guest, which trusts it.
    pub authority: Arc<Authority>,
    /// Who is trusted to sign for servers.
    pub roots: Arc<RootCertStore>,
    /// Who hears of requests. Called from a connection's task: it must not block.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

/// Looks into the connections of one sandbox. Clones are the same.
#[derive(Clone)]
pub struct Interceptor(Arc<Shared>);

struct Shared {
    guard: Guard,
    rules: Rules,
    secrets: Current,
    tls: Arc<Tls>,
    events: Arc<dyn Fn(Event) + Send + Sync>,
    /// For bodies that are kept.
    room: Room,
    /// To be held by those with HTTP/2.
    http2: Arc<Semaphore>,
}

/// One of the guest's, from when it is clear that it is HTTP.
struct Connection {
    shared: Arc<Shared>,
    client: ClientAddr,
    destination: OrigDst,
    /// Those that the guest was given the address for.
    names: Vec<Name>,
    /// Whom its TLS is with, if it has TLS.
    front: Option<Name>,
    server: Arc<Server>,
    /// That it is HTTP/2.
    http2: Option<OwnedSemaphorePermit>,
    /// What it goes on with after HTTP.
    then: Mutex<Option<oneshot::Sender<Then>>>,
    /// Kept until its last request is told of.
    _counted: Arc<Counted>,
}

type Then = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Interceptor {
    /// One that goes by these.
    ///
    /// # Errors
    /// If TLS cannot be set up with them.
    pub fn new(settings: Settings) -> Result<Self, rustls::Error> {
        let Settings { guard, secrets, authority, roots, events } = settings;
        let rules = guard.rules().clone();
        let tls = Arc::new(Tls::new(authority, &roots)?);
        let http2 = Arc::new(Semaphore::new(HTTP2_CONNECTIONS));
        Ok(Self(Arc::new(Shared { guard, rules, secrets, tls, events, room: Room::new(), http2 })))
    }
}

impl Inspector for Interceptor {
    fn inspect(&self, inspection: Inspection) -> Inspected {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { inspect(shared, inspection).await.unwrap_or_else(|e| End::Failed(one_line(&e))) })
    }
}

async fn inspect(shared: Arc<Shared>, inspection: Inspection) -> io::Result<End> {
    let Inspection { guest, opening, client, destination, names, counted } = inspection;
    prepare(&guest)?;
    let mut guest = GuestStream::new(guest, opening, Arc::clone(&counted));
    let permit = match hello::spoken(&mut guest).await? {
        None => return Ok(End::Done),
        Some(Spoken::Tls) => return inspect_tls(shared, guest, (client, destination), names, counted).await,
        Some(Spoken::Http1) => None,
        Some(Spoken::Http2) => Some(shared.http2().ok_or_else(|| io::Error::other("too much HTTP/2 at once"))?),
    };
    let tasks = Tasks::default();
    let server = Server::new(destination.get(), None, permit.is_some(), tasks.spawner());
    let (then, what) = oneshot::channel();
    let (front, then) = (None, Mutex::new(Some(then)));
    let connection =
        Connection { shared, client, destination, names, front, server, http2: permit, then, _counted: counted };
    Ok(serve::serve(guest, connection, what, &tasks).await)
}

async fn inspect_tls(
    shared: Arc<Shared>,
    mut guest: GuestStream,
    (client, destination): (ClientAddr, OrigDst),
    names: Vec<Name>,
    counted: Arc<Counted>,
) -> io::Result<End> {
    // What is for the beginning only is in boxes, and so is what each later future would keep room for.
    let hello = Box::pin(hello::hello(&mut guest)).await?;
    let asked = hello.name.is_some();
    let name = match (hello.name, names.as_slice()) {
        (Some(Ok(name)), _) => name,
        // Who says nothing means the only one that there is.
        (None, [only]) => only.clone(),
        (None, several) => {
            hello::refuse(&mut guest).await;
            let several: Vec<_> = several.iter().map(Name::as_str).collect();
            return Ok(End::Blocked(format!("its TLS does not say which of {} it is for", several.join(", "))));
        }
        (Some(Err(e)), _) => {
            hello::refuse(&mut guest).await;
            return Ok(End::Blocked(format!("the server name of its TLS is none: {e}")));
        }
    };
    let host = Host::Name(name.clone());
    if let Err(denied) = shared.guard.decide_host(&host, destination, &names) {
        hello::refuse(&mut guest).await;
        return Ok(End::Denied(denied));
    }
    // What is bound to a name, or said about its requests, cannot be seen to there.
    let seen_to = shared.secrets.get().are_for(&host) || shared.rules.concern(&host, destination.get().port());
    if shared.guard.policy().passes_through(&name) && !seen_to {
        // It is for the server to say whom it takes this for, and nobody sees what it says.
        if !asked {
            hello::refuse(&mut guest).await;
            return Ok(End::Blocked(format!("its TLS does not say that it is for {name}, whose TLS is left alone")));
        }
        return passthrough::splice(guest, destination, &counted).await.map(|()| End::Done);
    }
    let tasks = Tasks::default();
    let secure = Some((Arc::clone(&shared.tls), name.clone()));
    let permit = if hello.http2 { shared.http2() } else { None };
    let server = Server::new(destination.get(), secure, permit.is_some(), tasks.spawner());
    server.connect_ahead();
    let guest =
        Box::pin(shared.tls.accept(guest, &name, asked, permit.is_some())).await.map(Box::new).map_err(|e| {
            let flag = "a client that trusts only its own authorities needs --tls-passthrough";
            io::Error::new(e.kind(), format!("the guest breaks off TLS with {name}: {e} ({flag} {name})"))
        })?;
    let http2 = permit.filter(|_| tls::is_http2(guest.get_ref().1.alpn_protocol()));
    let (then, what) = oneshot::channel();
    let (front, then) = (Some(name), Mutex::new(Some(then)));
    let connection = Connection { shared, client, destination, names, front, server, http2, then, _counted: counted };
    Ok(serve::serve(guest, connection, what, &tasks).await)
}

impl Shared {
    /// Whoever holds it may speak HTTP/2.
    fn http2(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.http2).try_acquire_owned().ok()
    }
}

impl Connection {
    fn is_tls(&self) -> bool {
        self.front.is_some()
    }

    /// What is to be done when HTTP has ended. Cancelled with the connection.
    fn goes_on_with(&self, then: impl Future<Output = ()> + Send + 'static) {
        let told = self.then.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nobody waits for it when the connection is ending.
        drop(told.map(|told| told.send(Box::pin(then))));
    }
}
