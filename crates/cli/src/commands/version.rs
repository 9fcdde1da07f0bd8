//! `matchlock version`.

use matchlock_model::ExitStatus;

use crate::{error::CliError, output};

pub(crate) fn version() -> Result<ExitStatus, CliError> {
    output::line(&format!(
        "matchlock {} (commit: {}, target: {})",
        env!("CARGO_PKG_VERSION"),
        env!("MATCHLOCK_COMMIT"),
        env!("MATCHLOCK_TARGET"),
    ))?;
    Ok(ExitStatus::SUCCESS)
}
