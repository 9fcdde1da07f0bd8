//! A VMM's process: how it is started so that it cannot outlive us, watched, and ended. Helper programs start here, too.
//!
//! The parent-death signal that ends it with us is sent when the *thread* that started it ends (prctl(2),
//! `PR_SET_PDEATHSIG`), so all are started from one thread that lives as long as this process. Invariants: a process
//! that was started here is gone when this one is, however this one ends; and when its [`Process`] is dropped.

#![expect(unsafe_code, reason = "the child prepares itself between fork and exec")]

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getpid, getppid, pidfd_open,
        pidfd_send_signal, set_parent_process_death_signal, setrlimit, waitid,
    },
    thread::set_no_new_privs,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

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

/// A running child. Dropping it kills it and waits until it is gone.
pub(crate) struct Process {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    end: Mutex<Option<ProcessEnd>>,
}

impl Process {
    /// Start `command`: in a process group of its own, so that a terminal's Ctrl-C does not reach it; without the means
    /// to gain privileges or to leave a memory image; to be killed by the kernel when this process ends.
    pub(crate) async fn start(command: Command) -> io::Result<Self> {
        // Dropped unanswered, when nobody waits any more, it takes the process with it.
        let child = on_long_lived_thread(move || spawn(command).map(Killed)).await??;
        let pid = i32::try_from(child.0.id()).map_err(io::Error::other)?;
        let raw = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process"))?;
        // Not reaped yet, so the pid is certainly the child's.
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        // SAFETY: an `OwnedFd` names one open descriptor all its life, and here it lives as long as its registration.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        child.release();
        Ok(Self { pid, pidfd, end: Mutex::new(None) })
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
        let _ready = self.pidfd.readable().await?;
        self.reap()
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
        match pidfd_send_signal(self.fd(), Signal::KILL) {
            // It has ended, which is as good.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }

    /// Wait for the end without giving up the thread, and take the zombie away.
    fn reap(&self) -> io::Result<ProcessEnd> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *end {
            return Ok(known);
        }
        let status = loop {
            match waitid(WaitId::PidFd(self.fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                outcome => break outcome?,
            }
        };
        let status = status.ok_or_else(|| io::Error::other("no exit status"))?;
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ProcessEnd::Code(code),
            (None, signal) => ProcessEnd::Signal(signal.unwrap_or_default()),
        };
        Ok(*end.insert(how))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended and was reaped refuses both, which is fine.
        let _ = self.send_kill();
        let _ = self.reap();
    }
}

/// A child that is killed and collected when this is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    /// Somebody else looks after it now.
    fn release(self) {
        // A `Child` that is forgotten keeps only descriptors of piped streams, and these commands have none.
        std::mem::forget(self);
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended and was collected refuses both, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Start one of the host's programs, to be killed by the kernel when this process ends. It stays in this process's group:
/// a terminal's Ctrl-C is meant for it as well. Blocks.
pub(crate) fn start_helper(mut command: Command) -> io::Result<Killed> {
    let (answer, answered) = mpsc::sync_channel(1);
    let parent = getpid();
    // Dropped unanswered, it takes the process with it.
    hand_over(Box::new(move || drop(answer.send(spawn_with(&mut command, move || die_with(parent)).map(Killed)))))?;
    answered.recv().map_err(|_| gone())?
}

type Job = Box<dyn FnOnce() + Send>;

/// Run `work` on the one thread that starts processes and never ends.
async fn on_long_lived_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (answer, answered) = oneshot::channel();
    hand_over(Box::new(move || drop(answer.send(work()))))?;
    answered.await.map_err(|_| gone())
}

fn hand_over(job: Job) -> io::Result<()> {
    static THREAD: LazyLock<io::Result<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let serve = move || jobs.into_iter().for_each(|job| job());
        std::thread::Builder::new().name("vmm-starter".into()).spawn(serve).map(|_| sender)
    });
    let jobs = THREAD.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
    jobs.send(job).map_err(|_| gone())
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts processes has ended")
}

fn spawn(mut command: Command) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    spawn_with(&mut command, move || {
        die_with(parent)?;
        set_no_new_privs(true)?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        Ok(())
    })
}

/// `prepare` must only make system calls.
fn spawn_with(
    command: &mut Command,
    prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Child> {
    // SAFETY: the closures given only make system calls, allocate nothing and take no lock, as code between fork and
    // exec in a program with threads must.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// In the child: have the kernel end it when the thread that started it ends, which `parent`'s does with the process.
fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Without this, a parent that ended before the line above would be missed.
    if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

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
        let process = Process::start(sh("exit 7")).await.unwrap();
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
        let start = Process::start(given_up);
        let outcome = tokio::time::timeout(Duration::from_millis(10), async { tokio::join!(busy, start) }).await;
        assert!(outcome.is_err(), "the thread was to be busy");
        drop(go);
        let ended = tokio::task::spawn_blocking(move || io::Read::read(&mut alive, &mut [0]));
        // The pipe ends when the last holder of its other side does.
        assert_eq!(tokio::time::timeout(DEATH_DEADLINE, ended).await.unwrap().unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_dropped_one_is_gone_and_a_living_one_is_confined() {
        let process = Process::start(sh("while :; do :; done")).await.unwrap();
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
