//! Credentials that never enter the VM: the guest knows placeholders, which become the values on the way out.
//!
//! Called by whoever terminates TLS and HTTP. Pure: what a host's traffic becomes is an [`Exchange`], made anew for each
//! request from the [`Secrets`] of that moment, so that a rotated value counts from the next request on. Invariants: no value
//! is in any text that this module gives to people, and memory that held one is zeroed; a value goes only to a host that its
//! secret is bound to, and a placeholder to no other.

mod current;
mod exchange;
mod stream;

use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroizing;

pub use self::{
    current::Current,
    exchange::{Changed, Exchange},
    stream::{Misdirected, Replacer},
};
use crate::policy::{Host, HostPattern};

/// Shortest placeholder: shorter ones could be met by accident.
pub const MIN_PLACEHOLDER: usize = 8;

/// Longest value, and longest placeholder. What goes through a header has to fit in one.
pub const MAX_LENGTH: usize = 16 * 1024;

/// Values below are not looked for in responses, which have such texts by accident.
pub const SCRUBBED_FROM: usize = 6;

/// Values that a secret had before, which are still looked for in responses.
pub const MAX_FORMER: usize = 8;

/// What a placeholder begins with that was not chosen by the user; 32 hexadecimal digits follow.
pub const PLACEHOLDER_PREFIX: &str = "SANDBOX_SECRET_";

/// What the guest must not know. Printed, it does not say what it is.
#[derive(Clone)]
pub struct Value(Arc<Zeroizing<Vec<u8>>>);

/// A value, what stands for it, and whom it is for.
#[derive(Clone)]
pub struct Secret {
    name: String,
    value: Value,
    /// What it was before, the latest last: servers may know them still.
    former: Vec<Value>,
    placeholder: String,
    /// Nowhere, if empty.
    hosts: Vec<HostPattern>,
    options: Options,
}

/// Where a secret is replaced that it is not by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// In bodies of requests.
    pub body: bool,
    /// Also where the network can read it: HTTP without TLS.
    pub without_tls: bool,
}

/// Its value is not for anybody's eyes.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// All secrets of a sandbox.
#[derive(Clone, Default)]
pub struct Secrets(Vec<Secret>);

/// What cannot be a secret, or not with the others.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SecretError {
    /// The value is empty, too long, or has control characters, which no header can carry.
    #[error("the value of a secret has 1 to {MAX_LENGTH} bytes and no line breaks or other control characters")]
    Value,
    /// The placeholder.
    #[error("a placeholder has {MIN_PLACEHOLDER} to {MAX_LENGTH} printable ASCII characters and no spaces")]
    Placeholder,
    /// One is within the other, so that it could not be told which is meant.
    #[error("the placeholders of {0} and {1} are not to be told apart")]
    Alike(String, String),
    /// Two of one name.
    #[error("there are two secrets named {0}")]
    Twice(String),
    /// The system has no random bytes.
    #[error("no random bytes for a placeholder")]
    Random,
}

impl Value {
    /// Takes the bytes, which are zeroed when the last that holds them is gone.
    ///
    /// # Errors
    /// If no header could carry it.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() || bytes.len() > MAX_LENGTH || bytes.iter().any(u8::is_ascii_control) {
            return Err(SecretError::Value);
        }
        Ok(Self(Arc::new(bytes)))
    }

    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::clone(&self.0)
    }

    /// The value itself: for whoever hands it over to another process of ours, and for nobody else.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl Secret {
    /// With a placeholder of its own if none was chosen.
    ///
    /// # Errors
    /// If the placeholder cannot be one.
    pub fn new(
        name: String,
        value: Value,
        placeholder: Option<String>,
        hosts: Vec<HostPattern>,
        options: Options,
    ) -> Result<Self, SecretError> {
        let placeholder = placeholder.map_or_else(random_placeholder, Ok)?;
        let fits = (MIN_PLACEHOLDER..=MAX_LENGTH).contains(&placeholder.len());
        if !fits || !placeholder.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Placeholder);
        }
        Ok(Self { name, value, former: Vec::new(), placeholder, hosts, options })
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the guest is given.
    #[must_use]
    pub fn placeholder(&self) -> &str {
        &self.placeholder
    }

    /// All that it is and was.
    fn values(&self) -> impl Iterator<Item = &Value> {
        self.former.iter().chain([&self.value])
    }

    fn is_for(&self, host: &Host) -> bool {
        self.hosts.iter().any(|pattern| pattern.has(host))
    }
}

impl Secrets {
    /// All of them, told apart.
    ///
    /// # Errors
    /// If two have one name, or placeholders of which one is in the other.
    pub fn new(secrets: Vec<Secret>) -> Result<Self, SecretError> {
        for (at, secret) in secrets.iter().enumerate() {
            for other in &secrets[..at] {
                if secret.name == other.name {
                    return Err(SecretError::Twice(secret.name.clone()));
                }
                let (one, two) = (&secret.placeholder, &other.placeholder);
                if one.contains(two.as_str()) || two.contains(one.as_str()) {
                    return Err(SecretError::Alike(other.name.clone(), secret.name.clone()));
                }
            }
        }
        Ok(Self(secrets))
    }

    /// With another value for one of them; `None` if there is none of this name. What it was is still kept from coming back.
    #[must_use]
    pub fn rotated(&self, name: &str, value: Value) -> Option<Self> {
        let mut secrets = self.clone();
        let secret = secrets.0.iter_mut().find(|secret| secret.name == name)?;
        secret.former.retain(|former| former.0 != value.0);
        if secret.former.len() == MAX_FORMER {
            secret.former.remove(0);
        }
        secret.former.push(std::mem::replace(&mut secret.value, value));
        Some(secrets)
    }

    /// What becomes of an exchange with this host; `verified` if it has proven by TLS that it is the one.
    #[must_use]
    pub fn towards(&self, host: &Host, verified: bool) -> Exchange {
        let (mut bound, mut others) = (Vec::new(), Vec::new());
        for secret in self.0.iter().cloned() {
            let name = secret.name.clone();
            match secret.is_for(host) {
                true if verified || secret.options.without_tls => bound.push(secret),
                true => others.push((secret, Misdirected::WithoutTls(name))),
                false => others.push((secret, Misdirected::Host(name))),
            }
        }
        Exchange::new(bound, others)
    }

    /// Whether any of them is for this host.
    #[must_use]
    pub fn are_for(&self, host: &Host) -> bool {
        self.0.iter().any(|secret| secret.is_for(host))
    }
}

/// A placeholder that nobody else has.
///
/// # Errors
/// If the system has no random bytes.
pub fn random_placeholder() -> Result<String, SecretError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| SecretError::Random)?;
    Ok(format!("{PLACEHOLDER_PREFIX}{:032x}", u128::from_be_bytes(random)))
}
