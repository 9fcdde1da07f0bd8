//! The HTTP client for one registry: whom its TLS trusts, which proxy it takes, how long it waits.

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::{Client, NoProxy, Proxy, redirect};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{RegistryAccess, RegistryError, is_loopback};

/// Longest wait for a connection to be set up.
const CONNECT: Duration = Duration::from_secs(20);
/// Most redirects followed; blobs are usually one away.
const MAX_REDIRECTS: usize = 5;

/// The client with which `registry` is reached.
pub(super) fn client(access: &RegistryAccess, registry: &str) -> Result<Client, RegistryError> {
    let setup = |reason: String| RegistryError::Setup { registry: registry.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    // SSL_CERT_FILE and SSL_CERT_DIR replace the host's bundle, as everywhere. A host without one can still use
    // registries on loopback and those with a certificate folder; others are told that their issuer is unknown.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for dir in &access.certificate_dirs {
        for authority in authorities(&dir.join(registry)).map_err(setup)? {
            roots.add(authority).map_err(|error| setup(format!("{}: {error}", dir.join(registry).display())))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();

    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .user_agent(concat!("matchlock/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT.min(access.silence))
        .read_timeout(access.silence)
        .redirect(redirect::Policy::custom(redirects));
    let exceptions = || access.no_proxy.as_deref().and_then(NoProxy::from_string);
    if is_loopback(registry) {
        return builder.build().map_err(|error| setup(error.to_string()));
    }
    if let Some(url) = &access.https_proxy {
        builder = builder.proxy(Proxy::https(url).map_err(|error| setup(error.to_string()))?.no_proxy(exceptions()));
    }
    if let Some(url) = &access.http_proxy {
        builder = builder.proxy(Proxy::http(url).map_err(|error| setup(error.to_string()))?.no_proxy(exceptions()));
    }
    builder.build().map_err(|error| setup(error.to_string()))
}

/// Follow, but never from TLS to plain text.
fn redirects(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_secure && attempt.url().scheme() != "https" {
        attempt.error("the registry redirects from https to plain http")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("the registry redirects in circles")
    } else {
        attempt.follow()
    }
}

/// Every certificate in the `*.crt` files of `dir`, which need not exist.
fn authorities(dir: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            let certificates = CertificateDer::pem_file_iter(&path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            found.extend(certificates);
        }
    }
    Ok(found)
}
