//! What a sandbox has taken from the host, and how to give it back.
//!
//! A row is pushed *before* the effect it undoes; [`SandboxStore::release`] replays the rows, newest first, at the end of a
//! sandbox's life and after a crash alike. Invariants: an action can be performed any number of times, also when its
//! effect never happened; it never touches anything outside the sandbox folders, or another process or link than the recorded
//! one; its row stays until it has succeeded.

use std::{
    fmt, io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use matchlock_model::{ProcessIdentity, SandboxId};
use matchlock_netlink::{HostLink, HostLinkError};
use rusqlite::{Connection, Transaction, params};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{ProcessError, SandboxStore, StoreError, columns, leases, liveness, migration::Migration, sandboxes};

pub(crate) const CREATE_UNDO: Migration = Migration {
    module: "undo",
    version: 1,
    name: "create_undo",
    // The reference keeps a sandbox's row for as long as anything of it has to be given back.
    sql: "
        CREATE TABLE undo (
            vm_id TEXT NOT NULL REFERENCES vms (id),
            seq INTEGER NOT NULL,
            action_json TEXT NOT NULL,
            created_at TEXT NOT NULL,
            PRIMARY KEY (vm_id, seq)
        );",
};

/// One thing to give back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Remove a folder and all that is in it.
    RemoveDir {
        /// The folder, absolute.
        path: PathBuf,
    },
    /// Remove a file, socket or link.
    RemoveFile {
        /// The file, absolute.
        path: PathBuf,
    },
    /// End a process at once.
    EndProcess {
        /// Exactly this one.
        process: ProcessIdentity,
    },
    /// Take a sandbox's link away from the host's own network, with the rules and routes for it.
    RemoveLink {
        /// The sandbox.
        id: SandboxId,
    },
}

/// An action that a sandbox still owes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Its place: what was taken later has a higher number.
    pub seq: i64,
    /// What to do.
    pub action: Action,
}

/// What came of an action.
#[derive(Debug)]
pub enum Outcome {
    /// The effect is undone.
    Done,
    /// There was nothing to undo.
    Absent,
    /// It has to be tried again.
    Failed(UndoError),
}

/// Why an action failed.
#[derive(Debug, Error)]
pub enum UndoError {
    /// The record names a path that no sandbox owns.
    #[error("{path} is not inside a folder that sandboxes own", path = .0.display())]
    Outside(PathBuf),
    /// The file or folder cannot be removed.
    #[error("{path}", path = path.display())]
    Remove {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process cannot be ended.
    #[error(transparent)]
    End(#[from] ProcessError),
    /// The link, or something of it, stays.
    #[error(transparent)]
    Link(#[from] HostLinkError),
}

impl Action {
    /// Undo the effect. `roots` are the folders beneath which files may be removed.
    #[must_use]
    pub fn perform(&self, roots: &[&Path]) -> Outcome {
        let outcome = match self {
            Self::RemoveDir { path } => remove(path, roots, |path| std::fs::remove_dir_all(path)),
            Self::RemoveFile { path } => remove(path, roots, |path| std::fs::remove_file(path)),
            Self::EndProcess { process } => liveness::end(process, Duration::ZERO).map_err(UndoError::from),
            Self::RemoveLink { id } => HostLink::of(id.number()).remove().map_err(UndoError::from),
        };
        match outcome {
            Ok(true) => Outcome::Done,
            Ok(false) => Outcome::Absent,
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// The action as one word: the key of a report and of a lifecycle record's `cleanup`.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveDir { path } => write!(f, "dir_remove:{}", last_part(path)),
            Self::RemoveFile { path } => write!(f, "file_remove:{}", last_part(path)),
            Self::EndProcess { process } => write!(f, "process_end:{}", process.pid),
            Self::RemoveLink { id } => write!(f, "link_remove:{}", HostLink::of(id.number()).name()),
        }
    }
}

fn last_part(path: &Path) -> std::path::Display<'_> {
    path.file_name().map_or(path, Path::new).display()
}

/// Was there something to remove?
fn remove(path: &Path, roots: &[&Path], how: impl FnOnce(&Path) -> io::Result<()>) -> Result<bool, UndoError> {
    let inside = |root: &&Path| path.strip_prefix(root).is_ok_and(|rest| rest.components().next().is_some());
    let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    if !plain || !roots.iter().any(inside) {
        return Err(UndoError::Outside(path.to_owned()));
    }
    match how(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(UndoError::Remove { path: path.to_owned(), source }),
    }
}

impl SandboxStore {
    /// Write down how to undo what is about to be done. The caller does it only after this has returned.
    ///
    /// # Errors
    /// [`StoreError`] if it could not be written down; then the effect must not happen.
    pub fn push_undo(&mut self, id: &SandboxId, action: &Action) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            sandboxes::must_exist(transaction, id)?;
            Ok(push(transaction, id, action)?)
        })
    }

    /// The sandbox's processes have been killed by whoever started them: nobody has to wait for their end any more.
    ///
    /// # Errors
    /// [`StoreError`] if that could not be written down.
    pub fn settle_processes(&mut self, id: &SandboxId) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            for Owed { seq, action } in owed(transaction, id)? {
                if matches!(action, Action::EndProcess { .. }) {
                    pop(transaction, id, seq)?;
                }
            }
            Ok(())
        })
    }

    /// What the sandbox has taken and not given back, the newest first.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn owed(&self, id: &SandboxId) -> Result<Vec<Owed>, StoreError> {
        self.database.read(|connection| owed(connection, id))
    }
}

pub(crate) fn push(transaction: &Transaction<'_>, id: &SandboxId, action: &Action) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO undo (vm_id, seq, action_json, created_at)
         SELECT ?1, coalesce(max(seq), 0) + 1, ?2, ?3 FROM undo WHERE vm_id = ?1",
        params![id.as_str(), columns::to_json(action)?, columns::now()],
    )?;
    Ok(())
}

/// What was owed is not owed any more.
pub(crate) fn settle(transaction: &Transaction<'_>, id: &SandboxId, owed: &Owed) -> rusqlite::Result<()> {
    if matches!(owed.action, Action::RemoveLink { .. }) {
        leases::end(transaction, id)?;
    }
    pop(transaction, id, owed.seq)
}

fn pop(transaction: &Transaction<'_>, id: &SandboxId, seq: i64) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM undo WHERE vm_id = ?1 AND seq = ?2", params![id.as_str(), seq])?;
    Ok(())
}

pub(crate) fn owed(connection: &Connection, id: &SandboxId) -> rusqlite::Result<Vec<Owed>> {
    let mut rows = connection.prepare_cached("SELECT seq, action_json FROM undo WHERE vm_id = ?1 ORDER BY seq DESC")?;
    let rows = rows.query_map([id.as_str()], |row| {
        Ok(Owed { seq: row.get("seq")?, action: columns::json(row, "action_json")? })
    })?;
    rows.collect()
}
