//! A small process between a machine that can change hands and whoever owns it: this program again, under a hidden verb.
//!
//! ```text
//! owner ── lifeline ── keeper ── VMM        links, disks, memory: the VMM's alone
//! ```
//!
//! Started by [`crate::qemu::Qemu::kept_by`]'s machines, run by the program's hidden verb. The owner is whoever holds the
//! lifeline's other end: it may be passed on, and the keeper does not notice. Invariants: the VMM does not outlive its owner,
//! whom the lifeline ends with, nor its keeper, with whom the kernel kills it; and a keeper holds nothing open but lifeline,
//! the VMM's pidfd and `/dev/null`. Signals that end a keeper may reach it, for its machine ends with it; a terminal's cannot.
//!
//! On the lifeline, the keeper sends one [`Report`] when the VMM was started, and one when it has ended and is gone. The owner
//! sends nothing: whatever makes its end readable for the keeper, a half that was closed or the owner's end, is the order to
//! kill the VMM.

#![expect(unsafe_code, reason = "a keeper's descriptors are numbers that it is started with")]

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    process::Command,
};

use rustix::{
    event::{PollFd, PollFlags},
    io::{Errno, FdFlags, fcntl_setfd},
    net::{SendFlags, send},
    process::{Signal, WaitIdOptions, pidfd_send_signal},
    stdio::dup2_stderr,
};

use crate::process::{ProcessEnd, exit_of, pidfd, spawn_vmm, wait_for};

/// The hidden verb that calls [`keep`].
pub const KEEPER_VERB: &str = "keep";

/// The number under which a keeper finds its end of the lifeline. A VMM's own descriptors are far below.
pub const LIFELINE_FD: i32 = 200;

const _: () =
    assert!(crate::qemu::DESCRIPTORS <= LIFELINE_FD.cast_unsigned() as usize, "a disk would lie on the lifeline");

/// What a keeper tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The VMM runs as this process.
    Runs(i32),
    /// The system does not start the VMM: errno.
    Refused(i32),
    /// The VMM ended, and is gone.
    Ended(ProcessEnd),
}

impl Report {
    /// Bytes of a report: kind and number, each 32 bits in the host's byte order.
    pub const SIZE: usize = 8;

    /// As it is sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let (kind, number) = match self {
            Self::Runs(pid) => (1, pid),
            Self::Refused(errno) => (2, errno),
            Self::Ended(ProcessEnd::Code(code)) => (3, code),
            Self::Ended(ProcessEnd::Signal(signal)) => (4, signal),
        };
        let mut record = [0; Self::SIZE];
        record[..4].copy_from_slice(&i32::to_ne_bytes(kind));
        record[4..].copy_from_slice(&number.to_ne_bytes());
        record
    }

    /// As it is received, if it is one.
    #[must_use]
    pub fn from_bytes(record: [u8; Self::SIZE]) -> Option<Self> {
        let (words, _) = record.as_chunks();
        let [kind, number] = [words[0], words[1]].map(i32::from_ne_bytes);
        match kind {
            1 => Some(Self::Runs(number)),
            2 => Some(Self::Refused(number)),
            3 => Some(Self::Ended(ProcessEnd::Code(number))),
            4 => Some(Self::Ended(ProcessEnd::Signal(number))),
            _ => None,
        }
    }
}

/// Be the keeper of the VMM whose program and arguments `words` are, until it has ended. To be called before this process has
/// opened anything: every descriptor but the lifeline is passed to the VMM and closed here.
///
/// # Errors
/// There is no lifeline, or the system refuses to watch a process. A VMM that cannot be started is no error but reported.
pub fn keep(mut words: impl Iterator<Item = OsString>) -> io::Result<()> {
    // SAFETY: the number is only used here; where nothing is open under it, the next call says so.
    let lifeline = unsafe { BorrowedFd::borrow_raw(LIFELINE_FD) };
    fcntl_setfd(lifeline, FdFlags::CLOEXEC)?;
    let mut command = Command::new(words.next().unwrap_or_default());
    let vmm = match spawn_vmm(command.args(words)) {
        Ok(vmm) => vmm,
        Err(e) => {
            tell(lifeline, Report::Refused(e.raw_os_error().unwrap_or(Errno::IO.raw_os_error())));
            return Ok(());
        }
    };
    // From here on, what the VMM was given ends with it.
    dup2_stderr(File::options().write(true).open("/dev/null")?)?;
    close_all_but_lifeline()?;
    // This thread waits here until the VMM has ended: it is the one with which the kernel would end it.
    let pid = i32::try_from(vmm.id()).map_err(io::Error::other)?;
    let vmm = pidfd(pid)?;
    tell(lifeline, Report::Runs(pid));
    let mut awaited = [PollFd::new(&lifeline, PollFlags::IN), PollFd::new(&vmm, PollFlags::IN)];
    wait_for(&mut awaited)?;
    if !awaited[0].revents().is_empty() {
        pidfd_send_signal(&vmm, Signal::KILL)?;
    }
    let end = exit_of(vmm.as_fd(), WaitIdOptions::empty())?;
    tell(lifeline, Report::Ended(end));
    Ok(())
}

/// An owner who has gone hears nothing; that it has is learnt elsewhere.
fn tell(lifeline: BorrowedFd<'_>, report: Report) {
    let _ = send(lifeline, &report.to_bytes(), SendFlags::NOSIGNAL);
}

fn close_all_but_lifeline() -> io::Result<()> {
    const LIFELINE: libc::c_uint = LIFELINE_FD.cast_unsigned();
    for (first, last) in [(3, LIFELINE - 1), (LIFELINE + 1, libc::c_uint::MAX)] {
        // SAFETY: `keep` is called before this process has opened anything, so nobody believes to own one of these.
        if unsafe { libc::close_range(first, last, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
