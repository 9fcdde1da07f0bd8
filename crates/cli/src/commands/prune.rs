//! `matchlock prune`.

use matchlock_model::ExitStatus;

use super::rm;
use crate::{env::Environment, error::CliError, output};

pub(crate) fn prune(environment: &Environment) -> Result<ExitStatus, CliError> {
    let mut store = environment.host()?.sandboxes()?;
    let idle = rm::idle(&mut store)?;
    let (removed, status) = rm::remove(&mut store, &idle, "Pruned")?;
    output::line(&format!("Pruned {removed} VMs"))?;
    Ok(status)
}
