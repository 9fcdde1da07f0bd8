//! `matchlock kernel …`.

use matchlock_model::ExitStatus;

use crate::{env::Environment, error::CliError, output};

/// The kernel verbs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Fetch the guest kernel if there is none yet, and show where it is
    Pull,
}

pub(crate) async fn kernel(verb: Verb, environment: &Environment) -> Result<ExitStatus, CliError> {
    match verb {
        Verb::Pull => {
            let guest = environment.host()?.prepare().await.map_err(CliError::plain)?;
            let architecture = std::env::consts::ARCH;
            output::line(&format!("kernel {} ({architecture}): {}", guest.version, guest.kernel.display()))?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}
