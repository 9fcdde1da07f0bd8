//! Start a guest kernel: where it comes from, what it boots into, and the VMM that runs it.
//!
//! Called by `sandbox`, in this order:
//!
//! ```text
//! Qemu::find ─> kernel::resolve ─> initramfs::assemble ─> Machine { kernel, initramfs, disks, … } ─> boot ─> Running + link
//!                                  GUEST, the modules      upper::create for the writable one
//! ```
//!
//! [`Vmm`] is the seam behind which QEMU works, and where another VMM fits. Invariants: a machine's process never outlives
//! this one (see [`Running`]); a [`Machine`] is plain data; nothing here prints or reads the environment but `PATH`.

mod accel;
mod boot;
mod cache;
mod command;
pub mod initramfs;
pub mod kernel;
mod machine;
mod process;
pub mod qemu;
mod running;
mod tail;
mod tsc;
pub mod upper;

use std::{future::Future, os::unix::net::UnixStream};

pub use self::{
    accel::{Accelerator, Fallback, Policy, kvm},
    boot::{BootError, Booted, Deadlines, LAST_WORDS, boot},
    machine::{ConsoleLog, Disk, Flush, Machine},
    process::ProcessEnd,
    running::{Exit, Running},
};

/// The guest's one binary: static, PID 1 and agent.
pub static GUEST: &[u8] = include_bytes!(env!("MATCHLOCK_GUEST_BINARY_PATH"));

/// A program that runs machines.
pub trait Vmm: Sync {
    /// Why it cannot start one.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Start a machine. Returns it with the host's end of its control link, non-blocking. Its guest need not be ready then:
    /// that is for [`boot`] to find out.
    fn start(
        &self,
        machine: &Machine,
        accelerator: Accelerator,
    ) -> impl Future<Output = Result<(Running, UnixStream), Self::Error>> + Send;
}
