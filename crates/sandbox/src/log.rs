//! `vm.log`: the guest's console and a copy of the command's output, bounded on disk.
//!
//! Written by the supervisor only. Everything in it is the guest's choice, so its size is not: a full file becomes
//! `vm.log.1`, replacing the one before, and the new one says so in its first line.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use crate::exec::Taker;

/// Bytes after which a log file is put aside; there are at most two.
const FULL: u64 = 32 * 1024 * 1024;

/// The log of one sandbox. Clones write to the same.
#[derive(Clone, Debug)]
pub struct VmLog {
    file: Arc<Mutex<LogFile>>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    full: u64,
}

impl VmLog {
    /// Begin the log at `path`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::with_bound(path, FULL)
    }

    fn with_bound(path: &Path, full: u64) -> io::Result<Self> {
        let file = LogFile { path: path.to_owned(), file: open(path)?, size: 0, full };
        Ok(Self { file: Arc::new(Mutex::new(file)) })
    }

    /// Append. A disk that takes no more loses log lines, never the sandbox.
    pub fn append(&self, bytes: &[u8]) {
        let mut log = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.append(bytes) {
            tracing::debug!("write to {}: {error}", log.path.display());
        }
    }

    /// A writer that passes everything on to `taker`, and into this log.
    #[must_use]
    pub fn copy_of(&self, taker: Taker) -> Taker {
        Box::new(Copying { taker, log: self.clone() })
    }
}

impl LogFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > self.full {
            let aside = previous(&self.path);
            std::fs::rename(&self.path, &aside)?;
            self.file = open(&self.path)?;
            let line = format!("[matchlock] log continued; the part before is in {}\n", aside.display());
            self.file.write_all(line.as_bytes())?;
            self.size = line.len() as u64;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// Where the full log before the one at `path` is put.
#[must_use]
pub(crate) fn previous(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

struct Copying {
    taker: Taker,
    log: VmLog,
}

impl AsyncWrite for Copying {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.taker).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.log.append(&bytes[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.taker).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.taker).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chatty_guest_fills_two_files_and_no_more() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("vm.log");
        let log = VmLog::with_bound(&path, 1000).unwrap();
        for number in 0..100 {
            log.append(format!("line {number}: {}\n", "x".repeat(40)).as_bytes());
        }
        let now = std::fs::read_to_string(&path).unwrap();
        let before = std::fs::read_to_string(previous(&path)).unwrap();
        assert!(now.starts_with("[matchlock] log continued") && now.contains("line 99"), "{now}");
        assert!(now.len() <= 1000 && before.len() <= 1000);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2);
    }
}
