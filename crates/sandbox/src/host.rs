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
    template::Sources,
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

/// A kernel that starts use, and what follows from it.
struct Used {
    kernel: Kernel,
    initramfs: PathBuf,
    sources: Sources,
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
        let used = self.used()?;
        // Where nothing can be started, nothing says what is superseded.
        if !used.is_empty() {
            let (kernels, initramfs): (Vec<_>, Vec<_>) =
                used.iter().map(|used| (&used.kernel, used.initramfs.clone())).unzip();
            initramfs::sweep(&initramfs)?;
            kernel::sweep(&self.cache.kernels(), &kernels)?;
        }
        let sources: Vec<_> = used.into_iter().map(|used| used.sources).collect();
        self.templates().sweep(&sources, TEMPLATE_KEPT).map(Swept::Templates)
    }

    /// The saved guests of this user.
    #[must_use]
    pub fn templates(&self) -> Templates {
        Templates::new(self.cache.templates())
    }

    /// What those that a start can use are made from. Blocks.
    ///
    /// # Errors
    /// The cache cannot be read or written.
    pub fn template_sources(&self) -> io::Result<Vec<Sources>> {
        Ok(self.used()?.into_iter().map(|used| used.sources).collect())
    }

    /// What starts use without and with the user's own kernel, if that is known without fetching anything.
    fn used(&self) -> io::Result<Vec<Used>> {
        let Ok(vmm) = Qemu::find(&self.cache.host()) else { return Ok(Vec::new()) };
        let kernels = self.cache.kernels();
        let newest = kernel::cached(&kernels, vmm.transport());
        let named = self.kernel.as_deref();
        let named = named.and_then(|path| kernel::resolve(Some(path), &kernels, vmm.transport()).ok());
        let with = |kernel: Kernel| {
            let modules = kernel.modules(vmm.transport()).map_err(io::Error::other)?;
            let initramfs = initramfs::assemble(&self.cache.initramfs(), GUEST, &modules)?;
            let sources = vmm.sources(&kernel.image, &initramfs)?;
            Ok(Used { kernel, initramfs, sources })
        };
        newest.into_iter().chain(named).map(with).collect()
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
