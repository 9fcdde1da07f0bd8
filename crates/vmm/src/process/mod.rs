//! A VMM's process: how it is started so that it cannot outlive its owner, watched, and ended. Helper programs start here, too.
//!
//! ```text
//! start        a child of this process, which the kernel kills with it
//! start_kept   a child of a keeper (`crate::keeper`), which ends it when the lifeline does: that can change hands
//! ```
//!
//! Invariants: a process that was started here is gone when its owner is, however that one ends; and when its [`Process`] is
//! dropped.

pub(crate) mod kept;
mod starter;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use tokio::io::{Interest, unix::AsyncFd};

pub(crate) use self::starter::{Killed, spawn_vmm, start_helper};
use self::starter::{on_long_lived_thread, pass};

/// The unit of times in `/proc`: `USER_HZ`, the same on every x86-64 Linux.
const TICKS_PER_SECOND: u64 = 100;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => write!(f, "signal {number}"),
        }
    }
}

/// A running process that is this one's. Dropping it kills it and waits until it is gone.
pub(crate) struct Process {
    pid: i32,
    /// Can be read when it has ended.
    watched: AsyncFd<OwnedFd>,
    kind: Kind,
    end: Mutex<Option<ProcessEnd>>,
}

/// What is [watched](Process::watched).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A child's pidfd.
    Child,
    /// The lifeline that a keeper holds the other end of.
    Kept,
    /// The same, but it is somebody else's now.
    HandedOver,
}

impl Process {
    /// Start `command` with these descriptors under these numbers and no others; in a process group of its own, so that a
    /// terminal's Ctrl-C does not reach it; without the means to gain privileges or to leave a memory image; to be killed by
    /// the kernel when this process ends.
    pub(crate) async fn start(mut command: Command, descriptors: Vec<(OwnedFd, i32)>) -> io::Result<Self> {
        pass(&mut command, descriptors)?;
        // Dropped unanswered, when nobody waits any more, it takes the process with it.
        let child = on_long_lived_thread(move || spawn_vmm(&mut command).map(Killed)).await??;
        let pid = i32::try_from(child.0.id()).map_err(io::Error::other)?;
        // Not reaped yet, so the pid is certainly the child's.
        let process = Self::new(pid, pidfd(pid)?, Kind::Child)?;
        child.release();
        Ok(process)
    }

    fn new(pid: i32, watched: OwnedFd, kind: Kind) -> io::Result<Self> {
        Ok(Self { pid, watched: watch(watched)?, kind, end: Mutex::new(None) })
    }

    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// The processor time of all its threads, so far (proc(5), `/proc/<pid>/stat`, fields 14 and 15).
    pub(crate) fn processor_time(&self) -> io::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // Field 2 is the program's name in parentheses and may hold anything, so fields are counted from its end.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields = after_name.split_ascii_whitespace().skip(11).take(2);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Wait until it has ended. May be asked again, and by several at once.
    pub(crate) async fn ended(&self) -> io::Result<ProcessEnd> {
        loop {
            // Once it has ended, it can always be read.
            let mut ready = self.watched.readable().await?;
            if let Ok(end) = ready.try_io(|_| self.reap()) {
                return end;
            }
        }
    }

    pub(crate) async fn kill(&self) -> io::Result<ProcessEnd> {
        self.send_kill()?;
        self.ended().await
    }

    /// Kill it, and leave it to the kernel and to whoever collects the orphans of this process, which is about to end: the
    /// kernel may take a while to free what it had.
    pub(crate) fn let_go(self) -> io::Result<()> {
        self.send_kill()?;
        std::mem::forget(self);
        Ok(())
    }

    /// Kill it. It need not be gone when this returns.
    pub(crate) fn send_kill(&self) -> io::Result<()> {
        match self.kind {
            Kind::Child => match pidfd_send_signal(self.fd(), Signal::KILL) {
                // It has ended, which is as good.
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(e) => Err(e.into()),
            },
            Kind::Kept => kept::send_kill(self.fd()),
            Kind::HandedOver => Ok(()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.watched.get_ref().as_fd()
    }

    /// How it ended, if it has, without waiting for that; takes the zombie away.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it has not.
    fn reap(&self) -> io::Result<ProcessEnd> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *end {
            return Ok(known);
        }
        let how = match self.kind {
            Kind::Child => exit_of(self.fd(), WaitIdOptions::NOHANG)?,
            Kind::Kept | Kind::HandedOver => kept::end_of(self.fd())?,
        };
        Ok(*end.insert(how))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kind == Kind::HandedOver {
            return;
        }
        // A process that has ended and was reaped refuses all this, which is fine.
        let _ = self.send_kill();
        let _ = wait_for(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)]);
        let _ = self.reap();
    }
}

