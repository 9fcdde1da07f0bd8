//! SIGCHLD as a descriptor, and the dead as a list.
//!
//! Every process of the VM ends here: programs that the agent started, and all that their parents left behind.

#![expect(unsafe_code, reason = "rustix has neither signalfd nor the signal mask")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use matchlock_wire::ExitKind;
use rustix::{
    io::{Errno, read},
    process::{Pid, Signal, WaitOptions, WaitStatus, wait},
};

use crate::power::signal_everybody;

/// The dead taken in one round, so that a fork bomb cannot keep the agent from its other work.
const MAX_PER_ROUND: usize = 256;

/// Told by the kernel when children have died.
pub(crate) struct Reaper(OwnedFd);

/// What one round found.
pub(crate) struct Round {
    /// Who died, and how.
    pub(crate) dead: Vec<(Pid, ExitKind)>,
    /// What is left.
    pub(crate) left: Left,
}

/// Children still there after a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// None at all.
    Nobody,
    /// Living ones.
    Living,
    /// Perhaps more dead ones: ask again soon.
    PerhapsDead,
}

impl Reaper {
    /// Block all signals, so that none ends the agent, and turn SIGCHLD into a descriptor.
    pub(crate) fn new() -> Result<Self, Errno> {
        let mut children = MaybeUninit::uninit();
        // SAFETY: both calls initialise the set that they are handed and touch nothing else.
        let children = unsafe {
            libc::sigemptyset(children.as_mut_ptr());
            libc::sigaddset(children.as_mut_ptr(), libc::SIGCHLD);
            children.assume_init()
        };
        set_mask(libc::SIG_BLOCK, true)?;
        // Rust's runtime ignores SIGPIPE, and an ignored signal would stay ignored in every program started from here.
        // SAFETY: restores the default of a signal that is blocked; no handler is involved.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        // SAFETY: `children` is a valid set; the new descriptor belongs to nobody else.
        let fd = unsafe { libc::signalfd(-1, &raw const children, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Collect the dead.
    pub(crate) fn round(&self) -> Round {
        let mut notices = [0; 128 * 4];
        let _ = read(&self.0, &mut notices[..]); // only says "look"; the looking is below
        let mut dead = Vec::new();
        while dead.len() < MAX_PER_ROUND {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => dead.extend(ended(status).map(|kind| (pid, kind))),
                Ok(None) => return Round { dead, left: Left::Living },
                Err(_) => return Round { dead, left: Left::Nobody },
            }
        }
        Round { dead, left: Left::PerhapsDead }
    }

    /// Kill whoever is left, and return when all are collected. False if this process is not PID 1.
    pub(crate) fn clear(&self) -> bool {
        if self.round().left == Left::Nobody {
            return true;
        }
        let killed = signal_everybody(Signal::KILL);
        // What is killed vanishes soon. Should the kernel hold somebody, the host has a deadline.
        while killed && wait(WaitOptions::empty()).is_ok() {}
        killed
    }
}

impl AsFd for Reaper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn ended(status: WaitStatus) -> Option<ExitKind> {
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok()).map(ExitKind::Code);
    code.or_else(|| status.terminating_signal().and_then(|signal| u8::try_from(signal).ok()).map(ExitKind::Signal))
}

/// Apply `how` to a full or an empty signal set. Only makes a system call: fit for a new child.
pub(crate) fn set_mask(how: libc::c_int, full: bool) -> Result<(), Errno> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: one of the two calls initialises the set, and `sigprocmask` only reads it.
    let done = unsafe {
        if full {
            libc::sigfillset(set.as_mut_ptr())
        } else {
            libc::sigemptyset(set.as_mut_ptr())
        };
        libc::sigprocmask(how, set.as_ptr(), ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The last libc call's error.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
