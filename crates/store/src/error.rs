//! What can go wrong with a database, in words that fit after "failed to …:".

use std::{io, path::PathBuf};

use matchlock_model::{PhaseError, SandboxId};
use thiserror::Error;

use crate::{ProcessError, UndoError};

/// Why the store could not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is not what SQLite, or this crate, wrote into it. Nothing of it is shown; see [`crate::move_aside`].
    #[error("database {path} is damaged ({detail}); `matchlock gc --move-aside` puts it out of the way and begins a new one", path = path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A newer matchlock has changed the tables; this one would not know what it reads.
    #[error("database {path} was written by a newer matchlock ({module} schema {found}, this one knows {known}); update matchlock", path = path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Which part of it.
        module: String,
        /// The version in the file.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// A file or folder could not be made or changed, such as in a read-only home.
    #[error("cannot write {path}", path = path.display())]
    NotWritable {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder or file could not be read.
    #[error("cannot read {path}", path = path.display())]
    Unreadable {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process held the database for too long.
    #[error("database {path} is in use by another process for more than {seconds} seconds", path = path.display())]
    Busy {
        /// The database, or its lock file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// SQLite refused for another reason, such as a full disk.
    #[error("database {path}", path = path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The id is in use, or was until recently. The caller takes another one.
    #[error("VM id {0} is taken")]
    IdTaken(SandboxId),
    /// There is no such sandbox.
    #[error("VM {0} not found")]
    NotFound(SandboxId),
    /// The sandbox's supervisor is alive, or its resources are not released.
    #[error("VM is running {0}")]
    Running(SandboxId),
    /// The sandbox still owns resources, so its record must stay.
    #[error("VM {0} still owns resources (`matchlock gc {0}` says which)")]
    Unreleased(SandboxId),
    /// Every number of a link among the host's own is taken.
    #[error(
        "{0} sandboxes have a network among the host's own links, and no more can; `matchlock gc` frees what dead ones had"
    )]
    NoLease(u8),
    /// Whether a supervisor lives cannot be found out.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A sandbox's folder cannot be removed.
    #[error("cannot remove")]
    Undo(#[source] UndoError),
    /// The life of a sandbox has no such step.
    #[error(transparent)]
    Phase(#[from] PhaseError),
}

impl StoreError {
    /// Would it have worked with more space on the disk?
    pub(crate) fn is_for_want_of_space(&self) -> bool {
        matches!(self, Self::NotWritable { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}