/// Whichever process has this pid, which must not have been reaped.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// How the child with this pidfd ended; waits for it unless `options` say otherwise.
pub(crate) fn exit_of(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> io::Result<ProcessEnd> {
    let status = loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | options) {
            Err(Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    let status = status.ok_or(io::ErrorKind::WouldBlock)?;
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ProcessEnd::Code(code),
        (None, signal) => ProcessEnd::Signal(signal.unwrap_or_default()),
    })
}

/// Wait, without giving up the thread, until one of these is ready.
pub(crate) fn wait_for(descriptors: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(descriptors, None) {
            Err(Errno::INTR) => {}
            outcome => return outcome.map(drop).map_err(Into::into),
        }
    }
}

#[expect(unsafe_code, reason = "tokio cannot know that a descriptor stays open")]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor all its life, and here it lives as long as its registration.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? })
}

#[cfg(test)]
mod tests {
    use std::{process::Stdio, sync::mpsc};

    use rustix::thread::{
        CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
    };

    use super::*;

    /// For the starting thread to see that it is not waited for, and for the kernel to end a process.
    const DEATH_DEADLINE: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[tokio::test]
    async fn the_end_is_seen_by_everyone_who_asks() {
        let process = Process::start(sh("exit 7"), Vec::new()).await.unwrap();
        assert_eq!(process.ended().await.unwrap(), ProcessEnd::Code(7));
        assert_eq!(process.ended().await.unwrap(), ProcessEnd::Code(7));
        assert_eq!(process.kill().await.unwrap(), ProcessEnd::Code(7));
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_killed() {
        let (mut alive, held) = io::pipe().unwrap();
        // Keeps the starting thread busy, so that the other start is given up before its process is there.
        let (go, wait) = mpsc::channel::<()>();
        let busy = on_long_lived_thread(move || wait.recv());
        let mut given_up = sh("exec sleep 1000");
        given_up.stdout(held);
        let start = Process::start(given_up, Vec::new());
        let outcome = tokio::time::timeout(Duration::from_millis(10), async { tokio::join!(busy, start) }).await;
        assert!(outcome.is_err(), "the thread was to be busy");
        drop(go);
        let ended = tokio::task::spawn_blocking(move || io::Read::read(&mut alive, &mut [0]));
        // The pipe ends when the last holder of its other side does.
        assert_eq!(tokio::time::timeout(DEATH_DEADLINE, ended).await.unwrap().unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn what_this_process_was_started_with_is_not_passed_on() {
        let (mut reader, inherited) = io::pipe().unwrap();
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
        let process = Process::start(sh("exec sleep 1000"), Vec::new()).await.unwrap();
        drop(inherited);
        let ended = tokio::task::spawn_blocking(move || io::Read::read(&mut reader, &mut [0]));
        assert_eq!(tokio::time::timeout(DEATH_DEADLINE, ended).await.unwrap().unwrap().unwrap(), 0);
        assert_eq!(process.kill().await.unwrap(), ProcessEnd::Signal(Signal::KILL.as_raw()));
    }

    #[tokio::test]
    async fn rights_that_are_passed_on_to_children_are_not_passed_on_to_it() {
        let right = CapabilitySet::NET_ADMIN;
        let Some(own) = capabilities(None).ok().filter(|own| own.permitted.contains(right)) else {
            eprintln!("not run: only who has rights can pass them on");
            return;
        };
        let raise = move || {
            let more = CapabilitySets { inheritable: own.inheritable | right, ..own };
            set_capabilities(None, more).and_then(|()| configure_capability_in_ambient_set(right, true))
        };
        on_long_lived_thread(raise).await.unwrap().unwrap();
        let process = Process::start(sh("exec sleep 1000"), Vec::new()).await.unwrap();
        on_long_lived_thread(move || set_capabilities(None, own)).await.unwrap().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
        assert!(status.contains("CapAmb:\t0000000000000000\n"), "{status}");
    }

    #[tokio::test]
    async fn a_dropped_one_is_gone_and_a_living_one_is_confined() {
        let process = Process::start(sh("while :; do :; done"), Vec::new()).await.unwrap();
        let proc = std::path::PathBuf::from(format!("/proc/{}", process.pid()));
        while process.processor_time().unwrap() < Duration::from_millis(50) {
            tokio::task::yield_now().await;
        }
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
        assert!(limits.lines().any(|l| l.starts_with("Max core file size") && l.contains(" 0 ")), "{limits}");
        drop(process);
        assert!(!proc.exists());
    }
}
