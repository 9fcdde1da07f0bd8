//! The hidden verb with which this program is started to hold a sandbox's network namespace.

use matchlock_model::ExitStatus;
use matchlock_sandbox::net::namespace;

use crate::error::CliError;

/// There is no other thread, which entering a namespace asks for.
pub(crate) fn hold() -> Result<ExitStatus, CliError> {
    namespace::hold().map_err(CliError::io("hold a network"))?;
    Ok(ExitStatus::SUCCESS)
}
