//! The writable layer of a sandbox: an empty ext4 image, made once for each size and copied sparsely.
//!
//! Called by `sandbox` for the root's upper disk. Invariant: the copy is the caller's alone; the original is never
//! written to after it has its name.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};
use thiserror::Error;

use crate::{cache::Folder, command::run_with};

/// For making an empty file system.
const MKFS_DEADLINE: Duration = Duration::from_mins(1);

/// Smallest size in MiB that leaves room for the file system's own tables.
pub const MIN_UPPER_MB: u64 = 8;

/// `overlayfs` wants these two folders on one file system.
const FOLDERS: [&str; 2] = ["upper", "work"];

/// Why there is no writable layer.
#[derive(Debug, Error)]
pub enum UpperError {
    /// The programs that make ext4 file systems are missing.
    #[error("mke2fs and debugfs are not installed (Debian, Ubuntu, Fedora: install the package e2fsprogs)")]
    NoMke2fs,
    /// Too small for a file system.
    #[error("a writable layer of {0} MiB is too small (at least {MIN_UPPER_MB})")]
    TooSmall(u64),
    /// It failed, mostly for want of space.
    #[error("make an empty disk in {}", .0.display())]
    Make(PathBuf, #[source] io::Error),
    /// The copy failed, mostly for want of space.
    #[error("make the writable layer {}", .0.display())]
    Copy(PathBuf, #[source] io::Error),
}

/// Make an empty writable layer of `size_mb` MiB at `path`, which must not exist.
///
/// `uppers` is the folder that keeps the originals. Blocks; a few milliseconds except for the first of a size.
///
/// # Errors
/// [`UpperError`]; nothing is left at `path` then.
pub fn create(uppers: &Path, size_mb: u64, path: &Path) -> Result<(), UpperError> {
    copy(&open_original(uppers, size_mb)?, path)
}

/// Make a copy of the writable layer `original` at `path`, which must not exist.
///
/// # Errors
/// [`UpperError::Copy`]; nothing is left at `path` then.
pub fn copy(original: &File, path: &Path) -> Result<(), UpperError> {
    let failed = |e| UpperError::Copy(path.to_owned(), e);
    let copy = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    copy_sparsely(original, &copy).map_err(|e| {
        // The error that matters is the first one.
        let _ = fs::remove_file(path);
        failed(e)
    })
}

/// Make `file`, which is empty, an empty writable layer of `size_mb` MiB.
///
/// # Errors
/// [`UpperError`].
pub fn fill(uppers: &Path, size_mb: u64, file: &File) -> Result<(), UpperError> {
    copy_to(&open_original(uppers, size_mb)?, file)
}

/// Make `file`, which is empty, a copy of the writable layer `original`.
///
/// # Errors
/// [`UpperError::Copy`].
pub fn copy_to(original: &File, file: &File) -> Result<(), UpperError> {
    copy_sparsely(original, file).map_err(|e| {
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        UpperError::Copy(fs::read_link(name).unwrap_or_default(), e)
    })
}

fn open_original(uppers: &Path, size_mb: u64) -> Result<File, UpperError> {
    let path = original(uppers, size_mb)?;
    File::open(&path).map_err(|e| UpperError::Make(path, e))
}

/// The original of this size, made now if it is the first. Blocks for as long as formatting takes then.
///
/// # Errors
/// [`UpperError`]; nothing is left then.
pub fn original(uppers: &Path, size_mb: u64) -> Result<PathBuf, UpperError> {
    if size_mb < MIN_UPPER_MB {
        return Err(UpperError::TooSmall(size_mb));
    }
    let name = format!("{size_mb}.ext4");
    let path = uppers.join(&name);
    if path.is_file() {
        return Ok(path);
    }
    let tools = Tools::find().ok_or(UpperError::NoMke2fs)?;
    let failed = |e| UpperError::Make(uppers.to_owned(), e);
    let folder = Folder::lock(uppers).map_err(failed)?;
    if path.is_file() {
        return Ok(path); // somebody else was faster
    }
    let fill = |file: &mut File| {
        file.set_len(size_mb * 1024 * 1024)?;
        tools.format(file)
    };
    folder.publish(&name, fill).map_err(failed)
}

/// A disk without a name, as a program knows it that has it as its standard input. Under this process's own number it would not
/// be found where that keeps itself to itself (`PR_SET_DUMPABLE(2const)`).
const ON_STDIN: &str = "/proc/self/fd/0";

/// Two programs of e2fsprogs.
struct Tools {
    mke2fs: PathBuf,
    debugfs: PathBuf,
}

impl Tools {
    fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Ordinary users often lack the folders for administrators' programs in their `PATH`.
        let usual = ["/sbin", "/usr/sbin"].map(PathBuf::from);
        let folders: Vec<_> = std::env::split_paths(&path).chain(usual).collect();
        let find = |name| folders.iter().map(|dir| dir.join(name)).find(|file| file.is_file());
        Some(Self { mke2fs: find("mke2fs")?, debugfs: find("debugfs")? })
    }

    /// Make an empty file system with [`FOLDERS`] in it, everything root's, whoever calls.
    fn format(&self, disk: &File) -> io::Result<()> {
        let mut mke2fs = Command::new(&self.mke2fs);
        // No journal: the disk is thrown away with its sandbox, so a crash needs no repair. No blocks kept for root.
        // Twice as many inodes as usual: what goes there are mostly small files.
        mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-i", "8192", "-O", "^has_journal,^resize_inode"]);
        mke2fs.args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", ON_STDIN]);
        run_with(&mut mke2fs, disk.try_clone()?.into(), MKFS_DEADLINE)?;
        // `mke2fs -d` would make them the caller's.
        for folder in FOLDERS {
            self.debugfs(&format!("mkdir {folder}"), disk)?;
        }
        // debugfs says nothing of failures in its exit code.
        let listing = self.debugfs("ls -p /", disk)?;
        if FOLDERS.iter().all(|folder| listing.contains(&format!("/{folder}/"))) {
            Ok(())
        } else {
            Err(io::Error::other("debugfs could not make folders on an empty disk"))
        }
    }

    fn debugfs(&self, request: &str, disk: &File) -> io::Result<String> {
        let mut debugfs = Command::new(&self.debugfs);
        run_with(debugfs.args(["-w", "-R", request, ON_STDIN]), disk.try_clone()?.into(), MKFS_DEADLINE)
    }
}

/// Copy content, not holes: by sharing blocks where the file system can (FICLONE), else the written ranges.
pub(crate) fn copy_sparsely(from: &File, to: &File) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut at = 0;
    while at < len {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(e) => return Err(e.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        copy_range(from, to, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Between file systems, and on some of them altogether.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, read_at, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    while at < end {
        let wanted = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = from.read_at(&mut buffer[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::command::run;

    #[test]
    fn a_layer_is_whole_empty_sparse_and_roots() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper.ext4");
        create(&dir.path().join("uppers"), 512, &path).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), 512 * 1024 * 1024);
        assert!(meta.blocks() * 512 < 1024 * 1024, "{} blocks", meta.blocks());
        let tools = Tools::find().expect("install the package e2fsprogs");
        run(Command::new(tools.mke2fs.with_file_name("e2fsck")).arg("-fn").arg(&path), MKFS_DEADLINE).unwrap();
        let disk = File::options().read(true).write(true).open(&path).unwrap();
        for folder in ["/", "/upper", "/work"] {
            let stat = tools.debugfs(&format!("stat {folder}"), &disk).unwrap();
            assert!(stat.contains("User:     0   Group:     0"), "{stat}");
            assert!(stat.contains("Mode:  0755"), "{stat}");
        }
        let again = create(&dir.path().join("uppers"), 512, &path).unwrap_err();
        assert!(matches!(again, UpperError::Copy(..)), "an existing file is not overwritten");
    }

    #[test]
    fn sizes_are_checked_and_a_failed_copy_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/upper.ext4");
        assert!(matches!(create(dir.path(), 1, &path), Err(UpperError::TooSmall(1))));
        assert!(matches!(create(dir.path(), MIN_UPPER_MB, &path), Err(UpperError::Copy(..))));
        assert!(!path.exists());
    }

    #[test]
    fn every_way_of_copying_keeps_content_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let source = File::options().read(true).write(true).create_new(true).open(dir.path().join("a")).unwrap();
        source.write_all_at(b"front", 0).unwrap();
        source.write_all_at(&vec![7; 300_000], 10_000_000).unwrap();
        source.set_len(50_000_000).unwrap();
        let by_hand = |to: &File| to.set_len(50_000_000).and_then(|()| copy_by_hand(&source, to, 0, 10_300_000));
        for name in ["kernel", "hand"] {
            let path = dir.path().join(name);
            let copy = File::create_new(&path).unwrap();
            if name == "hand" { by_hand(&copy) } else { copy_sparsely(&source, &copy) }.unwrap();
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 50_000_000);
            assert!(bytes.starts_with(b"front\0") && bytes[10_000_000..10_300_000].iter().all(|b| *b == 7));
            assert!(bytes[10_300_000..].iter().all(|b| *b == 0));
        }
        assert!(fs::metadata(dir.path().join("kernel")).unwrap().blocks() * 512 < 1_000_000);
    }
}
