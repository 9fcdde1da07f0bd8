//! `matchlock kill`.

use matchlock_model::{ExitStatus, SandboxId};
use matchlock_sandbox::store::{Reconciled, Report, SandboxStore, StoreError};

use super::{each::Each, gc};
use crate::{env::Environment, error::CliError};

/// Flags of `kill`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every sandbox that runs
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// The sandboxes
    ids: Vec<String>,
}

pub(crate) fn kill(args: &Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let mut store = environment.host()?.sandboxes()?;
    let mut each = Each::new();
    let ids: Vec<SandboxId> = if args.all {
        let sandboxes = store.list().map_err(CliError::during("list VMs"))?;
        sandboxes.into_iter().filter(|sandbox| sandbox.status.may_run()).map(|sandbox| sandbox.id).collect()
    } else if args.ids.is_empty() {
        return Err(CliError::failure("VM ID required (or use --all)"));
    } else {
        each.typed(&args.ids)
    };
    for id in ids {
        match end(&mut store, &id) {
            Ok(unclean) => {
                each.done(&format!("Killed {id}"));
                if let Some(why) = unclean {
                    each.failed(&format!("{id}: {why}"));
                }
            }
            // It ended by itself meanwhile.
            Err(NotEnded::Over(_)) if args.all => {}
            Err(NotEnded::Over(error) | NotEnded::Failed(error)) => {
                each.failed(&format!("Failed to kill {id}: {error}"));
            }
        }
    }
    each.finish()
}

/// Why a sandbox was not ended.
enum NotEnded {
    /// It does not run.
    Over(CliError),
    Failed(CliError),
}

/// End a running sandbox in order, and come back when it is gone. Returns what went wrong at its end: its disks may lack
/// something.
fn end(store: &mut SandboxStore, id: &SandboxId) -> Result<Option<String>, NotEnded> {
    let sandbox = store.get(id).map_err(|error| match error {
        StoreError::NotFound(_) => NotEnded::Over(CliError::during("get VM")(error)),
        error => NotEnded::Failed(CliError::during("get VM")(error)),
    })?;
    if !sandbox.status.may_run() {
        let message = format!("VM {id} is not running (status: {})", sandbox.status);
        return Err(NotEnded::Over(CliError::failure(message)));
    }
    let failed = match store.reconcile(id, true) {
        Ok(Report { reconciled: Reconciled::Released(released), .. }) => gc::failures(&released),
        Ok(Report { reconciled: Reconciled::Running, .. }) => Some(CliError::failure("VM is still running")),
        Ok(Report { reconciled: Reconciled::Unknown(error), .. }) => Some(CliError::during(gc::UNKNOWN)(error)),
        // It ran a moment ago, and has been removed since.
        Err(StoreError::NotFound(_)) => None,
        Err(error) => Some(CliError::during("end VM")(error)),
    };
    if let Some(error) = failed {
        return Err(NotEnded::Failed(error));
    }
    // The records outlive a sandbox that leaves nothing else.
    let history = store.history(id).map_err(|error| NotEnded::Failed(CliError::during("read VM history")(error)))?;
    Ok(history.into_iter().next_back().map(|last| last.details.last_error).filter(|why| !why.is_empty()))
}
