//! `matchlock rm`.

use matchlock_model::{ExitStatus, SandboxId};
use matchlock_sandbox::store::{SandboxStore, Status, StoreError};

use super::{each::Each, gc};
use crate::{env::Environment, error::CliError};

/// Flags of `rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every sandbox that does not run
    #[arg(long, conflicts_with = "ids")]
    stopped: bool,
    /// The sandboxes
    ids: Vec<String>,
}

pub(crate) fn rm(args: &Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let mut store = environment.host()?.sandboxes()?;
    let mut each = Each::new();
    let ids = if args.stopped {
        idle(&mut store)?
    } else if args.ids.is_empty() {
        return Err(CliError::failure("VM ID required (or use --stopped)"));
    } else {
        each.typed(&args.ids)
    };
    let gone = if args.stopped { Gone::Done } else { Gone::Unknown };
    remove(&mut store, &ids, ("Removed", gone), &mut each);
    each.finish()
}

/// The sandboxes that do not run.
pub(crate) fn idle(store: &mut SandboxStore) -> Result<Vec<SandboxId>, CliError> {
    let sandboxes = store.list().map_err(CliError::during("list VMs"))?;
    Ok(sandboxes.into_iter().filter(|sandbox| sandbox.status != Status::Running).map(|sandbox| sandbox.id).collect())
}

/// What a sandbox is that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Removed by somebody else since it was listed.
    Done,
    /// None that was ever there, for all that is known.
    Unknown,
}

/// Remove sandboxes; returns how many.
pub(crate) fn remove(
    store: &mut SandboxStore,
    ids: &[SandboxId],
    (word, gone): (&str, Gone),
    each: &mut Each,
) -> usize {
    let mut removed = 0;
    for id in ids {
        let result = match store.remove(id) {
            Err(StoreError::NotFound(_)) if gone == Gone::Done => continue,
            result => result.map_err(CliError::during("remove VM")),
        };
        match result.and_then(|released| gc::failures(&released).map_or(Ok(()), Err)) {
            Ok(()) => {
                removed += 1;
                each.done(&format!("{word} {id}"));
            }
            Err(error) => each.failed(&format!("Failed to remove {id}: {error}")),
        }
    }
    removed
}
