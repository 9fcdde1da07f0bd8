//! `matchlock inspect`.

use matchlock_model::ExitStatus;
use serde_json::json;

use super::get;
use crate::{env::Environment, error::CliError, output};

/// Flags of `inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The sandbox
    id: String,
}

pub(crate) fn inspect(args: &Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let sandbox = get::find(&args.id, environment)?;
    let store = environment.host()?.sandboxes()?;
    let history = store.history(&sandbox.id).map_err(CliError::during("inspect VM"))?;
    let owed = store.owed(&sandbox.id).map_err(CliError::during("inspect VM"))?;
    output::json(&json!({
        "vm": get::record(&sandbox),
        "lifecycle": history.last(),
        "history": history,
        "held": owed.iter().map(|owed| owed.action.to_string()).collect::<Vec<_>>(),
    }))?;
    Ok(ExitStatus::SUCCESS)
}
