//! The root that this internet trusts. It signs for every name, as those of the real one may be made to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    crypto::ring::{default_provider, sign::any_ecdsa_type},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert, ServerConfig},
    sign::CertifiedKey,
};

/// A root, and the servers' certificates by it.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    minted: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl Authority {
    pub(super) fn new() -> Result<Arc<Self>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Root of the test internet");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Arc::new(Self {
            pem: certificate.pem(),
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
            minted: Mutex::default(),
        }))
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// What its servers go by, which offer these protocols.
    pub(super) fn server(self: &Arc<Self>, protocols: &[&str]) -> Result<Arc<ServerConfig>> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = config.with_cert_resolver(Arc::new(Server(Arc::clone(self))));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_owned()).collect();
        Ok(Arc::new(config))
    }

    fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>> {
        let mut minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = minted.get(name) {
            return Ok(Arc::clone(leaf));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = any_ecdsa_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        let leaf = Arc::new(CertifiedKey::new(vec![certificate.into(), self.certificate.clone()], key));
        minted.insert(name.to_owned(), Arc::clone(&leaf));
        Ok(leaf)
    }
}

#[derive(Debug)]
struct Server(Arc<Authority>);

impl ResolvesServerCert for Server {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Who names nobody gets what servers have for such: somebody's.
        self.0.leaf(hello.server_name().unwrap_or(UNNAMED)).ok()
    }
}

/// Whose certificate a client gets that names nobody.
pub(super) const UNNAMED: &str = "unnamed.test";
