//! Giving back what sandboxes have taken: at the end of a life, after a crash, and when nobody knows of it any more.
//!
//! Called by the supervisor when it closes its sandbox ([`SandboxStore::release`]) and by `gc`, `rm` and `prune`. Both
//! ways replay the same undo rows. Invariants: nothing is taken from a sandbox whose supervisor lives; `cleaned` means
//! that nothing is owed, so doing it again does nothing; what failed stays owed and is named.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use matchlock_model::{Phase, SandboxId, one_line};
use rusqlite::Transaction;

use crate::{
    Action, CleanupStatus, CleanupStep, Outcome, Owed, Sandbox, SandboxStore, StoreError, UndoError, database::Abort,
    folder, lifecycle, liveness, sandboxes, undo,
};

/// How long a supervisor may take to close its sandbox when it is asked to end, beyond the time that its processes are
/// given: writing out disks may take it 30 seconds.
const CLOSE_DEADLINE: Duration = Duration::from_secs(45);

/// What came of reconciling one sandbox.
#[derive(Debug)]
pub struct Report {
    /// Which one.
    pub id: SandboxId,
    /// What was done.
    pub reconciled: Reconciled,
}

/// What was done about a sandbox.
#[derive(Debug)]
pub enum Reconciled {
    /// Nothing: it runs.
    Running,
    /// What it owed was given back, as far as it went.
    Released(Released),
    /// Nothing: whether it runs cannot be told.
    Unknown(StoreError),
}

/// What was given back. Both lists are empty where nothing was owed.
#[derive(Debug, Default)]
pub struct Released {
    /// The actions that changed something, sorted.
    pub cleaned: Vec<String>,
    /// The actions that have to be tried again, and why.
    pub failed: Vec<(String, UndoError)>,
}

/// What to do about a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Leave,
    End,
    Release,
}

/// A sandbox is released when it is dead, and ended first only when that was asked for.
const fn decide(alive: bool, force: bool) -> Verdict {
    match (alive, force) {
        (false, _) => Verdict::Release,
        (true, false) => Verdict::Leave,
        (true, true) => Verdict::End,
    }
}

impl SandboxStore {
    /// Give back everything that the sandbox owes, the newest first, and enter `cleaned`, or `cleanup_failed` with the
    /// reasons. Only for its own supervisor; everybody else calls [`Self::reconcile`].
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written; what was owed is then still owed.
    pub fn release(&mut self, id: &SandboxId) -> Result<Released, StoreError> {
        match self.release_in_order(id) {
            // What is owed may be what fills the disk. Giving it back takes no record, and may be repeated.
            Err(error) if error.is_for_want_of_space() => {
                let vms = self.layout.vms();
                perform(self.owed(id)?, &[&vms]);
                self.release_in_order(id)
            }
            released => released,
        }
    }

    fn release_in_order(&mut self, id: &SandboxId) -> Result<Released, StoreError> {
        let (owed, phase) = self.database.write(|transaction| begin_release(transaction, id))?;
        if owed.is_empty() && phase == Phase::Cleaned {
            return Ok(Released::default());
        }
        let vms = self.layout.vms();
        let performed = perform(owed, &[&vms]);
        self.database.write(|transaction| end_release(transaction, id, &performed))?;

        let mut released = Released::default();
        for (Owed { action, .. }, outcome) in performed {
            match outcome {
                Outcome::Done => released.cleaned.push(action.to_string()),
                Outcome::Absent => {}
                Outcome::Failed(error) => released.failed.push((action.to_string(), error)),
            }
        }
        released.cleaned.sort();
        Ok(released)
    }

    /// Release a sandbox whose supervisor is dead; with `force`, end a living one first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database cannot be used.
    pub fn reconcile(&mut self, id: &SandboxId, force: bool) -> Result<Report, StoreError> {
        let sandbox = self.get(id)?;
        let alive = match self.is_alive(&sandbox) {
            Ok(alive) => alive,
            Err(error) => return Ok(Report { id: id.clone(), reconciled: Reconciled::Unknown(error) }),
        };
        let reconciled = match decide(alive, force) {
            Verdict::Leave => Reconciled::Running,
            Verdict::Release => Reconciled::Released(self.release(id)?),
            Verdict::End => self.end_and_release(&sandbox)?,
        };
        Ok(Report { id: id.clone(), reconciled })
    }

