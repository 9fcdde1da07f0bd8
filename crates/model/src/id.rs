//! Sandbox ids.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The id of a sandbox: `vm-` and eight lower-case hex digits.
///
/// It names a folder, so nothing that is not exactly this shape ever becomes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

/// Why a text is no [`SandboxId`].
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no VM id (expected vm- and eight hex digits, as shown by `matchlock list`)")]
pub struct IdError(String);

impl SandboxId {
    /// The id made of four random bytes. Uniqueness is the store's to check.
    #[must_use]
    pub fn from_random(bytes: [u8; 4]) -> Self {
        Self(format!("vm-{:08x}", u32::from_be_bytes(bytes)))
    }

    /// The digits as a number, which is another for every id.
    #[must_use]
    pub fn number(&self) -> u32 {
        let digits = self.0.rsplit('-').next().unwrap_or_default();
        u32::from_str_radix(digits, 16).unwrap_or_default()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SandboxId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = text.strip_prefix("vm-").unwrap_or_default();
        if hex.len() == 8 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError(text.chars().take(100).collect()))
        }
    }
}

impl TryFrom<String> for SandboxId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_shape_is_an_id() {
        assert_eq!(SandboxId::from_random([0, 0xab, 1, 2]).as_str(), "vm-00ab0102");
        assert_eq!("vm-00ab0102".parse::<SandboxId>().map(|id| id.number()), Ok(0x00ab_0102));
        for bad in ["", "vm-", "vm-00AB0102", "vm-00ab010", "vm-00ab01022", "vm-../../x", "00ab0102"] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }
}
