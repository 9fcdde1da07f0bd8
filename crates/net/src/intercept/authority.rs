//! The authority that a sandbox's guest trusts, and no other: made with the sandbox, kept in memory only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    crypto::ring::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use thiserror::Error;

use crate::policy::Host;

/// Leaves that are kept; beyond, the one that was not used for the longest time is minted anew when it is asked for.
pub const CACHED_LEAVES: usize = 1024;

/// How far a guest's clock may be behind.
const BEHIND: Duration = Duration::from_mins(5);
/// A leaf's life. Clients refuse those of more than 398 days.
const LEAF_LIFE: Duration = Duration::from_hours(365 * 24);
const AUTHORITY_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// Longest common name (RFC 5280, appendix A.1).
const MAX_COMMON_NAME: usize = 64;

/// Signs for names.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    leaves: Mutex<Leaves>,
}

#[derive(Default)]
struct Leaves {
    by_host: HashMap<Host, (Arc<CertifiedKey>, u64)>,
    uses: u64,
}

/// A certificate could not be made.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Nor its key.
    #[error("a certificate cannot be made")]
    Mint(#[from] rcgen::Error),
    /// The key is not taken.
    #[error("a certificate's key cannot be used")]
    Key(#[from] rustls::Error),
}

impl Authority {
    /// A new one, called so in the certificates that people look at.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(called: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(called, AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
            leaves: Mutex::default(),
        })
    }

    /// What the guest is to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate and key for a host that policy has allowed: made once, however many ask at once.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn leaf(&self, host: &Host) -> Result<Arc<CertifiedKey>, AuthorityError> {
        // Held while minting, which takes less than a connection's handshake. Nothing in there can be left half done.
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.uses += 1;
        let now = leaves.uses;
        if let Some((leaf, used)) = leaves.by_host.get_mut(host) {
            *used = now;
            return Ok(Arc::clone(leaf));
        }
        let leaf = Arc::new(self.mint(host)?);
        if leaves.by_host.len() >= CACHED_LEAVES
            && let Some(oldest) = leaves.by_host.iter().min_by_key(|(_, (_, used))| *used).map(|(host, _)| host.clone())
        {
            leaves.by_host.remove(&oldest);
        }
        leaves.by_host.insert(host.clone(), (Arc::clone(&leaf), now));
        Ok(leaf)
    }

    fn mint(&self, host: &Host) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(&host.to_string(), LEAF_LIFE);
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
            Host::Address(address) => SanType::IpAddress(*address),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = any_ecdsa_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        Ok(CertifiedKey::new(vec![certificate.into(), self.certificate.clone()], key))
    }
}

fn params(called: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - BEHIND).into();
    params.not_after = (now + life).into();
    params.distinguished_name = DistinguishedName::new();
    if called.len() <= MAX_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, called);
    }
    params
}
