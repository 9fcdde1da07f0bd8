//! The hidden verb with which this program is started to stand between a machine that changes hands and its owner.

use std::ffi::OsString;

use matchlock_model::ExitStatus;
use matchlock_sandbox::vmm;

use crate::error::CliError;

/// A machine's command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn keep(args: Args) -> Result<ExitStatus, CliError> {
    vmm::keep(args.command.into_iter()).map_err(CliError::io("keep a machine"))?;
    Ok(ExitStatus::SUCCESS)
}
