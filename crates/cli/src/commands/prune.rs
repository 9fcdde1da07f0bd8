//! `matchlock prune`.

use matchlock_model::ExitStatus;
use matchlock_sandbox::Swept;

use super::{
    each::Each,
    rm::{self, Gone},
};
use crate::{env::Environment, error::CliError, output};

pub(crate) fn prune(environment: &Environment) -> Result<ExitStatus, CliError> {
    let host = environment.host()?;
    let mut store = host.sandboxes()?;
    let idle = rm::idle(&mut store)?;
    let mut each = Each::new();
    let removed = rm::remove(&mut store, &idle, ("Pruned", Gone::Done), &mut each);
    let status = each.finish()?;
    output::line(&format!("Pruned {removed} VMs"))?;
    let swept = host.sweep_guest_files().map_err(CliError::io("remove what guests do not start from any more"))?;
    match swept {
        Swept::Templates(0) => {}
        Swept::Templates(count) => output::line(&format!("Pruned {count} templates"))?,
        Swept::Busy => {
            output::note("a sandbox is being started; kernels, initial file systems and templates were left alone");
        }
    }
    Ok(status)
}
