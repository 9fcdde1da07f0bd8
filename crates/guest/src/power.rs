//! The way down: everybody is asked to end, then made to; the disks are left clean; the machine stops.
//!
//! The machine is stopped by a restart: the host starts QEMU with `-no-reboot` and the kernel with `reboot=t`, so that the
//! restart ends QEMU on every machine type, with no need for ACPI in the guest's kernel. A kernel that panics restarts too:
//! what tells the two apart is the answer, which is given when the disks are clean.
//!
//! Invariant: a signal to everybody and a restart come from PID 1 only. Anywhere else they would hit whoever runs this.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use matchlock_wire::{Failure, FailureKind, Mux, Note, SessionId};
use rustix::{
    event::{PollFd, PollFlags, poll},
    mount::{fsconfig_reconfigure, fsconfig_set_flag},
    process::{Pid, Signal, getpid},
    system::{RebootCommand, reboot},
    time::Timespec,
};

use crate::{
    link::Link,
    os_error::{Doing, OsError},
};

/// How long killed processes may take to vanish before the disks are cleaned without them.
const VANISH: Duration = Duration::from_secs(2);

/// How long the host may take to read the last words.
const HOST_READS: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A power-off under way.
pub(crate) struct PowerOff {
    /// Who asked for it; `None` if that host is gone.
    pub(crate) asked_by: Option<SessionId>,
    disks: Vec<OwnedFd>,
    deadline: Instant,
    killed: bool,
    /// No process but this one is left.
    pub(crate) nobody_left: bool,
}

impl PowerOff {
    /// Ask everybody to end. `None` if this process is not PID 1.
    pub(crate) fn begin(asked_by: SessionId, grace: Duration, disks: Vec<OwnedFd>) -> Option<Self> {
        signal_everybody(Signal::TERM).then(|| Self {
            asked_by: Some(asked_by),
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
        let outcome = clean(&self.disks);
        if let Some(id) = self.asked_by {
            let failed = |error: OsError| Failure { kind: FailureKind::Internal, message: error.to_string() };
            let _ = mux.note(id, &outcome.map_or_else(|error| Note::Failed(failed(error)), |()| Note::Done)); // short
            mux.end(id);
        }
        say_last_words(link, mux);
        end_vm();
    }
}

/// Send `signal` to every process but this one. False if this process is not PID 1.
pub(crate) fn signal_everybody(signal: Signal) -> bool {
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

/// Write everything, and make all disks read-only, which marks their file systems clean. The first failure counts.
fn clean(disks: &[OwnedFd]) -> Result<(), OsError> {
    rustix::fs::sync();
    let readonly = |disk| {
        let made = fsconfig_set_flag(disk, "ro").and_then(|()| fsconfig_reconfigure(disk));
        made.doing(|| "leave a disk clean".to_owned())
    };
    disks.iter().map(readonly).fold(Ok(()), Result::and)
}

fn say_last_words(link: &Link, mux: &mut Mux) {
    while mux.output_len() > 0 && !link.is_alone() && link.flush(mux).is_ok() {
        let waited = poll(&mut [PollFd::new(&link.port(), PollFlags::OUT)], Some(&HOST_READS));
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
