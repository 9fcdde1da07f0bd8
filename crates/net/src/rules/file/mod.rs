//! The policy file: what a sandbox may reach, down to single requests, in one TOML document (`docs/policy.md`).
//!
//! Called by `cli` with the text of `--policy FILE`. [`table`] is what stands in the document, [`compile`] what it means.
//! Every error is one line with the file and the line in it. Nothing is passed over: an unknown key, a pattern that is none, a rule
//! that does nothing or that connections could go past are errors.

mod compile;
mod error;
mod size;
mod table;

pub use self::error::{MAX_RULE_NAME, PolicyFileError, Wrong};
use self::{error::At, table::Document};
use super::Rules;
use crate::policy::{HostPattern, PrivateTarget, Target};

/// Bytes of a policy file.
pub const MAX_FILE: usize = 1024 * 1024;

/// What a policy file says.
#[derive(Clone, Debug, Default)]
pub struct PolicyFile {
    /// The allow-list: `network.allow` and the hosts of rules that allow.
    pub allowed: Vec<Target>,
    /// `network.allow_private`.
    pub allow_private: Vec<PrivateTarget>,
    /// `network.tls_passthrough`.
    pub passthrough: Vec<HostPattern>,
    /// `[[rule]]`.
    pub rules: Rules,
}

impl PolicyFile {
    /// What `text` says; `file` is what it is called in errors.
    ///
    /// # Errors
    /// If anything in it is not as it has to be.
    pub fn parse(file: &str, text: &str) -> Result<Self, PolicyFileError> {
        read(text).map_err(|at| at.in_file(file, text))
    }
}

fn read(text: &str) -> Result<PolicyFile, At> {
    if text.len() > MAX_FILE {
        return Err(At::start(Wrong::TooLong));
    }
    let document: Document = toml::from_str(text).map_err(|error| At::toml(&error))?;
    compile::compile(&document)
}
