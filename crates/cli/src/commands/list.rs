//! `matchlock list`.

use matchlock_model::ExitStatus;
use matchlock_sandbox::warm::{self, Kept};

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

pub(crate) async fn list(args: &Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let host = environment.host()?;
    let mut sandboxes = host.sandboxes()?.list().map_err(CliError::during("list VMs"))?;
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
    let spares = warm::kept(&host.state).await.map_err(CliError::io("list spare sandboxes"))?;
    if !spares.is_empty() {
        output::text("\n")?;
        output::table(&SPARES_HEADER, &spares.iter().map(spares_row).collect::<Vec<_>>())?;
    }
    Ok(ExitStatus::SUCCESS)
}

const SPARES_HEADER: [&str; 6] = ["SPARES", "IMAGE", "CPUS", "MEMORY", "DISK", "PID"];

/// What one process keeps: so many of so many are ready.
fn spares_row(kept: &Kept) -> Vec<String> {
    let wish = &kept.wish;
    vec![
        format!("{} of {}", kept.ready, wish.count),
        wish.image.clone().unwrap_or_else(|| "any".to_owned()),
        wish.vcpus.to_string(),
        format!("{} MB", wish.memory_mb),
        format!("{} MB", wish.disk_size_mb),
        kept.pid.to_string(),
    ]
}
