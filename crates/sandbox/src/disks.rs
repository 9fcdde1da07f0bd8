//! The user's disks, locked for as long as a sandbox may use them.
//!
//! Called by `launch`. Two kernels that mount one file system destroy it as soon as one of them writes, so a disk that is
//! written to has one user, and one that is only read has any number. The lock is advisory (flock(2)): it is between
//! sandboxes, of any user; the kernel releases it with the supervisor.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use matchlock_model::ExtraDisk;
use rustix::{
    fs::{FlockOperation, flock, fstatfs},
    io::Errno,
};
use thiserror::Error;

use crate::launch::path_of;

/// `f_type` of NFS (statfs(2)). There flock is a lock on all bytes of the file, those with which QEMU locks it included
/// (flock(2), "NFS details"), and would keep QEMU itself out.
const NFS: i64 = 0x6969;

/// Why a disk cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DiskError {
    #[error("disk {} is in use: only read-only (`:ro`) can several sandboxes use it at once", .0.display())]
    InUse(PathBuf),
    #[error("disk {}", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The locks, held until dropped.
#[derive(Debug)]
pub(crate) struct DiskLocks {
    files: Vec<File>,
}

impl DiskLocks {
    /// Lock `disks` as they will be used.
    pub(crate) fn take(disks: &[ExtraDisk]) -> Result<Self, DiskError> {
        let files = disks.iter().map(|disk| lock(&disk.host_path, disk.readonly));
        Ok(Self { files: files.collect::<Result<_, _>>()? })
    }

    /// Where the locked files are found while they are locked: their own paths may lead to others by now.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(path_of).collect()
    }
}

impl Drop for DiskLocks {
    fn drop(&mut self) {
        for file in &self.files {
            // Closing alone would leave it to a child that another thread has forked and that has not executed yet.
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

fn lock(path: &Path, readonly: bool) -> Result<File, DiskError> {
    let unusable = |source| DiskError::Unusable { path: path.to_owned(), source };
    let file = File::options().read(true).write(!readonly).open(path).map_err(unusable)?;
    if fstatfs(&file).is_ok_and(|system| system.f_type == NFS) {
        return Ok(file);
    }
    let how = if readonly { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(DiskError::InUse(path.to_owned())),
        Err(errno) => Err(unusable(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_locked_is_the_one_that_is_used() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data.ext4");
        std::fs::write(&path, "locked").unwrap();
        let disk = ExtraDisk { host_path: path.clone(), guest_mount: "/data".to_owned(), readonly: false };
        let locks = DiskLocks::take(&[disk]).unwrap();
        std::fs::write(home.path().join("other"), "other").unwrap();
        std::fs::rename(home.path().join("other"), &path).unwrap();
        let [used] = &locks.paths()[..] else { panic!("one disk") };
        assert_eq!(std::fs::read_to_string(used).unwrap(), "locked");
    }

    #[test]
    fn who_writes_is_alone_and_who_reads_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data.ext4");
        std::fs::write(&path, "").unwrap();
        let disk = |readonly| ExtraDisk { host_path: path.clone(), guest_mount: "/data".to_owned(), readonly };
        let refused = |readonly| {
            let error = DiskLocks::take(&[disk(readonly)]).unwrap_err();
            assert!(matches!(&error, DiskError::InUse(which) if *which == path), "{error}");
        };

        let writer = DiskLocks::take(&[disk(false)]).unwrap();
        refused(false);
        refused(true);
        drop(writer);
        let readers = DiskLocks::take(&[disk(true), disk(true)]).unwrap();
        refused(false);
        drop(readers);
        DiskLocks::take(&[disk(false)]).unwrap();
        // Twice in one sandbox is as bad.
        assert!(DiskLocks::take(&[disk(false), disk(true)]).is_err());
    }
}
