//! `matchlock gc`.

use matchlock_model::{ExitStatus, one_line};
use matchlock_sandbox::{
    store::{self, ImageStore, Reconciled, Released, Report, StoreError},
    warm,
};

use super::get;
use crate::{env::Environment, error::CliError, output};

/// Flags of `gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// End and clean running sandboxes, too
    #[arg(long)]
    force_running: bool,
    /// Put a database that is damaged out of the way first; a new one is begun
    #[arg(long)]
    move_aside: bool,
    /// Only this sandbox
    id: Option<String>,
}

/// Before the reason.
pub(crate) const UNKNOWN: &str = "cannot tell whether VM is running";

pub(crate) fn gc(args: &Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    if args.move_aside {
        move_aside(environment)?;
    }
    let host = environment.host()?;
    let mut store = host.sandboxes()?;
    let reports = match &args.id {
        Some(id) => vec![store.reconcile(&get::parse(id)?, args.force_running).map_err(CliError::during("gc"))?],
        None => store.reconcile_all(args.force_running).map_err(CliError::during("gc"))?,
    };
    let mut complete = true;
    for report in &reports {
        complete &= show(report)?;
    }
    // A running sandbox is no failure, unless it is the one that was to be cleaned.
    let refused = args.id.is_some() && matches!(reports[..], [Report { reconciled: Reconciled::Running, .. }]);
    if args.id.is_none() {
        warm::sweep(&host.state).map_err(CliError::io("gc"))?;
    }
    if complete && args.id.is_none() {
        output::line(&format!("Reconciled {} VMs", reports.len()))?;
    }
    Ok(if complete && !refused { ExitStatus::SUCCESS } else { ExitStatus::Failure })
}

/// Put the databases that are damaged out of the way. What they spoke of is then found by its folder.
fn move_aside(environment: &Environment) -> Result<(), CliError> {
    let host = environment.host()?;
    let sandboxes = host.sandboxes().and_then(|mut store| store.list().map(drop));
    let images = ImageStore::open(&host.cache).and_then(|store| store.list().map(drop));
    for looked_at in [sandboxes, images] {
        match looked_at {
            Err(StoreError::Damaged { path, .. }) => {
                let aside = store::move_aside(&path)?;
                output::line(&format!("{} is damaged: moved to {}", path.display(), aside.display()))?;
            }
            looked_at => looked_at?,
        }
    }
    Ok(())
}

/// Print what came of one sandbox; `false` if something has to be tried again.
fn show(report: &Report) -> Result<bool, CliError> {
    let id = &report.id;
    match &report.reconciled {
        Reconciled::Running => output::line(&format!("{id}: skipped (VM is running)"))?,
        Reconciled::Unknown(error) => {
            output::note(&format!("{id}: skipped ({UNKNOWN}: {})", one_line(error)));
            return Ok(false);
        }
        Reconciled::Released(released) => {
            if !released.cleaned.is_empty() {
                output::line(&format!("{id}: cleaned {}", released.cleaned.join(", ")))?;
            } else if released.failed.is_empty() {
                output::line(&format!("{id}: no resources to clean"))?;
            }
            for (key, error) in &released.failed {
                output::note(&format!("{id}: failed {key}: {}", one_line(error)));
            }
            return Ok(released.failed.is_empty());
        }
    }
    Ok(true)
}

/// What could not be given back, as one error.
pub(crate) fn failures(released: &Released) -> Option<CliError> {
    let failed: Vec<_> = released.failed.iter().map(|(key, error)| format!("{key}: {}", one_line(error))).collect();
    (!failed.is_empty()).then(|| CliError::failure(format!("{} (try matchlock gc)", failed.join("; "))))
}
