//! QEMU as a [`Vmm`]: one process for each machine, driven by its command line and by descriptors alone.
//!
//! Invariant: nothing of a machine is on disk but what its [`Machine`] names. Links are socket pairs, disks are opened
//! here and passed, so there are no socket files, no limits on path lengths, and no path that QEMU would open by itself
//! except kernel and initramfs.

mod args;
mod disk;
mod probe;
mod qmp;
mod stub;

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use thiserror::Error;

pub(crate) use self::{args::DESCRIPTORS, qmp::Qmp};
pub use self::{args::MAX_DISKS, probe::Board, qmp::QmpError};
use crate::{
    Origin, Running, Started, Vmm,
    accel::{self, Accelerator, Fallback},
    keeper::KEEPER_VERB,
    kernel::Transport,
    kvm_failure,
    machine::{Disk, Machine},
    process::Process,
    template::{Recipe, Sources},
    tsc,
};

/// For the C library's allocator: one heap, which grows in huge pages and is not given back in between. Otherwise the thread of
/// the guest's processor has a heap of its own, which grows by a system call for each page (glibc; other C libraries do not know
/// the variable).
pub const ALLOCATOR: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1:glibc.malloc.top_pad=8388608:glibc.malloc.trim_threshold=268435456",
);

/// Why QEMU cannot be used or started.
#[derive(Debug, Error)]
pub enum QemuError {
    /// There is none.
    #[error("qemu-system-x86_64 is not installed (Debian, Ubuntu: install the package qemu-system-x86)")]
    NotInstalled,
    /// It does not answer.
    #[error("{} cannot be used", .0.display())]
    Probe(PathBuf, #[source] io::Error),
    /// A file of the machine cannot be opened.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// More block devices than places for them.
    #[error("{0} disks are more than a machine can have ({MAX_DISKS})")]
    TooManyDisks(usize),
    /// Its network interface has no other end.
    #[error("the machine's network interface is not connected")]
    Unconnected,
    /// The system refused a socket, a thread or a process.
    #[error("start {}", .0.display())]
    Start(PathBuf, #[source] io::Error),
    /// It does not do what it is told while it runs.
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

/// An installed QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    binary: PathBuf,
    facts: probe::Facts,
    tsc_khz: Option<u64>,
    host_cache: PathBuf,
    keeper: Option<PathBuf>,
}

impl Qemu {
    /// The QEMU in `PATH`. What it can do, and the rate of this host's time-stamp counter, are remembered in
    /// `host_cache`; the first call blocks for about 100 ms.
    ///
    /// # Errors
    /// [`QemuError::NotInstalled`] or [`QemuError::Probe`].
    pub fn find(host_cache: &Path) -> Result<Self, QemuError> {
        let binary = probe::binary()?;
        let facts = probe::facts(&binary, host_cache)?;
        Ok(Self { binary, facts, tsc_khz: tsc::khz(host_cache), host_cache: host_cache.to_owned(), keeper: None })
    }

    /// Its version, for people.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.facts.version
    }

    /// What templates for this kernel and initial file system are made from.
    ///
    /// # Errors
    /// One of the files cannot be looked at.
    pub fn sources(&self, kernel: &Path, initramfs: &Path) -> io::Result<Sources> {
        Sources::new(&self.binary, kernel, initramfs)
    }

    /// How a guest finds its devices, which decides the modules it needs.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.facts.board.transport()
    }

    const fn host(&self, accelerator: Accelerator, memory: args::Memory) -> args::Host {
        args::Host { board: self.facts.board, accelerator, tsc_khz: self.tsc_khz, memory }
    }

    /// Start machines that can change hands from now on, each through the program `keeper` (see [`crate::keeper`]).
    #[must_use]
    pub fn kept_by(self, keeper: PathBuf) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Start processes of this machine type instead of the one found best.
    #[must_use]
    pub fn with_board(mut self, board: Board) -> Self {
        self.facts.board = board;
        self
    }
}

impl Vmm for Qemu {
    type Error = QemuError;

    fn recipe(&self, machine: &Machine, accelerator: Accelerator, parked: String) -> io::Result<Recipe> {
        let host = args::Host { tsc_khz: None, ..self.host(accelerator, args::Memory::Restored) };
        let processor = match accelerator {
            Accelerator::Kvm => Some(accel::cpu_flags(Path::new("/proc/cpuinfo"))?.join(" ")),
            // Emulated ones are all alike.
            Accelerator::Tcg => None,
        };
        let vmm = (self.binary.as_path(), self.version());
        let nameless = Machine { kernel: PathBuf::new(), initramfs: PathBuf::new(), ..machine.clone() };
        Recipe::new(machine, accelerator, vmm, &args::arguments(&nameless, &nameless.kernel, host), parked, processor)
    }

