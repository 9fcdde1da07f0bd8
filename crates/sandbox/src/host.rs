//! This host as sandboxes see it: where things are kept, with which settings, and what a guest boots from.
//!
//! Made once by the program's edge.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use matchlock_model::{CacheLayout, StateLayout};
use matchlock_store::{SandboxStore, StoreError};
use matchlock_vmm::{
    GUEST, Templates, initramfs,
    kernel::{self, Kernel, KernelError, ModuleError},
    qemu::{Qemu, QemuError},
};
use thiserror::Error;

use crate::in_use::InUse;

/// A template that no sandbox has continued for so long goes when somebody tidies up: the next one is a few seconds' work.
const TEMPLATE_KEPT: Duration = Duration::from_hours(30 * 24);

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

/// What every guest on this host boots from. While this is held, nothing of it is removed.
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
    /// `None` where the cache cannot be written, and so nobody can remove anything.
    _in_use: Option<Arc<InUse>>,
}

/// What tidying up has removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    /// Nothing: a sandbox is being started.
    Busy,
    /// All of no use, so many templates among it.
    Templates(usize),
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

    /// Remove what no start of this program needs any more: kernels and initial file systems that are superseded,
    /// templates made from others, and those that were not used for long. Blocks.
    ///
    /// # Errors
    /// The cache cannot be read or written.
    pub fn sweep_guest_files(&self) -> io::Result<Swept> {
        let Some(_alone) = InUse::alone(&self.cache.start_lock())? else { return Ok(Swept::Busy) };
        // Where nothing can be started, nothing says what is superseded.
        if let Ok(vmm) = Qemu::find(&self.cache.host()) {
            self.sweep_superseded(&vmm)?;
        }
        // Last: one whose files are gone is of no use.
        Templates::new(self.cache.templates()).sweep(TEMPLATE_KEPT).map(Swept::Templates)
    }

    fn sweep_superseded(&self, vmm: &Qemu) -> io::Result<()> {
        let kernels = self.cache.kernels();
        let Some(newest) = kernel::cached(&kernels, vmm.transport()) else { return Ok(()) };
        // The one that the user named is used now; without that name, the newest.
        let named = self.kernel.as_deref();
        let named = named.and_then(|path| kernel::resolve(Some(path), &kernels, vmm.transport()).ok());
        let used: Vec<&Kernel> = [&newest].into_iter().chain(&named).collect();
        let assemble = |kernel: &&Kernel| {
            let modules = kernel.modules(vmm.transport()).map_err(io::Error::other)?;
            initramfs::assemble(&self.cache.initramfs(), GUEST, &modules)
        };
        initramfs::sweep(&used.iter().map(assemble).collect::<io::Result<Vec<_>>>()?)?;
        kernel::sweep(&kernels, &used).map(drop)
    }

    fn prepare_now(&self) -> Result<GuestFiles, PrepareError> {
        let in_use = InUse::share(&self.cache.start_lock()).ok().map(Arc::new);
        let vmm = Qemu::find(&self.cache.host())?;
        let kernel = kernel::resolve(self.kernel.as_deref(), &self.cache.kernels(), vmm.transport())?;
        let modules = kernel.modules(vmm.transport());
        let modules = modules.map_err(|source| PrepareError::Modules { version: kernel.version.clone(), source })?;
        let folder = self.cache.initramfs();
        let initramfs = initramfs::assemble(&folder, GUEST, &modules);
        let initramfs = initramfs.map_err(|source| PrepareError::Initramfs(folder, source))?;
        Ok(GuestFiles { vmm, version: kernel.version, kernel: kernel.image, initramfs, _in_use: in_use })
    }
}
