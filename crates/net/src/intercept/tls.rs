//! TLS with both sides: towards the guest with leaves of the sandbox's authority, towards servers with the host's roots.

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{Authority, hello::within, limits, stream::GuestStream};
use crate::policy::{Host, Name};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Made once for all connections, so that sessions can be resumed.
pub(super) struct Tls {
    authority: Arc<Authority>,
    /// For those that may speak HTTP/2, too, and for those that may not.
    guests: Either<ServerConfig>,
    servers: Either<ClientConfig>,
}

struct Either<C> {
    any: Arc<C>,
    http1: Arc<C>,
}

/// Who is found by the name in the hello. Asked only for names that policy has allowed.
struct Leaves(Arc<Authority>);

/// What a guest is shown that names nobody.
struct Leaf(Arc<CertifiedKey>);

impl Tls {
    pub(super) fn new(authority: Arc<Authority>, roots: &Arc<RootCertStore>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let resolver = Arc::new(Leaves(Arc::clone(&authority)));
        let mut guest = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        guest.ticketer = ring::Ticketer::new()?;
        guest.send_tls13_tickets = 1;
        let (mut any, mut http1) = (guest.clone(), guest);
        any.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        http1.alpn_protocols = vec![HTTP1.to_vec()];
        let guests = Either { any: Arc::new(any), http1: Arc::new(http1) };
        let any = towards_servers(&provider, roots, &[HTTP2, HTTP1])?;
        let http1 = towards_servers(&provider, roots, &[HTTP1])?;
        Ok(Self { authority, guests, servers: Either { any, http1 } })
    }

    /// The handshake with a guest that has asked for this name, or for none and means it.
    pub(super) async fn accept(
        &self,
        guest: GuestStream,
        name: &Name,
        asked: bool,
        http2: bool,
    ) -> io::Result<server::TlsStream<GuestStream>> {
        let mut config = Arc::clone(self.guests.which(http2));
        if !asked {
            let leaf = self.authority.leaf(&Host::Name(name.clone())).map_err(io::Error::other)?;
            let mut own = ServerConfig::clone(&config);
            own.cert_resolver = Arc::new(Leaf(leaf));
            config = Arc::new(own);
        }
        within(limits::HELLO_DEADLINE, TlsAcceptor::from(config).accept(guest)).await
    }

    /// The handshake with a server that has to prove that it is the one.
    pub(super) async fn connect(
        &self,
        server: TcpStream,
        name: ServerName<'static>,
        http2: bool,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let config = Arc::clone(self.servers.which(http2));
        within(limits::HANDSHAKE_DEADLINE, TlsConnector::from(config).connect(name, server)).await
    }
}

impl<C> Either<C> {
    fn which(&self, http2: bool) -> &Arc<C> {
        if http2 { &self.any } else { &self.http1 }
    }
}

fn towards_servers(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    protocols: &[&[u8]],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Whether HTTP/2 was agreed upon.
pub(super) fn is_http2(protocol: Option<&[u8]>) -> bool {
    protocol == Some(HTTP2)
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.parse().ok()?;
        self.0.leaf(&Host::Name(name)).ok()
    }
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaves")
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf")
    }
}