    fn kvm(&self, machine: &Machine) -> Result<(), Fallback> {
        kvm_failure::kvm(&self.host_cache, &machine.kernel)
    }

    fn give_up_kvm(&self, machine: &Machine, reason: &Fallback) {
        kvm_failure::remember(&self.host_cache, &machine.kernel, reason);
    }

    async fn start(
        &self,
        machine: &Machine,
        accelerator: Accelerator,
        origin: Origin<'_>,
    ) -> Result<Started, QemuError> {
        if machine.disks.len() > MAX_DISKS {
            return Err(QemuError::TooManyDisks(machine.disks.len()));
        }
        let failed = |e| QemuError::Start(self.binary.clone(), e);
        let (control, guest_control) = UnixStream::pair().map_err(failed)?;
        let (console, guest_console) = UnixStream::pair().map_err(failed)?;
        let (errors, guest_errors) = io::pipe().map_err(failed)?;
        control.set_nonblocking(true).map_err(failed)?;

        let mut descriptors: Vec<(OwnedFd, i32)> =
            vec![(guest_control.into(), args::CONTROL_FD), (guest_console.into(), args::CONSOLE_FD)];
        let (memory, file) = match origin {
            Origin::Kernel => (args::Memory::Anonymous, None),
            Origin::Draft(file) => (args::Memory::Written, Some(file)),
            Origin::Template(template) => (args::Memory::Restored, Some(&template.memory)),
        };
        let monitor = if let Some(file) = file {
            let (monitor, qemus) = UnixStream::pair().map_err(failed)?;
            descriptors.push((qemus.into(), args::MONITOR_FD));
            descriptors.push((file.try_clone().map_err(failed)?.into(), args::MEMORY_FD));
            Some(Box::new(Qmp::new(monitor).await?))
        } else {
            None
        };
        for (disk, number) in machine.disks.iter().zip(args::FIRST_DISK_FD..) {
            descriptors.push((disk::open(disk)?.into(), number));
        }
        if let Some(nic) = &machine.nic {
            let tap = nic.tap.as_ref().ok_or(QemuError::Unconnected)?;
            descriptors.push((tap.try_clone().map_err(failed)?, args::TAP_FD));
        }
        let kernel = match origin {
            Origin::Template(_) => stub::of(&machine.kernel).map_err(|e| QemuError::File(machine.kernel.clone(), e))?,
            Origin::Kernel | Origin::Draft(_) => None,
        };
        let kernel = kernel.map(|stub| {
            descriptors.push((stub.into(), args::KERNEL_FD));
            PathBuf::from(format!("/proc/self/fd/{}", args::KERNEL_FD))
        });
        let mut command = Command::new(self.keeper.as_ref().unwrap_or(&self.binary));
        if self.keeper.is_some() {
            command.arg(KEEPER_VERB).arg(&self.binary);
        }
        let kernel = kernel.as_ref().unwrap_or(&machine.kernel);
        command.args(args::arguments(machine, kernel, self.host(accelerator, memory)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(guest_errors);
        // The user's environment may hold secrets, and the user's folder may want to be unmounted.
        command.env_clear().env(ALLOCATOR.0, ALLOCATOR.1).current_dir("/");

        // The command, and with it our copies of QEMU's ends, is gone when this returns: a link ends when QEMU does.
        let process = match &self.keeper {
            None => Process::start(command, descriptors).await,
            Some(_) => Process::start_kept(command, descriptors).await,
        };
        let process = process.map_err(failed)?;
        let pid = process.pid();
        tracing::debug!(pid, ?accelerator, ?memory, "qemu started");
        let running = Running::new(process, console, errors, machine.console_log.clone()).map_err(failed)?;
        let mut started = Started { running, control, monitor };
        if let (Origin::Template(template), Some(monitor)) = (origin, &mut started.monitor) {
            monitor.restore(&template.state).await?;
        }
        Ok(started)
    }

    fn tsc_khz(&self) -> Option<u64> {
        self.tsc_khz
    }
}

/// Put the file of `disk` under disk `number` of the machine that `monitor` is of, see [`crate::Running::replace_disk`].
pub(crate) async fn replace_disk(monitor: &mut Qmp, number: usize, disk: &Disk) -> Result<(), QemuError> {
    let file = disk::open(disk)?;
    Ok(monitor.replace(number, disk, file).await?)
}
