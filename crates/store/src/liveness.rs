//! Whether a process that was written down is still the same one, and how to end it.
//!
//! Called by `sandboxes` (is the supervisor alive?), `undo` (end a VMM) and `reconcile` (end a supervisor). Invariant: a signal
//! only ever goes through a pidfd that was opened *before* the start time was compared, so a stranger that was given the
//! pid later is never hit.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use matchlock_model::ProcessIdentity;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use thiserror::Error;

/// How long a process may take to be gone after SIGKILL: it can be inside a disk write.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Why a process could not be looked at or ended.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The kernel refused, such as for another user's process.
    #[error("process {pid}")]
    Refused {
        /// Which process.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It was still there after SIGKILL.
    #[error("process {pid} did not end within {seconds} seconds of SIGKILL")]
    Stuck {
        /// Which process.
        pid: i32,
        /// How long was waited.
        seconds: u64,
    },
}

/// The identity of this process.
///
/// # Errors
/// [`io::Error`] if `/proc` cannot be read.
pub fn own_identity() -> io::Result<ProcessIdentity> {
    let pid = rustix::process::getpid().as_raw_pid();
    identity_of(pid)?.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat does not show this process")))
}

/// The identity of the process that has `pid` now; `None` if there is none, or only its zombie.
///
/// # Errors
/// [`io::Error`] if `/proc` cannot be read.
pub fn identity_of(pid: i32) -> io::Result<Option<ProcessIdentity>> {
    let Some(start_time) = start_time(pid)? else { return Ok(None) };
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned();
    Ok(Some(ProcessIdentity { pid, start_time, boot_id }))
}

/// Does exactly this process still run? A zombie does not.
///
/// # Errors
/// [`ProcessError::Refused`] if `/proc` cannot be read, such as when no descriptor is left: then nobody may conclude
/// that it is dead.
pub fn is_alive(process: &ProcessIdentity) -> Result<bool, ProcessError> {
    let now = identity_of(process.pid).map_err(|source| ProcessError::Refused { pid: process.pid, source })?;
    Ok(now.as_ref() == Some(process))
}

/// End exactly this process: SIGTERM, and after `grace` SIGKILL (at once if it is zero). `false` if it was gone.
///
/// # Errors
/// [`ProcessError`] if it may not be signalled or does not go.
pub fn end(process: &ProcessIdentity, grace: Duration) -> Result<bool, ProcessError> {
    let Some(pidfd) = open_process(process)? else { return Ok(false) };
    if !grace.is_zero() && (!send(process, &pidfd, Signal::TERM)? || ended(process, &pidfd, grace)?) {
        return Ok(true);
    }
    if send(process, &pidfd, Signal::KILL)? && !ended(process, &pidfd, KILL_DEADLINE)? {
        return Err(ProcessError::Stuck { pid: process.pid, seconds: KILL_DEADLINE.as_secs() });
    }
    Ok(true)
}

/// A pidfd of exactly this process, if it still runs: readable once it has ended.
///
/// # Errors
/// [`ProcessError::Refused`] if the kernel does not let this user watch it.
pub fn open_process(process: &ProcessIdentity) -> Result<Option<OwnedFd>, ProcessError> {
    let Some(pid) = Some(process.pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(is_alive(process)?.then_some(pidfd)),
        // The number is nobody's, or by now a thread's, which the kernel refuses in one of two ways.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(refused(process, errno)),
    }
}

fn send(process: &ProcessIdentity, pidfd: &OwnedFd, signal: Signal) -> Result<bool, ProcessError> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(refused(process, errno)),
    }
}

/// Wait until the process has ended; `false` if it has not within `deadline`.
fn ended(process: &ProcessIdentity, pidfd: &OwnedFd, deadline: Duration) -> Result<bool, ProcessError> {
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(refused(process, errno)),
        }
    }
}

