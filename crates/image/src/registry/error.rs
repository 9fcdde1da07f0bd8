//! What goes wrong between us and a registry, each as one line that says what to do.

use std::{error::Error, io, time::Duration};

use matchlock_model::Digest;
use thiserror::Error;

/// A registry that could not give what was asked of it.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
#[non_exhaustive]
pub enum RegistryError {
    #[error("set up the connection to {registry}: {reason}")]
    Setup { registry: String, reason: String },
    #[error("cannot reach registry {registry} ({reason}); check the name and your network")]
    Unreachable { registry: String, reason: String },
    #[error(
        "the certificate of {registry} is not trusted ({reason}); put its CA into /etc/docker/certs.d/{registry}/ca.crt"
    )]
    Untrusted { registry: String, reason: String },
    #[error("{registry} sent nothing for {silence:?}; try again")]
    Silent { registry: String, silence: Duration },
    #[error("the connection to {registry} broke off ({reason}); try again")]
    Broken { registry: String, reason: String },
    #[error("{registry} has no image {image} (MANIFEST_UNKNOWN); check the name and the tag")]
    Unknown { registry: String, image: String },
    #[error(
        "{registry} has no image {image}, or hides it from strangers (UNAUTHORIZED); \
        check the name, or run: docker login {registry}{}", because(.hindrance.as_ref())
    )]
    LoginNeeded { registry: String, image: String, hindrance: Option<String> },
    #[error(
        "{registry} refuses {image} with the stored credentials (UNAUTHORIZED); run: docker login {registry}{}",
        because(.hindrance.as_ref())
    )]
    LoginRefused { registry: String, image: String, hindrance: Option<String> },
    #[error(
        "{registry} limits how often it answers (TOOMANYREQUESTS); try again later, or run: docker login {registry}"
    )]
    TooManyRequests { registry: String },
    #[error("{registry} answered {status} to the request for {what}{}", because(.message.as_ref()))]
    Status { registry: String, status: u16, what: String, message: Option<String> },
    #[error("{what} from {registry} is larger than the limit of {limit} bytes")]
    TooLarge { registry: String, what: String, limit: u64 },
    #[error("{what} has digest {found}, expected {expected}; the registry or the connection changed it")]
    WrongDigest { what: String, found: Digest, expected: Digest },
    #[error("{what} has {found} bytes, expected {expected}")]
    WrongSize { what: String, found: u64, expected: u64 },
    #[error("the token server {realm} of {registry} is not reached over https; nothing was sent to it")]
    InsecureTokens { registry: String, realm: String },
    #[error("the token server of {registry} gave no token ({reason})")]
    NoToken { registry: String, reason: String },
}

fn because(reason: Option<&String>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

impl RegistryError {
    /// The same error for what `reqwest` reports about `registry`.
    pub(super) fn from_transport(registry: &str, silence: Duration, error: &reqwest::Error) -> Self {
        let registry = registry.to_owned();
        let (reason, untrusted) = root_cause(error);
        if untrusted {
            Self::Untrusted { registry, reason }
        } else if error.is_timeout() {
            Self::Silent { registry, silence }
        } else if error.is_connect() {
            Self::Unreachable { registry, reason }
        } else {
            Self::Broken { registry, reason }
        }
    }

    /// The innermost reason of a transport error.
    pub(super) fn reason(error: &reqwest::Error) -> String {
        root_cause(error).0
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) const fn is_transient(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Broken { .. } | Self::TooManyRequests { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// Whether the registry, if it was reached before, may be reached again a moment later.
    pub(crate) const fn is_interruption(&self) -> bool {
        self.is_transient() || matches!(self, Self::Unreachable { .. })
    }
}

/// The innermost reason, and whether it is about the server's certificate.
fn root_cause(error: &reqwest::Error) -> (String, bool) {
    let mut cause: &dyn Error = error;
    loop {
        // An io::Error hides what it wraps from `source`.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match wrapped.map(|inner| inner as &dyn Error).or_else(|| cause.source()) {
            Some(inner) => cause = inner,
            None => break,
        }
    }
    let untrusted = matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)));
    (cause.to_string(), untrusted)
}
