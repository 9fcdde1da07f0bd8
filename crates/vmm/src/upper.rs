//! The writable layer of a sandbox: an empty ext4 image, made once for each size and copied sparsely.
//!
//! Called by `sandbox` for the root's upper disk. Invariant: the copy is the caller's alone; the original is never
//! written to after it has its name.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};
use thiserror::Error;

use crate::{cache::Folder, command::run};

/// For making an empty file system.
const MKFS_DEADLINE: Duration = Duration::from_mins(1);

/// Smallest size in MiB that leaves room for the file system's own tables.
pub const MIN_UPPER_MB: u64 = 8;

/// `overlayfs` wants these two folders on one file system.
const FOLDERS: [&str; 2] = ["upper", "work"];

/// Why there is no writable layer.
#[derive(Debug, Error)]
pub enum UpperError {
    /// The program that makes ext4 file systems is missing.
    #[error("mke2fs is not installed (Debian, Ubuntu, Fedora: install the package e2fsprogs)")]
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
    if size_mb < MIN_UPPER_MB {
        return Err(UpperError::TooSmall(size_mb));
    }
    let failed = |e| UpperError::Copy(path.to_owned(), e);
    let original = File::open(original(uppers, size_mb)?).map_err(failed)?;
    let copy = File::options().write(true).create_new(true).open(path).map_err(failed)?;
    copy_sparsely(&original, &copy).map_err(|e| {
        // The error that matters is the first one.
        let _ = fs::remove_file(path);
        failed(e)
    })
}

/// The original of this size, made now if it is the first.
fn original(uppers: &Path, size_mb: u64) -> Result<PathBuf, UpperError> {
    let name = format!("{size_mb}.ext4");
    let path = uppers.join(&name);
    if path.is_file() {
        return Ok(path);
    }
    let mke2fs = mke2fs().ok_or(UpperError::NoMke2fs)?;
    let failed = |e| UpperError::Make(uppers.to_owned(), e);
    let folder = Folder::lock(uppers).map_err(failed)?;
    if path.is_file() {
        return Ok(path); // somebody else was faster
    }
    let content = folder.staging().map_err(failed)?;
    let fill = |file: &mut File| {
        for name in FOLDERS {
            fs::create_dir(content.path().join(name))?;
        }
        file.set_len(size_mb * 1024 * 1024)?;
        let target = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(file));
        // No journal: the disk is thrown away with its sandbox, so a crash needs no repair. `-m 0`: no blocks kept for
        // root. Everything belongs to root, whoever calls.
        let mut command = Command::new(&mke2fs);
        command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode"]);
        command.args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-d"]).arg(content.path()).arg(target);
        run(&mut command, MKFS_DEADLINE).map(drop)
    };
    folder.publish(&name, fill).map_err(failed)
}

fn mke2fs() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/sbin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(&folders).chain(usual).map(|dir| dir.join("mke2fs")).find(|path| path.is_file())
}

/// Copy content, not holes: by sharing blocks where the file system can (FICLONE), else the written ranges.
fn copy_sparsely(from: &File, to: &File) -> io::Result<()> {
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
