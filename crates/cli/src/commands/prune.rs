//! `matchlock prune`.

use matchlock_model::ExitStatus;

use super::rm::{self, Gone};
use crate::{env::Environment, error::CliError, output};

pub(crate) fn prune(environment: &Environment) -> Result<ExitStatus, CliError> {
    let host = environment.host()?;
    let mut store = host.sandboxes()?;
    let idle = rm::idle(&mut store)?;
    let (removed, status) = rm::remove(&mut store, &idle, "Pruned", Gone::Done)?;
    output::line(&format!("Pruned {removed} VMs"))?;
    host.sweep_guest_files().map_err(CliError::io("remove superseded kernels and initial file systems"))?;
    Ok(status)
}
