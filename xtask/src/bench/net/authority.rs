//! Who signs for the servers of the bench: a root, and certificates with their keys in files, as nginx and mitmproxy read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A certificate for all names and addresses of the bench.
pub(super) struct Certified {
    /// The root's certificate.
    pub(super) root: PathBuf,
    /// The server's, with the root's after it.
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file.
    pub(super) both: PathBuf,
}

impl Certified {
    /// A new root, and one certificate by it. Keys are on P-256, as the gateway's are.
    pub(super) fn new(folder: &Path, names: &[&str]) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Root of the bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.use_authority_key_identifier_extension = true;
        let chain = params.signed_by(&key, &issuer)?.pem() + &root;
        let key = key.serialize_pem();
        let write = |name, content: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, content)?;
            Ok(path)
        };
        Ok(Self {
            root: write("root.pem", &root)?,
            chain: write("chain.pem", &chain)?,
            key: write("key.pem", &key)?,
            both: write("both.pem", &(key + &chain))?,
        })
    }
}
