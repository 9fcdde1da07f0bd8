//! The one error of the program: what to print, and how to exit.

use std::{error::Error, fmt, io};

use matchlock_model::{ExitStatus, one_line};
use matchlock_sandbox::store::StoreError;

/// An error as the user meets it: one line, "operation: cause: cause", and an exit status.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) status: ExitStatus,
    message: String,
}

impl CliError {
    /// An error of the program itself (exit status 1).
    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Failure, message: message.into() }
    }

    /// An error with an exit status of its own.
    pub(crate) fn with_status(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// For `map_err`: `error` happened while doing `operation`.
    pub(crate) fn during<E: Error>(operation: &str) -> impl FnOnce(E) -> Self {
        move |error| Self::failure(format!("{operation}: {}", one_line(&error)))
    }

    /// For `map_err` where the error says by itself what could not be done.
    pub(crate) fn plain<E: Error>(error: E) -> Self {
        Self::failure(one_line(&error))
    }

    /// [`CliError::during`] for plain I/O errors.
    pub(crate) fn io(operation: &str) -> impl FnOnce(io::Error) -> Self {
        Self::during(operation)
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::plain(error)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