fn refused(process: &ProcessIdentity, errno: Errno) -> ProcessError {
    ProcessError::Refused { pid: process.pid, source: errno.into() }
}

/// When the process `pid` was started, in clock ticks since boot; `None` if it is gone or a zombie.
fn start_time(pid: i32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let (state, start_time) =
        parse_stat(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is unreadable")))?;
    Ok((!matches!(state, 'Z' | 'X')).then_some(start_time))
}

/// State (field 3) and start time (field 22) of a `/proc/<pid>/stat` line (proc(5)). Field 2, the program's name in
/// parentheses, is the program's choice: it can hold spaces, parentheses and bytes that are no text.
fn parse_stat(stat: &[u8]) -> Option<(char, u64)> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn child(program: &str, arguments: &[&str]) -> (Child, ProcessIdentity) {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap();
        let identity = identity_of(child.id().try_into().unwrap()).unwrap().unwrap();
        (child, identity)
    }

    #[test]
    fn the_programs_name_cannot_forge_its_start_time() {
        let fields = "S 1 3 3 0 -1 4194560 4 0 0 0 0 0 0 0 20 0 1 0 777 8192 1";
        for name in ["cat", "a) S 1 (b", "", "x) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22"] {
            assert_eq!(parse_stat(format!("12 ({name}) {fields}\n").as_bytes()), Some(('S', 777)));
        }
        assert_eq!(parse_stat(b"12 (\xff\xfe) Z 1 3 3 0 -1 4194560 4 0 0 0 0 0 0 0 20 0 1 0 9 1"), Some(('Z', 9)));
        assert_eq!(parse_stat(b"12 (cat) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn this_process_is_alive_and_nobody_else_is_it() {
        let me = own_identity().unwrap();
        assert!(is_alive(&me).unwrap());
        assert!(!is_alive(&ProcessIdentity { start_time: me.start_time + 1, ..me.clone() }).unwrap());
        assert!(!is_alive(&ProcessIdentity { boot_id: "another".to_owned(), ..me.clone() }).unwrap());
        for pid in [0, -1, i32::MAX] {
            assert!(!is_alive(&ProcessIdentity { pid, ..me.clone() }).unwrap());
            assert!(!end(&ProcessIdentity { pid, ..me.clone() }, Duration::ZERO).unwrap());
        }
    }

    #[test]
    fn a_zombie_is_dead() {
        let (mut child, identity) = child("sleep", &["60"]);
        assert!(is_alive(&identity).unwrap());
        assert!(end(&identity, Duration::ZERO).unwrap());
        assert!(!is_alive(&identity).unwrap());
        assert!(!end(&identity, Duration::ZERO).unwrap());
        child.wait().unwrap();
        assert!(!is_alive(&identity).unwrap());
    }

    #[test]
    fn a_stranger_with_the_same_pid_is_never_signalled() {
        let (mut child, identity) = child("sleep", &["60"]);
        let earlier = ProcessIdentity { start_time: identity.start_time - 1, ..identity.clone() };
        assert!(!end(&earlier, Duration::ZERO).unwrap());
        assert!(is_alive(&identity).unwrap());
        end(&identity, Duration::ZERO).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn grace_is_given_and_ends() {
        use std::{io::Read, os::unix::process::ExitStatusExt};
        let (mut polite, identity) = child("sleep", &["60"]);
        end(&identity, Duration::from_mins(1)).unwrap();
        assert_eq!(polite.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));

        let deaf = "trap '' TERM; echo deaf; exec sleep 60";
        let mut deaf = Command::new("sh").args(["-c", deaf]).stdout(Stdio::piped()).spawn().unwrap();
        deaf.stdout.take().unwrap().read_exact(&mut [0; 5]).unwrap();
        let identity = identity_of(deaf.id().try_into().unwrap()).unwrap().unwrap();
        end(&identity, Duration::from_millis(50)).unwrap();
        assert_eq!(deaf.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }
}