    /// Reconcile every sandbox, and every sandbox folder that has no row any more.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be used.
    pub fn reconcile_all(&mut self, force: bool) -> Result<Vec<Report>, StoreError> {
        let mut reports = Vec::new();
        for sandbox in self.list()? {
            match self.reconcile(&sandbox.id, force) {
                // Another process removed it meanwhile.
                Err(StoreError::NotFound(_)) => {}
                report => reports.push(report?),
            }
        }
        reports.extend(self.remove_orphans()?);
        Ok(reports)
    }

    /// Reconcile a sandbox and, if nothing is left of it, delete its folder and its row.
    ///
    /// # Errors
    /// [`StoreError::Running`] if its supervisor lives, why that cannot be told, [`StoreError::NotFound`], or what cannot
    /// be removed.
    pub fn remove(&mut self, id: &SandboxId) -> Result<Released, StoreError> {
        let released = match self.reconcile(id, false)?.reconciled {
            Reconciled::Released(released) => released,
            Reconciled::Running => return Err(StoreError::Running(id.clone())),
            Reconciled::Unknown(error) => return Err(error),
        };
        if released.failed.is_empty() {
            self.discard(id)?;
        }
        Ok(released)
    }

    /// Delete the folder and the row of a sandbox that is `cleaned`. Its history stays for a while.
    ///
    /// # Errors
    /// [`StoreError::Unreleased`] if it is not `cleaned`, or what cannot be deleted.
    pub fn discard(&mut self, id: &SandboxId) -> Result<(), StoreError> {
        let newest = self.database.read(|connection| lifecycle::newest(connection, id))?;
        if newest.is_none_or(|record| record.phase != Phase::Cleaned) {
            return Err(StoreError::Unreleased(id.clone()));
        }
        if let Outcome::Failed(source) = self.remove_folder(id) {
            return Err(StoreError::Undo(source));
        }
        self.forget(id)
    }

    fn end_and_release(&mut self, sandbox: &Sandbox) -> Result<Reconciled, StoreError> {
        if let Some(owner) = &sandbox.owner
            && let Err(error) = liveness::end(owner, CLOSE_DEADLINE + sandbox.grace())
        {
            let failed = vec![(format!("process_end:{}", owner.pid), error.into())];
            return Ok(Reconciled::Released(Released { failed, ..Released::default() }));
        }
        match self.is_alive(sandbox) {
            Ok(false) => {}
            // Its folder is held by a process that this one cannot see.
            Ok(true) => return Ok(Reconciled::Running),
            Err(error) => return Ok(Reconciled::Unknown(error)),
        }
        match self.release(&sandbox.id) {
            // It closed its sandbox and removed it.
            Err(StoreError::NotFound(_)) => Ok(Reconciled::Released(Released::default())),
            released => Ok(Reconciled::Released(released?)),
        }
    }

