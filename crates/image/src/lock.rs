//! Advisory locks (`flock`) that say who is working on what in the image cache.
//!
//! Three kinds, always taken in this order: the cache's own (`images/lock`, shared by whoever adds to the cache,
//! exclusive for whoever sweeps it), one per image being made, one per layer being downloaded. Invariant: lock files
//! are deleted by the sweep only, so everybody who holds the cache's lock sees the same files; and the kernel lets go
//! of a lock with the process, so that nothing a killed process held stays locked.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// A lock, held until dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
}

impl FileLock {
    /// Wait for the lock that excludes everybody; `waiting` is called if that is not granted at once.
    pub(crate) fn exclusive(path: &Path, waiting: impl FnOnce()) -> io::Result<Self> {
        let file = open(path)?;
        if granted(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Self { file });
        }
        waiting();
        granted(&file, FlockOperation::LockExclusive)?;
        Ok(Self { file })
    }

    /// As [`exclusive`](Self::exclusive), without blocking the caller's thread. Giving up costs a thread that waits
    /// and then lets go.
    pub(crate) async fn exclusive_async(path: &Path, waiting: impl FnOnce()) -> io::Result<Self> {
        let file = open(path)?;
        if granted(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Self { file });
        }
        waiting();
        Self::wait_elsewhere(file, FlockOperation::LockExclusive).await
    }

    /// Wait for the lock that others may hold as well.
    pub(crate) fn shared(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        granted(&file, FlockOperation::LockShared)?;
        Ok(Self { file })
    }

    /// As [`shared`](Self::shared), without blocking the caller's thread.
    pub(crate) async fn shared_async(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        if granted(&file, FlockOperation::NonBlockingLockShared)? {
            return Ok(Self { file });
        }
        Self::wait_elsewhere(file, FlockOperation::LockShared).await
    }

    /// The lock that excludes everybody, if nobody holds it.
    pub(crate) fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        Ok(granted(&file, FlockOperation::NonBlockingLockExclusive)?.then_some(Self { file }))
    }

    /// Whether the locked file is still called `path`.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let (held, named) = (self.file.metadata().map(identity), std::fs::metadata(path).map(identity));
        matches!((held, named), (Ok(held), Ok(named)) if held == named)
    }

    /// The locked file, open for reading and writing.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// `flock` cannot be cancelled, so it blocks a thread that nobody has to join.
    async fn wait_elsewhere(file: File, operation: FlockOperation) -> io::Result<Self> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("image-lock".to_owned()).spawn(move || {
            let result = granted(&file, operation).map(|_| Self { file });
            // A caller that has gone drops the lock with the message.
            let _ = sender.send(result);
        })?;
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the lock's thread ended")))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Not left to the closing of the file: a process that is being started on another thread has a copy of the
        // descriptor until its exec, and would keep the lock for that long.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn granted(file: &File, operation: FlockOperation) -> io::Result<bool> {
    loop {
        return match flock(file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sharers_keep_the_sweep_out_and_a_waiter_gets_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (first, second) = (FileLock::shared(&path).unwrap(), FileLock::shared_async(&path).await.unwrap());
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(first);

        let (told, mut waiting) = tokio::sync::oneshot::channel();
        let waiter = tokio::spawn({
            let path = path.clone();
            async move { FileLock::exclusive_async(&path, || told.send(()).unwrap()).await }
        });
        (&mut waiting).await.unwrap();
        assert!(!waiter.is_finished());
        drop(second);
        let held = waiter.await.unwrap().unwrap();
        assert!(held.is_at(&path));
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
    }
}
