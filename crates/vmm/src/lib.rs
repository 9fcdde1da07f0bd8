//! Start a guest kernel: where it comes from, what it boots into, and the VMM that runs it.
//!
//! Called by `sandbox`, in this order:
//!
//! ```text
//! Qemu::find ─> kernel::resolve ─> initramfs::assemble ─> Machine { kernel, initramfs, disks, … } ─> boot ─> Running + link
//!                                  GUEST, the modules      upper::create for the writable one
//! ```
//!
//! [`Vmm`] is the seam behind which QEMU works, and where another VMM fits. Invariants: a machine's process never outlives its
//! owner, which is this one (see [`Running`]) until it hands the machine over (see [`Spare`]); a [`Machine`] is plain data;
//! nothing here prints or reads the environment but `PATH`.

mod accel;
mod boot;
mod cache;
mod command;
pub mod initramfs;
pub mod keeper;
pub mod kernel;
mod kvm_failure;
mod machine;
mod process;
pub mod qemu;
mod restore;
mod running;
mod spare;
mod tail;
pub mod template;
mod tsc;
pub mod upper;

use std::{fs::File, future::Future, io, os::unix::net::UnixStream};

pub use self::{
    accel::{Accelerator, Fallback, Policy, kvm},
    boot::{BootError, Booted, Deadlines, LAST_WORDS, boot},
    keeper::{KEEPER_VERB, keep},
    machine::{ConsoleLog, Disk, Flush, Machine, Nic},
    process::ProcessEnd,
    restore::{RestoreError, SaveError, Saved, adopt, restore, save},
    running::{Exit, Running},
    spare::Spare,
    template::{Recipe, Template, TemplateError, Templates, Unfinished},
};

use self::qemu::Qmp;

/// The guest's one binary: static, PID 1 and agent.
pub static GUEST: &[u8] = include_bytes!(env!("MATCHLOCK_GUEST_BINARY_PATH"));

/// A program that runs machines.
pub trait Vmm: Sync {
    /// Why it cannot start one.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What a template of `machine` would be made from whose guest was parked as `parked` says.
    ///
    /// # Errors
    /// A file of it cannot be looked at.
    fn recipe(&self, machine: &Machine, accelerator: Accelerator, parked: String) -> io::Result<Recipe>;

    /// May KVM be tried with this machine?
    ///
    /// # Errors
    /// Why not.
    fn kvm(&self, machine: &Machine) -> Result<(), Fallback>;

    /// KVM was tried with this machine and did not work, but emulation did: it is not to be tried again soon.
    fn give_up_kvm(&self, machine: &Machine, reason: &Fallback);

    /// The rate in kHz that its guests take the host's time-stamp counter to have, if they are told.
    fn tsc_khz(&self) -> Option<u64>;

    /// Start a machine. Its guest need not be ready when this returns: that is for [`boot`] and [`restore`] to find out.
    fn start(
        &self,
        machine: &Machine,
        accelerator: Accelerator,
        origin: Origin<'_>,
    ) -> impl Future<Output = Result<Started, Self::Error>> + Send;
}

/// Where a machine's guest comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// The kernel boots.
    Kernel,
    /// The kernel boots, and keeps its memory in this file, for it is to be saved.
    Draft(&'a File),
    /// A saved guest goes on.
    Template(&'a Template),
}

/// A machine that has just been started.
#[derive(Debug)]
pub struct Started {
    /// It, which ends when this is dropped.
    pub running: Running,
    /// The host's end of the control link, non-blocking.
    pub control: UnixStream,
    monitor: Option<Box<Qmp>>,
}
