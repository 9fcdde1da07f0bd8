//! A folder of files that can be made again: written whole or not at all, by one process at a time.
//!
//! Used for kernels, initramfs files, empty disks and facts about the host. Invariant: what has its final name is
//! complete and on disk; whatever ends in `.tmp` while the lock is held was left by somebody who was killed, and goes.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use matchlock_model::Digest;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const UNFINISHED: &str = ".tmp";

/// The folder, locked against other processes (and against a second lock in this one) until it is dropped.
pub(crate) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Make the folder if it is missing, wait until nobody else has it, and clear what killed holders left.
    ///
    /// The wait ends when the holder does: each bounds its own work, and the kernel unlocks for the dead.
    pub(crate) fn lock(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(".lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
                remove(&entry.path())?;
            }
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Have `write` fill the file `name`; it appears only when it is complete.
    pub(crate) fn publish(&self, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<PathBuf> {
        let mut file = tempfile::Builder::new().suffix(UNFINISHED).tempfile_in(&self.path)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        let path = self.path.join(name);
        file.persist(&path).map_err(|e| e.error)?;
        File::open(&self.path)?.sync_all()?;
        Ok(path)
    }

    /// An empty folder inside, to be filled and given to [`Folder::publish_dir`].
    pub(crate) fn staging(&self) -> io::Result<TempDir> {
        tempfile::Builder::new().suffix(UNFINISHED).tempdir_in(&self.path)
    }

    /// Give the staged folder the name `name`, in place of one that may be there.
    pub(crate) fn publish_dir(&self, staged: TempDir, name: &str) -> io::Result<PathBuf> {
        for entry in fs::read_dir(staged.path())? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(staged.path())?.sync_all()?;
        let path = self.name_dir(staged, name)?;
        File::open(&self.path)?.sync_all()?;
        Ok(path)
    }

    /// As [`Folder::publish_dir`], for content that is looked at again after a crash of the host.
    pub(crate) fn name_dir(&self, staged: TempDir, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        self.discard(name)?;
        fs::rename(staged.path(), &path)?;
        // It has its name now; there is nothing to remove any more.
        let _ = staged.keep();
        Ok(path)
    }

    /// Remove what has the name `name`, if anything does. It is gone at once, even if removing its content is cut short.
    pub(crate) fn discard(&self, name: &str) -> io::Result<()> {
        let doomed = self.path.join(format!("{name}.old{UNFINISHED}"));
        match fs::rename(self.path.join(name), &doomed) {
            Ok(()) => remove(&doomed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Remove everything whose name `superseded` says is of no use any more; returns how many there were.
    pub(crate) fn sweep(&self, superseded: impl Fn(&str) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path)? {
            if let Some(name) = entry?.file_name().to_str().filter(|name| superseded(name)) {
                self.discard(name)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Not left to the closing of the file: a process that is being started on another thread has a copy of the
        // descriptor until its exec, and would keep the lock for that long.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// The digest of a file's content.
pub(crate) fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut input = BufReader::with_capacity(128 * 1024, File::open(path)?);
    io::copy(&mut input, &mut HashWriter(&mut hash))?;
    Ok(Digest::from_bytes(hash.finalize().into()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Size and modification time: as long as they stay, a file that was checked is taken as unchanged.
pub(crate) fn stamp_of(path: &Path) -> io::Result<(u64, i128)> {
    let meta = fs::metadata(path)?;
    Ok((meta.len(), i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())))
}

/// The content of a file that must not be larger than `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read <= limit) {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_a_killed_one_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(&dir.path().join("f")).unwrap();
        folder.publish("a", |f| f.write_all(b"old")).unwrap();
        let failed = folder.publish("a", |f| f.write_all(b"new").and(Err(io::Error::other("full"))));
        assert_eq!(failed.unwrap_err().to_string(), "full");
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"old");
        fs::create_dir(folder.path().join("x.tmp")).unwrap();
        fs::write(folder.path().join("x.tmp/y"), "").unwrap();
        fs::write(folder.path().join("z.tmp"), "").unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        let _folder = Folder::lock(&path).unwrap();
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}"); // `a` and the lock
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        let _copy = folder.lock.try_clone().unwrap();
        let again = File::options().write(true).open(dir.path().join(".lock")).unwrap();
        assert!(flock(&again, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(folder);
        flock(&again, FlockOperation::NonBlockingLockExclusive).unwrap();
    }

    #[test]
    fn a_folder_replaces_its_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        for content in ["one", "two"] {
            let staged = folder.staging().unwrap();
            fs::write(staged.path().join("k"), content).unwrap();
            folder.publish_dir(staged, "v").unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("v/k")).unwrap(), content);
        }
        folder.discard("v").unwrap();
        folder.discard("v").unwrap();
        assert!(!dir.path().join("v").exists());
    }
}
