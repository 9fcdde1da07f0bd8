//! The environment: the only place where its variables are read.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use matchlock_sandbox::{Host, image::RegistryAccess};

use crate::{args::LogLevel, error::CliError};

/// Set by `run --detach` for the process that becomes the supervisor: the descriptor on which it says that it is ready.
pub(crate) const READY_FD: &str = "MATCHLOCK_READY_FD";

/// Likewise, if there are secrets: the descriptor on which it is given them.
pub(crate) const SECRETS_FD: &str = "MATCHLOCK_SECRETS_FD";

/// What the environment says.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Base of `~/.matchlock` and `~/.cache/matchlock`.
    home: Option<PathBuf>,
    /// `MATCHLOCK_KERNEL`: the guest kernel to use.
    kernel: Option<PathBuf>,
    /// The caller's terminal type, for programs that get its terminal.
    pub(crate) term: Option<String>,
    /// See [`READY_FD`].
    pub(crate) ready_fd: Option<OsString>,
    /// See [`SECRETS_FD`].
    pub(crate) secrets_fd: Option<OsString>,
    log_level: Option<OsString>,
}

impl Environment {
    /// Read it.
    pub(crate) fn read() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            home: set("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            kernel: set("MATCHLOCK_KERNEL").map(PathBuf::from),
            term: set("TERM").and_then(|term| term.into_string().ok()),
            ready_fd: set(READY_FD),
            secrets_fd: set(SECRETS_FD),
            log_level: set("MATCHLOCK_LOG_LEVEL"),
        }
    }

    /// `MATCHLOCK_LOG_LEVEL`.
    pub(crate) fn log_level(&self) -> Result<Option<LogLevel>, CliError> {
        let Some(word) = &self.log_level else { return Ok(None) };
        let level = word.to_str().and_then(|word| LogLevel::from_str(word, true).ok());
        level.map(Some).ok_or_else(|| {
            CliError::failure(format!("invalid MATCHLOCK_LOG_LEVEL {}: use debug, info, warn or error", word.display()))
        })
    }

    /// This host, with the user's settings.
    pub(crate) fn host(&self) -> Result<Host, CliError> {
        Ok(Host::new(self.home()?, self.kernel.clone()))
    }

    /// How this user reaches registries.
    pub(crate) fn registries(&self) -> Result<RegistryAccess, CliError> {
        Ok(RegistryAccess::conventional(self.home()?, |name| std::env::var_os(name)))
    }

    fn home(&self) -> Result<&Path, CliError> {
        let unset = || CliError::failure("HOME is not set to an absolute path: set it to your home folder");
        self.home.as_deref().ok_or_else(unset)
    }

    /// The value of a variable that the user named (`-e NAME`, `--secret NAME@HOST`).
    pub(crate) fn named(name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}
