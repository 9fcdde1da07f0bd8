//! A sandbox's folder, and the lock that shows that its supervisor lives.
//!
//! Called by `matchlock-sandbox` to make the folder, and by `sandboxes` and `reconcile` to ask. The kernel releases
//! the lock with the supervisor. It says the truth where the process table cannot: to a process in another pid
//! namespace (a container that shares the home), and about a folder whose row is gone (the database was moved aside).

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::StoreError;

/// The supervisor's hold on its sandbox's folder, for as long as it lives.
#[derive(Debug)]
pub struct FolderClaim {
    folder: File,
}

impl Drop for FolderClaim {
    fn drop(&mut self) {
        // Closing alone would leave it to a child that another thread has forked and that has not executed yet.
        let _ = flock(&self.folder, FlockOperation::Unlock);
    }
}

/// Make the folder of a registered sandbox, readable by its owner only, and hold it.
///
/// # Errors
/// [`StoreError::NotWritable`] if it exists or cannot be made.
pub fn claim_folder(path: &Path) -> Result<FolderClaim, StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let made = DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(parent)
        .and_then(|()| DirBuilder::new().mode(0o700).create(path))
        .and_then(|()| File::open(path))
        // Whoever asks whether it is held lets go at once.
        .and_then(|folder| Ok(flock(&folder, FlockOperation::LockExclusive).map(|()| folder)?));
    let folder = made.map_err(|source| StoreError::NotWritable { path: path.to_owned(), source })?;
    Ok(FolderClaim { folder })
}

/// Does a living supervisor hold this folder? One that does not exist is held by nobody.
pub(crate) fn is_claimed(path: &Path) -> io::Result<bool> {
    let folder = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        folder => folder?,
    };
    match flock(&folder, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_for_as_long_as_its_claim() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("vms/vm-00000000");
        assert!(!is_claimed(&path).unwrap());
        let claim = claim_folder(&path).unwrap();
        assert!(is_claimed(&path).unwrap());
        assert!(claim_folder(&path).unwrap_err().to_string().contains("vm-00000000"));
        drop(claim);
        assert!(!is_claimed(&path).unwrap());
    }
}
