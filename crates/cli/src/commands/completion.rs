//! `matchlock completion SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;
use matchlock_model::ExitStatus;

use crate::{args::Cli, error::CliError, output};

/// Flags of `completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell to complete in
    shell: Shell,
}

pub(crate) fn completion(args: &Args) -> Result<ExitStatus, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "matchlock", &mut script);
    output::text(script)?;
    Ok(ExitStatus::SUCCESS)
}
