//! `matchlock rm`.

use matchlock_model::{ExitStatus, SandboxId};
use matchlock_sandbox::store::{SandboxStore, Status, StoreError};

use super::{gc, get};
use crate::{env::Environment, error::CliError, output};

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
    let ids = if args.stopped {
        idle(&mut store)?
    } else if args.ids.is_empty() {
        return Err(CliError::failure("VM ID required (or use --stopped)"));
    } else {
        args.ids.iter().map(|id| get::parse(id)).collect::<Result<_, _>>()?
    };
    let gone = if args.stopped { Gone::Done } else { Gone::Unknown };
    let (_, status) = remove(&mut store, &ids, "Removed", gone)?;
    Ok(status)
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

/// Remove sandboxes, one line each; returns how many, and whether none is left of them.
pub(crate) fn remove(
    store: &mut SandboxStore,
    ids: &[SandboxId],
    word: &str,
    gone: Gone,
) -> Result<(usize, ExitStatus), CliError> {
    let mut removed = 0;
    let mut status = ExitStatus::SUCCESS;
    // Nobody reading what is printed is no reason to stop half-way.
    let mut printed = Ok(());
    for id in ids {
        let result = match store.remove(id) {
            Err(StoreError::NotFound(_)) if gone == Gone::Done => continue,
            result => result.map_err(CliError::during("remove VM")),
        };
        match result.and_then(|released| gc::failures(&released).map_or(Ok(()), Err)) {
            Ok(()) => {
                removed += 1;
                printed = printed.and(output::line(&format!("{word} {id}")));
            }
            Err(error) => {
                output::note(&format!("Failed to remove {id}: {error}"));
                status = ExitStatus::Failure;
            }
        }
    }
    printed?;
    Ok((removed, status))
}
