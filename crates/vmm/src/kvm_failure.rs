//! That KVM was tried in vain, remembered until the host boots again: each attempt costs its whole deadline.
//!
//! Kept for each guest kernel, because one that does not run under KVM says nothing of another. Whoever has mended the
//! host and does not want to boot it removes the file, which the message names.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    accel::{self, Fallback},
    cache::{Folder, read_bounded},
    tsc,
};

const NAME: &str = "kvm.json";

/// Bound on the file.
const MAX_JSON: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Failure {
    boot_id: String,
    kernel: PathBuf,
    reason: String,
}

/// May KVM be tried with this guest kernel? `cache_dir` is the folder that remembers that it was in vain.
pub(crate) fn kvm(cache_dir: &Path, kernel: &Path) -> Result<(), Fallback> {
    accel::kvm()?;
    recall(cache_dir, kernel).map_or(Ok(()), Err)
}

/// KVM was tried with this guest kernel, and did not work for `reason`, but emulation did.
pub(crate) fn remember(cache_dir: &Path, kernel: &Path, reason: &Fallback) {
    let write = || -> io::Result<()> {
        let failure = Failure { boot_id: tsc::boot_id()?, kernel: kernel.to_owned(), reason: reason.to_string() };
        let text = serde_json::to_vec(&failure)?;
        Folder::lock(cache_dir)?.publish(NAME, |file| file.write_all(&text)).map(drop)
    };
    if let Err(error) = write() {
        tracing::debug!("cannot remember that KVM does not work: {error}");
    }
}

fn recall(cache_dir: &Path, kernel: &Path) -> Option<Fallback> {
    let path = cache_dir.join(NAME);
    let failure: Failure = serde_json::from_slice(&read_bounded(&path, MAX_JSON).ok()?).ok()?;
    let same = failure.kernel == kernel && tsc::boot_id().is_ok_and(|now| now == failure.boot_id);
    same.then_some(Fallback::Before { reason: failure.reason, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_for_its_kernel_and_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, other) = (Path::new("/kernels/1"), Path::new("/kernels/2"));
        assert_eq!(recall(dir.path(), kernel), None);
        remember(dir.path(), kernel, &Fallback::Ended("it broke".to_owned()));
        let path = dir.path().join(NAME);
        let known = recall(dir.path(), kernel).unwrap().to_string();
        let removed = format!("it is tried again when this host has booted, or {} is removed", path.display());
        assert_eq!(known, format!("under KVM it broke; {removed}"));
        assert_eq!(recall(dir.path(), other), None);

        let earlier = std::fs::read_to_string(&path).unwrap().replace(&tsc::boot_id().unwrap(), "another boot");
        std::fs::write(&path, earlier).unwrap();
        assert_eq!(recall(dir.path(), kernel), None);
        std::fs::write(&path, "damaged").unwrap();
        assert_eq!(recall(dir.path(), kernel), None);
    }
}
