//! `matchlock list`.

use matchlock_model::ExitStatus;

use crate::{env::Environment, error::CliError, output};

/// Flags of `list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those that run
    #[arg(long)]
    running: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn list(args: &Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let mut sandboxes = environment.host()?.sandboxes()?.list().map_err(CliError::during("list VMs"))?;
    sandboxes.retain(|sandbox| !args.running || sandbox.status.may_run());
    if args.json {
        let records: Vec<_> = sandboxes.iter().map(super::get::record).collect();
        output::json(&records)?;
        return Ok(ExitStatus::SUCCESS);
    }
    let row = |sandbox: &matchlock_sandbox::store::Sandbox| {
        vec![
            sandbox.id.to_string(),
            sandbox.status.to_string(),
            sandbox.image.clone(),
            sandbox.created_at.strftime("%Y-%m-%d %H:%M").to_string(),
            sandbox.owner.as_ref().map_or_else(|| "-".to_owned(), |owner| owner.pid.to_string()),
        ]
    };
    output::table(&["ID", "STATUS", "IMAGE", "CREATED", "PID"], &sandboxes.iter().map(row).collect::<Vec<_>>())?;
    Ok(ExitStatus::SUCCESS)
}
