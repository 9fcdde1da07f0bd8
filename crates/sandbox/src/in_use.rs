//! Who is starting a guest, and who removes what guests start from: the first share a lock, the second wants it alone.
//!
//! Invariant: between finding a kernel and the VMM's opening of it nobody removes it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct InUse(File);

impl InUse {
    /// Share it. Blocks while somebody removes something, which is soon done.
    pub(crate) fn share(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(Self(file))
    }

    /// Have it alone, if nobody shares it.
    pub(crate) fn alone(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // Closing alone would leave it to a child that another thread has forked and that has not executed yet.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    File::options().write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_guests_keeps_out_who_removes_what_they_start_from() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("host/in-use.lock");
        let both = [InUse::share(&path).unwrap(), InUse::share(&path).unwrap()];
        assert!(InUse::alone(&path).unwrap().is_none());
        drop(both);
        assert!(InUse::alone(&path).unwrap().is_some());
    }
}
