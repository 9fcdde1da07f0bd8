//! What a virtual machine consists of: plain data, the same for every VMM.
//!
//! Made by `sandbox`, read by the VMM behind [`crate::Vmm`]. Invariant: nothing here depends on the VMM or on the
//! accelerator; two machines that are equal boot alike.

use std::path::PathBuf;

/// A machine to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Virtual processors, at least one.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// The kernel file, as [`crate::kernel::Kernel::image`] names it.
    pub kernel: PathBuf,
    /// The initial root file system, as [`crate::initramfs::assemble`] made it.
    pub initramfs: PathBuf,
    /// Words for the kernel's command line beside those that the VMM needs.
    pub cmdline: Vec<String>,
    /// Block devices; the guest numbers them in this order.
    pub disks: Vec<Disk>,
    /// Where the guest's console is appended to, at most [`crate::MAX_CONSOLE_LOG`] bytes for each start.
    pub console_log: Option<PathBuf>,
}

/// One block device backed by a raw image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The image. It is opened when the machine starts, so that the VMM itself needs no right to the path.
    pub file: PathBuf,
    /// The guest cannot write to it, and the file is opened without that right.
    pub readonly: bool,
    /// What the guest's flush requests do.
    pub flush: Flush,
    /// The guest's discards make holes in the file.
    pub discard: bool,
}

/// What a guest's flush request (fsync, journal commit) means for a [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The file is synced to the host's storage.
    Honoured,
    /// Nothing: the file lives no longer than its machine, and survives a crash of it in the host's page cache.
    Ignored,
}

impl Disk {
    /// A disk that the guest can only read.
    #[must_use]
    pub const fn readonly(file: PathBuf) -> Self {
        Self { file, readonly: true, flush: Flush::Ignored, discard: false }
    }

    /// A disk that is thrown away with its machine: flushes cost nothing, discarded blocks are given back.
    #[must_use]
    pub const fn scratch(file: PathBuf) -> Self {
        Self { file, readonly: false, flush: Flush::Ignored, discard: true }
    }

    /// A disk whose content matters after its machine.
    #[must_use]
    pub const fn durable(file: PathBuf) -> Self {
        Self { file, readonly: false, flush: Flush::Honoured, discard: true }
    }
}
