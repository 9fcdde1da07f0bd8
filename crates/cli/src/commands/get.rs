//! `matchlock get`.

use matchlock_model::{ExitStatus, SandboxId};
use matchlock_sandbox::store::Sandbox;
use serde_json::{Value, json};

use crate::{env::Environment, error::CliError, output};

/// Flags of `get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The sandbox
    id: String,
}

pub(crate) fn get(args: &Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    output::json(&record(&find(&args.id, environment)?))?;
    Ok(ExitStatus::SUCCESS)
}

/// The sandbox that was named.
pub(crate) fn find(id: &str, environment: &Environment) -> Result<Sandbox, CliError> {
    let id = parse(id)?;
    environment.host()?.sandboxes()?.get(&id).map_err(CliError::during("get VM"))
}

/// The id that was typed. What cannot be one is no sandbox's.
pub(crate) fn parse(id: &str) -> Result<SandboxId, CliError> {
    id.parse().map_err(|_| CliError::failure(format!("VM not found: {id:?} is not an id that `matchlock list` shows")))
}

/// A sandbox's record as JSON.
pub(crate) fn record(sandbox: &Sandbox) -> Value {
    json!({
        "id": sandbox.id,
        "pid": sandbox.owner.as_ref().map_or(0, |owner| owner.pid),
        "status": sandbox.status.as_str(),
        "image": sandbox.image,
        "created_at": sandbox.created_at,
        "config": sandbox.config,
    })
}
