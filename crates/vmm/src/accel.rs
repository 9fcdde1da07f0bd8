//! Hardware virtualization or emulation: what this host can do, and why not more.
//!
//! [`crate::boot`] asks; nothing here prints. Invariant: `/dev/kvm` alone proves nothing. It may belong to a vendor
//! module that answers every request and yet runs no ordinary guest, so the processor's flags are asked first, and a
//! guest that does not come up under KVM in time is started again without it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bound on what is read of `/proc/cpuinfo`: the first processor's entry is far smaller.
const MAX_CPUINFO: u64 = 16 * 1024;

/// How guest code is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By QEMU's translator: works everywhere, slower.
    Tcg,
}

/// Which accelerators may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// KVM where it works, otherwise emulation.
    #[default]
    Auto,
    /// Only this one.
    Only(Accelerator),
}

/// Why KVM is not used. Its text fits after "using software emulation: ".
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fallback {
    /// Neither Intel's nor AMD's extension is there, or this is itself a virtual machine that does not pass it on.
    #[error("this processor offers no hardware virtualization (neither vmx nor svm in /proc/cpuinfo)")]
    NoProcessorSupport,
    /// The device is missing or closed to this user.
    #[error("/dev/kvm cannot be opened: {0}")]
    Device(String),
    /// It was tried, and the guest did not answer.
    #[error("the guest was not ready after running for {0:?} under KVM")]
    NotReady(Duration),
    /// It was tried, and the VMM gave up.
    #[error("under KVM {0}")]
    Ended(String),
    /// It was tried before, since the host has booted; that is written in the file `path`.
    #[error("{reason}; it is tried again when this host has booted, or {} is removed", .path.display())]
    Before {
        /// What had come of it.
        reason: String,
        /// The file.
        path: PathBuf,
    },
}

/// May KVM be tried on this host?
///
/// # Errors
/// The reason why not.
pub fn kvm() -> Result<(), Fallback> {
    let flags = cpu_flags(Path::new("/proc/cpuinfo")).unwrap_or_default();
    if !flags.iter().any(|flag| flag == "vmx" || flag == "svm") {
        return Err(Fallback::NoProcessorSupport);
    }
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(Fallback::Device("permission denied (sudo usermod -aG kvm $USER, then log in again)".into()))
        }
        Err(e) => Err(Fallback::Device(e.to_string())),
    }
}

/// The flags of the first processor in a file of `/proc/cpuinfo`'s form.
pub(crate) fn cpu_flags(path: &Path) -> io::Result<Vec<String>> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(MAX_CPUINFO).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    Ok(flags.map(|(_, flags)| flags.split_ascii_whitespace().map(str::to_owned).collect()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_flags_of_the_flags_line_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpuinfo");
        fs::write(&path, "processor\t: 0\nflags\t\t: fpu vmxish nonstop_tsc\nvmx flags\t: vmx\n").unwrap();
        assert_eq!(cpu_flags(&path).unwrap(), ["fpu", "vmxish", "nonstop_tsc"]);
        fs::write(&path, "processor\t: 0\n").unwrap();
        assert!(cpu_flags(&path).unwrap().is_empty());
    }
}
