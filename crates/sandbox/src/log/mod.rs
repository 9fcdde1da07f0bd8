//! `vm.log`: the guest's console and a copy of the command's output, bounded on disk.
//!
//! Written by the supervisor only. Everything in it is the guest's choice, so its size is not: a full file becomes
//! `vm.log.1`, replacing the one before, and the new one says so in its first line.

mod bounded;

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

pub(crate) use self::bounded::{BoundedFile, FULL, previous};
use crate::exec::Taker;

/// The log of one sandbox. Clones write to the same.
#[derive(Clone, Debug)]
pub struct VmLog {
    file: Arc<Mutex<BoundedFile>>,
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
        let continued =
            |aside: &Path| format!("[matchlock] log continued; the part before is in {}\n", aside.display());
        Ok(Self { file: Arc::new(Mutex::new(BoundedFile::create(path, full, continued)?)) })
    }

    /// Append. A disk that takes no more loses log lines, never the sandbox.
    pub fn append(&self, bytes: &[u8]) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).append(bytes);
    }

    /// A writer that passes everything on to `taker`, and into this log.
    #[must_use]
    pub fn copy_of(&self, taker: Taker) -> Taker {
        Box::new(Copying { taker, log: self.clone() })
    }
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
