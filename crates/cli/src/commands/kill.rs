//! `matchlock kill`.

use matchlock_model::{ExitStatus, SandboxId};
use matchlock_sandbox::store::{Reconciled, SandboxStore};

use super::{gc, get};
use crate::{env::Environment, error::CliError, output};

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
    let ids: Vec<SandboxId> = if args.all {
        let sandboxes = store.list().map_err(CliError::during("list VMs"))?;
        sandboxes.into_iter().filter(|sandbox| sandbox.status.may_run()).map(|sandbox| sandbox.id).collect()
    } else if args.ids.is_empty() {
        return Err(CliError::failure("VM ID required (or use --all)"));
    } else {
        args.ids.iter().map(|id| get::parse(id)).collect::<Result<_, _>>()?
    };
    let mut status = ExitStatus::SUCCESS;
    // Nobody reading what is printed is no reason to stop half-way.
    let mut printed = Ok(());
    for id in ids {
        match end(&mut store, &id) {
            Ok(()) => printed = printed.and(output::line(&format!("Killed {id}"))),
            Err(error) => {
                output::note(&format!("Failed to kill {id}: {error}"));
                status = ExitStatus::Failure;
            }
        }
    }
    printed.map(|()| status)
}

/// End a running sandbox in order, and come back when it is gone.
fn end(store: &mut SandboxStore, id: &SandboxId) -> Result<(), CliError> {
    let sandbox = store.get(id).map_err(CliError::during("get VM"))?;
    if !sandbox.status.may_run() {
        return Err(CliError::failure(format!("VM {id} is not running (status: {})", sandbox.status)));
    }
    match store.reconcile(id, true).map_err(CliError::during("end VM"))?.reconciled {
        Reconciled::Running => Err(CliError::failure("VM is still running")),
        Reconciled::Unknown(error) => Err(CliError::during(gc::UNKNOWN)(error)),
        Reconciled::Released(released) => gc::failures(&released).map_or(Ok(()), Err),
    }
}
