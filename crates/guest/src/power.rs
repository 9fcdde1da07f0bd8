//! The way down: everybody is asked to end, then made to; the disks are left clean; the machine stops.
//!
//! The machine is stopped by a restart: the host starts QEMU with `-no-reboot` and the kernel with `reboot=t`, so that the
//! restart ends QEMU on every machine type, with no need for ACPI in the guest's kernel.
//!
//! Invariant: a signal to everybody and a restart come from PID 1 only. Anywhere else they would hit whoever runs this.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use matchlock_wire::Mux;
use rustix::{
    event::{PollFd, PollFlags, poll},
    mount::{fsconfig_reconfigure, fsconfig_set_flag},
    process::{Pid, Signal, getpid},
    system::{RebootCommand, reboot},
    time::Timespec,
};

use crate::{console::say, link::Link};

/// How long killed processes may take to vanish before the disks are cleaned without them.
const VANISH: Duration = Duration::from_secs(2);

/// How long the host may take to read the last words.
const LAST_WORDS: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A power-off under way.
pub(crate) struct PowerOff {
    disks: Vec<OwnedFd>,
    deadline: Instant,
    killed: bool,
    /// No process but this one is left.
    pub(crate) nobody_left: bool,
}

impl PowerOff {
    /// Ask everybody to end. `None` if this process is not PID 1.
    pub(crate) fn begin(grace: Duration, disks: Vec<OwnedFd>) -> Option<Self> {
        signal_everybody(Signal::TERM).then(|| Self {
            disks,
            deadline: Instant::now() + grace,
            killed: false,
            nobody_left: false,
        })
    }

    /// When [`PowerOff::advance`] has something to do even if nobody dies.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Do what is due. Ends the machine when nobody is left, or nobody will ever end.
    pub(crate) fn advance(&mut self, now: Instant, link: &Link, mux: &mut Mux) {
        if !self.nobody_left && now < self.deadline {
            return;
        }
        if !self.nobody_left && !self.killed {
            self.killed = true;
            self.deadline = now + VANISH;
            signal_everybody(Signal::KILL);
            return;
        }
        clean(&self.disks);
        say_last_words(link, mux);
        end_vm();
    }
}

/// Send `signal` to every process but this one. False if this process is not PID 1.
fn signal_everybody(signal: Signal) -> bool {
    if getpid() != Pid::INIT {
        return false;
    }
    everybody(signal);
    everybody(Signal::CONT);
    true
}

#[expect(unsafe_code, reason = "rustix cannot signal everybody")]
fn everybody(signal: Signal) {
    // SAFETY: no memory is involved. The caller is PID 1 of its machine.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

/// Write everything, and make the disks read-only, which marks their file systems clean.
fn clean(disks: &[OwnedFd]) {
    rustix::fs::sync();
    for disk in disks {
        if let Err(errno) = fsconfig_set_flag(disk, "ro").and_then(|()| fsconfig_reconfigure(disk)) {
            say(format_args!("a disk could not be made read-only: error {}", errno.raw_os_error()));
        }
    }
}

fn say_last_words(link: &Link, mux: &mut Mux) {
    while mux.output_len() > 0 && !link.is_alone() && link.flush(mux).is_ok() {
        let waited = poll(&mut [PollFd::new(&link.port(), PollFlags::OUT)], Some(&LAST_WORDS));
        if mux.output_len() > 0 && !matches!(waited, Ok(1..)) {
            return;
        }
    }
}

/// Stop the machine at once. Returns only where this process is not PID 1.
pub(crate) fn end_vm() {
    if getpid() == Pid::INIT {
        let _ = reboot(RebootCommand::Restart);
    }
}
