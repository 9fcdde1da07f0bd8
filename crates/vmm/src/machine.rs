//! What a virtual machine consists of: plain data, the same for every VMM.
//!
//! Made by `sandbox`, read by the VMM behind [`crate::Vmm`]. Invariant: nothing here depends on the VMM or on the
//! accelerator; two machines that are equal boot alike.

use std::{
    fmt,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

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
    /// Its network interface, if it has one.
    pub nic: Option<Nic>,
    /// Takes what the guest's console says.
    pub console_log: Option<ConsoleLog>,
}

/// A network interface.
#[derive(Clone, Debug, Default)]
pub struct Nic {
    /// The other end: a TAP whose frames have a virtio header (`IFF_VNET_HDR`). There has to be one when the machine starts.
    pub tap: Option<Arc<OwnedFd>>,
}

impl PartialEq for Nic {
    /// The same TAP.
    fn eq(&self, other: &Self) -> bool {
        let number = |nic: &Self| nic.tap.as_ref().map(AsRawFd::as_raw_fd);
        number(self) == number(other)
    }
}

impl Eq for Nic {}

/// Takes what a guest's console says, on a thread of the VMM's. How much of it is kept is the taker's to bound.
#[derive(Clone)]
pub struct ConsoleLog(Arc<Taker>);

type Taker = dyn Fn(&[u8]) + Send + Sync;

impl ConsoleLog {
    /// `take` is called with each piece, in order; what it does delays the guest only once its console's buffer is full.
    pub fn new(take: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(crate) fn take(&self, bytes: &[u8]) {
        (self.0)(bytes);
    }
}

impl fmt::Debug for ConsoleLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleLog")
    }
}

impl PartialEq for ConsoleLog {
    /// The same taker.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ConsoleLog {}

/// One block device backed by a raw image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The image. It is opened when the machine starts, so that the VMM itself needs no right to the path.
    pub file: PathBuf,
    /// What messages call it.
    pub name: PathBuf,
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
    pub fn readonly(file: PathBuf) -> Self {
        Self { name: file.clone(), file, readonly: true, flush: Flush::Ignored, discard: false }
    }

    /// A disk that is thrown away with its machine: flushes cost nothing, discarded blocks are given back.
    #[must_use]
    pub fn scratch(file: PathBuf) -> Self {
        Self { name: file.clone(), file, readonly: false, flush: Flush::Ignored, discard: true }
    }

    /// A disk whose content matters after its machine.
    #[must_use]
    pub fn durable(file: PathBuf) -> Self {
        Self { name: file.clone(), file, readonly: false, flush: Flush::Honoured, discard: true }
    }

    /// The same disk, which the user knows as `name`.
    #[must_use]
    pub fn called(self, name: &Path) -> Self {
        Self { name: name.to_owned(), ..self }
    }
}
