//! QEMU as a [`Vmm`]: one process for each machine, driven by its command line and by descriptors alone.
//!
//! Invariant: nothing of a machine is on disk but what its [`Machine`] names. Links are socket pairs, disks are opened
//! here and passed, so there are no socket files, no limits on path lengths, and no path that QEMU would open by itself
//! except kernel and initramfs.

mod args;
mod probe;

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use thiserror::Error;

pub use self::{args::MAX_DISKS, probe::Board};
use crate::{
    Running, Vmm,
    accel::Accelerator,
    kernel::Transport,
    machine::{Disk, Machine},
    process::Process,
    tail::Tail,
    tsc,
};

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
    /// The system refused a socket, a thread or a process.
    #[error("start {}", .0.display())]
    Start(PathBuf, #[source] io::Error),
}

/// An installed QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    binary: PathBuf,
    facts: probe::Facts,
    tsc_khz: Option<u64>,
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
        Ok(Self { binary, facts, tsc_khz: tsc::khz(host_cache) })
    }

    /// Its version, for people.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.facts.version
    }

    /// How a guest finds its devices, which decides the modules it needs.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.facts.board.transport()
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

    async fn start(&self, machine: &Machine, accelerator: Accelerator) -> Result<(Running, UnixStream), QemuError> {
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
        for (disk, number) in machine.disks.iter().zip(args::FIRST_DISK_FD..) {
            descriptors.push((open_disk(disk)?.into(), number));
        }
        let mappings = descriptors.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        let host = args::Host { board: self.facts.board, accelerator, tsc_khz: self.tsc_khz };
        let mut command = Command::new(&self.binary);
        command.args(args::arguments(machine, host)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(guest_errors);
        // The user's environment may hold secrets, and the user's folder may want to be unmounted.
        command.env_clear().current_dir("/");
        command.fd_mappings(mappings.collect()).map_err(|e| failed(io::Error::other(e)))?;

        // The command, and with it our copies of QEMU's ends, is gone when this returns: a link ends when QEMU does.
        let process = Process::start(command).await.map_err(failed)?;
        let pid = process.pid();
        tracing::debug!(pid, ?accelerator, "qemu started");
        let console = Tail::of("vm-console", console, machine.console_log.clone()).map_err(failed)?;
        let errors = Tail::of("vm-errors", errors, None).map_err(failed)?;
        Ok((Running::new(process, console, errors), control))
    }
}

fn open_disk(disk: &Disk) -> Result<File, QemuError> {
    let file = File::options().read(true).write(!disk.readonly).open(&disk.file);
    file.map_err(|e| QemuError::File(disk.file.clone(), e))
}
