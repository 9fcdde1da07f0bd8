//! Where processes are started: on one thread that lives as long as this process, because the parent-death signal that ends
//! them with us is sent when the *thread* that started them ends (prctl(2), `PR_SET_PDEATHSIG`).

#![expect(unsafe_code, reason = "the child prepares itself between fork and exec")]

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command},
    sync::{LazyLock, mpsc},
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::{
    io::Errno,
    process::{Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit, setsid},
    thread::{clear_ambient_capability_set, set_no_new_privs},
};
use tokio::sync::oneshot;

/// The first that is not a standard stream.
const FIRST_DESCRIPTOR: libc::c_uint = 3;

/// A child that is killed and collected when this is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    /// Somebody else looks after it now.
    pub(super) fn release(self) {
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
pub(super) async fn on_long_lived_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
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

/// Start a VMM, which the kernel kills when the calling thread ends: in a process group of its own, so that a terminal's
/// Ctrl-C does not reach it; confined.
pub(crate) fn spawn_vmm(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    spawn_with(command, move || {
        die_with(parent)?;
        confine()
    })
}

/// Start a keeper, which ends when it sees fit: in a session of its own, which no terminal's signals reach.
pub(super) fn spawn_keeper(command: &mut Command) -> io::Result<Child> {
    spawn_with(command, || {
        setsid()?;
        confine()
    })
}

/// Have `command` begin with these descriptors under these numbers, its standard streams, and no others: what this process
/// was started with by accident may not be held open by one that outlives it.
pub(super) fn pass(command: &mut Command, descriptors: Vec<(OwnedFd, i32)>) -> io::Result<()> {
    // SAFETY: one system call on numbers.
    unsafe {
        command.pre_exec(|| {
            let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
            match libc::close_range(FIRST_DESCRIPTOR, libc::c_uint::MAX, flags) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let mappings = descriptors.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
    Ok(())
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

/// In the child: no means to gain privileges or to leave a memory image. Rights that this process's file has are not inherited
/// (capabilities(7)); those that it was started with so that they would be, "ambient" ones, end here.
fn confine() -> io::Result<()> {
    clear_ambient_capability_set()?;
    set_no_new_privs(true)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}