    /// Remove the folders that no row speaks of. A row is written before its folder and outlives it, so such a folder
    /// is left over from another database, and nobody's unless a supervisor still holds it.
    fn remove_orphans(&self) -> Result<Vec<Report>, StoreError> {
        let vms = self.layout.vms();
        let unreadable = |source| StoreError::Unreadable { path: vms.clone(), source };
        let entries = match std::fs::read_dir(&vms) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unreadable)?,
        };
        let mut reports = Vec::new();
        for entry in entries {
            let name = entry.map_err(unreadable)?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<SandboxId>().ok()) else { continue };
            if self.database.read(|connection| sandboxes::exists(connection, &id))? {
                continue;
            }
            let path = vms.join(&name);
            let reconciled = match folder::is_claimed(&path) {
                Ok(true) => Reconciled::Running,
                Ok(false) => Reconciled::Released(self.remove_orphan(&id)),
                Err(source) => Reconciled::Unknown(StoreError::Unreadable { path, source }),
            };
            reports.push(Report { id, reconciled });
        }
        Ok(reports)
    }

    fn remove_orphan(&self, id: &SandboxId) -> Released {
        let key = format!("dir_remove:{id}");
        match self.remove_folder(id) {
            Outcome::Done => Released { cleaned: vec![key], failed: Vec::new() },
            Outcome::Absent => Released::default(),
            Outcome::Failed(error) => Released { cleaned: Vec::new(), failed: vec![(key, error)] },
        }
    }

    fn remove_folder(&self, id: &SandboxId) -> Outcome {
        Action::RemoveDir { path: self.layout.vm(id).dir().to_owned() }.perform(&[&self.layout.vms()])
    }
}

/// Do what is owed, in order. A process that will not end may still use what was taken before it, so nothing after it
/// is touched.
fn perform(owed: Vec<Owed>, roots: &[&Path]) -> Vec<(Owed, Outcome)> {
    let mut performed = Vec::with_capacity(owed.len());
    for owed in owed {
        let outcome = owed.action.perform(roots);
        let in_the_way = matches!((&owed.action, &outcome), (Action::EndProcess { .. }, Outcome::Failed(_)));
        performed.push((owed, outcome));
        if in_the_way {
            break;
        }
    }
    performed
}

fn begin_release(transaction: &Transaction<'_>, id: &SandboxId) -> Result<(Vec<Owed>, Phase), Abort> {
    sandboxes::must_exist(transaction, id)?;
    let phase = lifecycle::newest(transaction, id)?.map(|record| record.phase);
    // Another process may have finished this meanwhile.
    if !matches!(phase, Some(Phase::Cleaned | Phase::Cleaning)) {
        // What could not be cleaned is tried again now; why the sandbox ended stays true.
        let again = phase == Some(Phase::CleanupFailed);
        lifecycle::append(transaction, id, &[Phase::Cleaning], |details| {
            if again {
                details.last_error.clear();
            }
        })?;
    }
    Ok((undo::owed(transaction, id)?, phase.unwrap_or(Phase::Cleaning)))
}

fn end_release(transaction: &Transaction<'_>, id: &SandboxId, performed: &[(Owed, Outcome)]) -> Result<(), Abort> {
    let mut steps = Vec::new();
    for (owed, outcome) in performed {
        let error = match outcome {
            Outcome::Failed(error) => one_line(error),
            Outcome::Done | Outcome::Absent => {
                undo::settle(transaction, id, owed)?;
                String::new()
            }
        };
        steps.push((owed.action.to_string(), error));
    }
    // What another process was first to do is not owed any more, whatever came of it here.
    let left = undo::owed(transaction, id)?;
    let next = if left.is_empty() { Phase::Cleaned } else { Phase::CleanupFailed };
    if lifecycle::newest(transaction, id)?.is_some_and(|record| record.phase == Phase::Cleaned) {
        return Ok(());
    }
    lifecycle::append(transaction, id, &[next], |details| {
        let errors = steps.iter().filter(|(_, error)| !error.is_empty());
        let errors: Vec<_> = errors.map(|(key, error)| format!("{key}: {error}")).collect();
        if !errors.is_empty() {
            details.last_error = errors.join("; ");
        }
        details.cleanup.extend(steps.into_iter().map(|(key, error)| {
            let status = if error.is_empty() { CleanupStatus::Ok } else { CleanupStatus::Error };
            (key, CleanupStep { status, error, updated_at: Timestamp::now() })
        }));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_released_unasked() {
        assert_eq!(decide(false, false), Verdict::Release);
        assert_eq!(decide(false, true), Verdict::Release);
        assert_eq!(decide(true, false), Verdict::Leave);
        assert_eq!(decide(true, true), Verdict::End);
    }
}
