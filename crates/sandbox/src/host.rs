//! This host as sandboxes see it: where things are kept, with which settings, and what a guest boots from.
//!
//! Made once by the program's edge.

use std::{
    io,
    path::{Path, PathBuf},
};

use matchlock_model::{CacheLayout, StateLayout};
use matchlock_store::{SandboxStore, StoreError};
use matchlock_vmm::{
    GUEST, initramfs,
    kernel::{self, KernelError, ModuleError},
    qemu::{Qemu, QemuError},
};
use thiserror::Error;

/// Where things are kept, and what the user set.
#[derive(Clone, Debug)]
pub struct Host {
    /// `~/.matchlock`.
    pub state: StateLayout,
    /// `~/.cache/matchlock`.
    pub cache: CacheLayout,
    /// The guest kernel that the user named, if any.
    pub kernel: Option<PathBuf>,
}

/// What every guest on this host boots from.
#[derive(Clone, Debug)]
pub struct GuestFiles {
    /// The VMM.
    pub vmm: Qemu,
    /// The kernel's version.
    pub version: String,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system, with the guest's binary in it.
    pub initramfs: PathBuf,
}

/// Why no guest can be booted on this host.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PrepareError {
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("kernel {version}")]
    Modules {
        version: String,
        #[source]
        source: ModuleError,
    },
    #[error("make the initial file system in {}", .0.display())]
    Initramfs(PathBuf, #[source] io::Error),
    #[error("prepare")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// Memory of this host in MiB (`MemTotal` of `proc_meminfo(5)`).
#[must_use]
pub fn host_memory_mb() -> u64 {
    let info = rustix::system::sysinfo();
    let bytes = info.totalram.saturating_mul(info.mem_unit.into());
    bytes / (1024 * 1024)
}

impl Host {
    /// The host whose user has the home folder `home`.
    #[must_use]
    pub fn new(home: &Path, kernel: Option<PathBuf>) -> Self {
        Self { state: StateLayout::new(home), cache: CacheLayout::new(home), kernel }
    }

    /// The database of sandboxes.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be opened.
    pub fn sandboxes(&self) -> Result<SandboxStore, StoreError> {
        SandboxStore::open(&self.state)
    }

    /// Find what guests boot from, and fetch or make what is missing.
    ///
    /// # Errors
    /// [`PrepareError`], which says what to install or to set.
    pub async fn prepare(&self) -> Result<GuestFiles, PrepareError> {
        let host = self.clone();
        tokio::task::spawn_blocking(move || host.prepare_now()).await?
    }

    /// Remove kernels and initial file systems that guests of this program do not boot from any more. Blocks.
    ///
    /// # Errors
    /// The cache cannot be read or written.
    pub fn sweep_guest_files(&self) -> io::Result<()> {
        // Where nothing can be started, nothing says what is superseded.
        let Ok(vmm) = Qemu::find(&self.cache.host()) else { return Ok(()) };
        let kernels = self.cache.kernels();
        let Some(kernel) = kernel::cached(&kernels, vmm.transport()) else { return Ok(()) };
        let modules = kernel.modules(vmm.transport()).map_err(io::Error::other)?;
        initramfs::sweep(&initramfs::assemble(&self.cache.initramfs(), GUEST, &modules)?)?;
        kernel::sweep(&kernels, &kernel).map(drop)
    }

    fn prepare_now(&self) -> Result<GuestFiles, PrepareError> {
        let vmm = Qemu::find(&self.cache.host())?;
        let kernel = kernel::resolve(self.kernel.as_deref(), &self.cache.kernels(), vmm.transport())?;
        let modules = kernel.modules(vmm.transport());
        let modules = modules.map_err(|source| PrepareError::Modules { version: kernel.version.clone(), source })?;
        let folder = self.cache.initramfs();
        let initramfs = initramfs::assemble(&folder, GUEST, &modules);
        let initramfs = initramfs.map_err(|source| PrepareError::Initramfs(folder, source))?;
        Ok(GuestFiles { vmm, version: kernel.version, kernel: kernel.image, initramfs })
    }
}
