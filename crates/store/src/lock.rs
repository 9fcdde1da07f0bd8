//! The lock under which a database is created, migrated or moved aside: `flock` on `<database>.init.lock`.
//!
//! Called by `database`. Invariant: the file is never deleted, so all processes lock the same inode; the kernel
//! releases the lock with its holder, however that ends.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::mpsc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use crate::{StoreError, database::beside};

/// How long to wait for a process that creates or migrates the database.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct InitLock {
    file: File,
}

impl Drop for InitLock {
    fn drop(&mut self) {
        // Closing alone would leave it to a child that another thread has forked and that has not executed yet.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl InitLock {
    /// Wait for the lock of `database`.
    pub(crate) fn take(database: &Path) -> Result<Self, StoreError> {
        Self::take_within(database, LOCK_DEADLINE)
    }

    fn take_within(database: &Path, deadline: Duration) -> Result<Self, StoreError> {
        let path = beside(database, ".init.lock");
        let not_writable = |source| StoreError::NotWritable { path: path.clone(), source };
        let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(not_writable)?;

        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Self { file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(not_writable(errno.into())),
        }
        // flock knows no deadline. A thread waits in it; one that comes too late closes the file and so unlocks it.
        let (locked, wait) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let outcome = flock(&file, FlockOperation::LockExclusive);
            let _ = locked.send(outcome.map(|()| file));
        });
        match wait.recv_timeout(deadline) {
            Ok(Ok(file)) => Ok(Self { file }),
            Ok(Err(errno)) => Err(not_writable(errno.into())),
            Err(_) => Err(StoreError::Busy { path: path.clone(), seconds: deadline.as_secs() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_gets_it_when_the_first_lets_go_or_is_told_who_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("some.db");
        let first = InitLock::take(&database).unwrap();
        let error = InitLock::take_within(&database, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("some.db.init.lock is in use"), "{error}");

        let waiter = std::thread::spawn({
            let database = database.clone();
            move || InitLock::take(&database).map(drop)
        });
        drop(first);
        waiter.join().unwrap().unwrap();
        InitLock::take_within(&database, Duration::from_secs(5)).unwrap();
    }
}
