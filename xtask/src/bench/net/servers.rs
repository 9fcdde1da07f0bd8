//! Servers of the bench's own, on the host: the sink, which takes uploads to their end, and the source, which gives bytes
//! without TLS.

use std::{convert::Infallible, io::Write, net::TcpListener, sync::Arc, thread};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use super::{authority::Certified, client};

/// What a connection to the source gives.
pub(super) const SOURCE_LENGTH: u64 = 2 << 30;
/// At once.
const PIECE: usize = 256 * 1024;

/// Take uploads, as long as the process lives.
pub(super) fn sink(listener: TcpListener, certified: &Certified) -> Result<()> {
    let chain = CertificateDer::pem_file_iter(&certified.chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&certified.key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(async |request: hyper::Request<_>| {
                    let status =
                        client::length(request.into_body()).await.map_or(StatusCode::BAD_REQUEST, |_| StatusCode::OK);
                    let mut response = Response::new(Empty::<Bytes>::new());
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                });
                // One that breaks off is seen at its other end.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            });
        }
    };
    thread::spawn(move || runtime.block_on(serve));
    Ok(())
}

/// Give each connection its bytes, one after the other, as long as the process lives.
pub(super) fn source(listener: TcpListener) {
    thread::spawn(move || {
        let piece = vec![0; PIECE];
        for mut stream in listener.incoming().map_while(Result::ok) {
            // One that breaks off is seen at its other end.
            let _ = (0..SOURCE_LENGTH / PIECE as u64).try_for_each(|_| stream.write_all(&piece));
        }
    });
}
