//! What several targets do: a connection of a guest's goes through the real interceptor to a server that looks at what comes out.
//!
//! The guest is whatever the fuzzer says, from its first byte to its last. The server reads HTTP/1.1 with a parser that is not
//! the interceptor's, and to the last byte: what two of them understand in two ways is where requests are smuggled.

mod server;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use matchlock_net::{
    gateway::{ClientAddr, Forwarder, Inspection, Inspector, OrigDst, Servers, What},
    guard::Guard,
    intercept::{Authority, Interceptor, Settings},
    policy::{Host, Mode, Name, Policy},
    rules::Rules,
    secret::{Current, Options, Secret, Secrets, Value},
};
use rustls::RootCertStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::timeout,
};

use self::server::Server;

/// Whom the guest may reach.
const ALLOWED: &str = "x.com";
/// What stands for a secret of the allowed host.
pub const PLACEHOLDER: &str = "SANDBOX_SECRET_OF_X";
/// What it stands for. It must not go out without TLS.
const VALUE: &[u8] = b"the value of it";

/// A guest that has said all it wants to say gets an end. Longer than all that is waited for on the way.
const END_DEADLINE: Duration = Duration::from_secs(9);

/// One interceptor and its server, for all inputs.
pub struct Intercepted {
    runtime: Runtime,
    interceptor: Interceptor,
    /// Requests that were told of.
    told: Arc<AtomicUsize>,
    guests: TcpListener,
    server: Server,
}

impl Intercepted {
    /// One that allows a host, which has a secret.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (guests, server) = runtime.block_on(async { (listen().await, Server::start().await) });
        let told = Arc::default();
        let interceptor = Interceptor::new(settings(&told)).expect("an interceptor");
        Self { runtime, interceptor, told, guests, server }
    }

    /// Let a guest say this. Nothing may come out that is not allowed, and an end has to come.
    pub fn carry(&self, said: &[u8]) {
        self.runtime.block_on(async {
            let (end, guest) = self.connect().await.expect("a connection");
            let client = ClientAddr::new(guest.peer_addr().expect("connected"));
            let inspection = Inspection {
                guest,
                opening: Vec::new(),
                client,
                destination: OrigDst::new(self.server.address()),
                names: vec![allowed()],
                counted: Arc::default(),
            };
            let talk = talk(end, said);
            let (inspected, ()) =
                timeout(END_DEADLINE, async { tokio::join!(self.interceptor.inspect(inspection), talk) })
                    .await
                    .expect("an end");
            drop(inspected);
        });
        let (reached, told) = (self.server.reached(), self.told.load(Ordering::Relaxed));
        assert!(reached <= told, "{reached} requests have reached the server, but {told} were told of");
    }

    async fn connect(&self) -> io::Result<(TcpStream, TcpStream)> {
        let end = TcpStream::connect(self.guests.local_addr()?).await?;
        Ok((end, self.guests.accept().await?.0))
    }
}

fn settings(told: &Arc<AtomicUsize>) -> Settings {
    let policy = Policy {
        mode: Mode::Intercept,
        allowed: vec![format!("{ALLOWED}:*").parse().expect("a target")],
        allow_private: vec![ALLOWED.parse().expect("a target"), "127.0.0.1".parse().expect("a target")],
        ..Policy::default()
    };
    let value = Value::new(VALUE.to_vec()).expect("a value");
    let hosts = vec![ALLOWED.parse().expect("a pattern")];
    let options = Options { body: true, without_tls: false };
    let secret = Secret::new("KEY".to_owned(), value, Some(PLACEHOLDER.to_owned()), hosts, options);
    let secrets = Secrets::new(vec![secret.expect("a secret")]).expect("secrets");
    let told = Arc::clone(told);
    Settings {
        guard: Guard::new(policy, Rules::default(), Forwarder { servers: Servers::These(Vec::new()) }),
        secrets: Current::new(secrets),
        authority: Arc::new(Authority::new("fuzzing").expect("an authority")),
        roots: Arc::new(RootCertStore::empty()),
        events: Arc::new(move |event| {
            let request = matches!(event.what, What::Request(_));
            told.fetch_add(usize::from(request), Ordering::Relaxed);
        }),
    }
}

/// Say it, and take what comes. Either may break off.
async fn talk(end: TcpStream, said: &[u8]) {
    let (mut from, mut to) = end.into_split();
    let say = async {
        let _ = to.write_all(said).await;
        let _ = to.shutdown().await;
    };
    let mut heard = Vec::new();
    let (_, ()) = tokio::join!(from.read_to_end(&mut heard), say);
}

fn allowed() -> Name {
    ALLOWED.parse().expect("a name")
}

/// Whether this is how the allowed host is written.
fn is_allowed(host: &str) -> bool {
    Host::with_port(host).is_ok_and(|(host, _)| host == Host::Name(allowed()))
}

async fn listen() -> TcpListener {
    let anywhere: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    TcpListener::bind(anywhere).await.expect("a port of this machine")
}
