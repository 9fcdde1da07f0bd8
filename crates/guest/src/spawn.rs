//! One new process and `execve`, with everything prepared before.
//!
//! The child shares the agent's memory, as a child of `vfork` does, and the agent stands still until the program runs or
//! the child has ended: nothing is copied, which halves the time under emulation. The child has a stack of its own, makes
//! system calls only, and leaves a note in the shared memory if it fails.
//!
//! One can be there before it is known what it is to become: a guest that is saved with it needs no new process for its first
//! program. Until it gets its orders it shares the agent's root and descriptors, too.
//!
//! Invariant: nothing that a program's start can wait for is served by the agent's loop. A file system in user space, for
//! one, needs a process of its own.

#![expect(unsafe_code, reason = "a new process between fork and execve is beyond any safe interface")]

use std::{
    cell::Cell,
    ffi::{CStr, CString},
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use rustix::{
    fs::{Gid, Uid},
    io::{Errno, write},
    process::{Pid, Signal, WaitOptions, chdir, ioctl_tiocsctty, kill_process, setsid, waitpid},
    thread::{UnshareFlags, futex, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe},
};

use crate::reap::{last_errno, set_mask};

/// A program ready to be started.
pub(crate) struct Program {
    /// The file to execute.
    pub(crate) path: CString,
    /// Its arguments, the first of which is its name.
    pub(crate) argv: Vec<CString>,
    /// `NAME=value`.
    pub(crate) env: Vec<CString>,
    /// The working folder, absolute.
    pub(crate) cwd: CString,
    /// Who it runs as.
    pub(crate) uid: Uid,
    /// Its primary group.
    pub(crate) gid: Gid,
    /// Its other groups.
    pub(crate) groups: Vec<Gid>,
    /// What becomes its descriptors 0, 1 and 2.
    pub(crate) streams: [RawFd; 3],
    /// The streams are a terminal to take as controlling one.
    pub(crate) terminal: bool,
}

/// Where a child stood when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Making the process, and putting it into its cgroup.
    Fork,
    /// New session, terminal, standard streams.
    Streams,
    /// The working folder.
    Folder,
    /// User and groups.
    User,
    /// The program itself.
    Exec,
}

/// What a child's few system calls need for a stack, with room to spare, in 16-byte words.
const STACK: usize = 32 * 1024 / size_of::<u128>();

/// Makes processes, all of them in one cgroup if there is one.
pub(crate) struct Spawner {
    stack: Box<[u128]>,
    orders: Box<Orders>,
    /// A child that has no orders yet.
    waiting: Option<Pid>,
    cgroup: Option<OwnedFd>,
}

/// What a child and the agent tell each other.
struct Orders {
    /// One while a child shares the agent's memory: the kernel clears it when the child has a memory of its own, or none.
    shared: AtomicU32,
    /// One when there is a job.
    given: AtomicU32,
    /// A `Job`.
    job: AtomicPtr<libc::c_void>,
}

/// All that a child looks at.
struct Job<'a> {
    program: &'a Program,
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    cgroup: Option<&'a OwnedFd>,
    /// What the child leaves.
    failure: Cell<Option<(Step, Errno)>>,
}

impl Spawner {
    /// A spawner without a cgroup.
    pub(crate) fn new() -> Self {
        let orders = Orders { shared: 0.into(), given: 0.into(), job: AtomicPtr::default() };
        Self { stack: vec![0; STACK].into_boxed_slice(), orders: Box::new(orders), waiting: None, cgroup: None }
    }

    /// Start every later program in the cgroup with this `cgroup.procs`.
    pub(crate) fn enter(&mut self, cgroup: OwnedFd) {
        self.cgroup = Some(cgroup);
    }

    /// Have a process ready that the next program is started in. What the agent gives up later, it keeps.
    pub(crate) fn prepare(&mut self) {
        self.dismiss();
        self.orders.given.store(0, Ordering::Release);
        self.waiting = fork(&mut self.stack, &self.orders).ok(); // without one, the next program gets its own
    }

    /// End what [`Spawner::prepare`] has made.
    pub(crate) fn dismiss(&mut self) {
        if let Some(pid) = self.waiting.take()
            && self.orders.shared.load(Ordering::Acquire) != 0
        {
            let _ = kill_process(pid, Signal::KILL); // nobody collects it but the next line
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }

    /// Start `program` as the leader of a session and a process group of its own.
    pub(crate) fn spawn(&mut self, program: &Program) -> Result<Pid, (Step, Errno)> {
        let argv = pointers(&program.argv);
        let env = pointers(&program.env);
        let failure = Cell::new(None);
        // One that somebody has killed, the reaper finds.
        let waiting = self.waiting.take().filter(|_| self.orders.shared.load(Ordering::Acquire) != 0);
        let job = Job { program, argv: &argv, env: &env, cgroup: self.cgroup.as_ref(), failure };
        self.orders.job.store((&raw const job).cast_mut().cast(), Ordering::Release);
        self.orders.given.store(1, Ordering::Release);
        let pid = match waiting {
            Some(pid) => {
                futex::wake(&self.orders.given, futex::Flags::empty(), 1).map_err(|errno| (Step::Fork, errno))?;
                pid
            }
            None => fork(&mut self.stack, &self.orders).map_err(|errno| (Step::Fork, errno))?,
        };
        wait_while(&self.orders.shared, 1);
        match job.failure.take() {
            None => Ok(pid),
            Some(failure) => {
                let _ = waitpid(Some(pid), WaitOptions::empty()); // it has ended: the note is its last act
                Err(failure)
            }
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// A new child on this stack, which does the job as soon as there is one.
fn fork(stack: &mut [u128], orders: &Orders) -> Result<Pid, Errno> {
    orders.shared.store(1, Ordering::Release);
    let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end.cast();
    let (unused, shared) = (ptr::null_mut::<libc::c_void>(), orders.shared.as_ptr());
    let orders = (&raw const *orders).cast_mut().cast();
    // SAFETY: `become_program` gets the `Orders` that it expects, on a stack that nothing else uses, for no second child is made
    // before the kernel has cleared `shared`. It neither allocates nor takes a lock nor returns. Both live on the heap for as long
    // as the spawner, which ends the child when it goes; and while the child does its job, the agent waits.
    let pid = unsafe { libc::clone(become_program, top, flags, orders, unused, unused, shared) };
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(last_errno)
}

/// Sleep until `word` is not `value` any more.
fn wait_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        // It is looked at again whatever woke us. Not private: the kernel's own waking is not.
        let _ = futex::wait(word, futex::Flags::empty(), value, None);
    }
}

/// The child's whole life.
extern "C" fn become_program(orders: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `fork` hands over the `Orders`, which outlive this process's use of them.
    let orders = unsafe { &*orders.cast::<Orders>() };
    wait_while(&orders.given, 0);
    // SAFETY: `Spawner::spawn` has put a `Job` there, and waits until this process does not look at it any more.
    let job = unsafe { &*orders.job.load(Ordering::Acquire).cast::<Job<'_>>() };
    let failure = prepare_child(job).err().unwrap_or_else(|| {
        // SAFETY: path and lists are NUL- and null-terminated, and outlive the call.
        unsafe { libc::execve(job.program.path.as_ptr(), job.argv.as_ptr(), job.env.as_ptr()) };
        (Step::Exec, last_errno())
    });
    job.failure.set(Some(failure));
    // SAFETY: ends the child at once, without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

fn prepare_child(job: &Job<'_>) -> Result<(), (Step, Errno)> {
    let program = job.program;
    // SAFETY: what follows changes descriptors and the working folder for this process alone; nobody else knows its copies.
    let apart = unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::FILES) };
    apart.map_err(|errno| (Step::Fork, errno))?;
    enter_cgroup(job.cgroup).map_err(|errno| (Step::Fork, errno))?;
    take_streams(program).map_err(|errno| (Step::Streams, errno))?;
    enter_folder(&program.cwd).map_err(|errno| (Step::Folder, errno))?;
    take_identity(program).map_err(|errno| (Step::User, errno))?;
    set_mask(libc::SIG_SETMASK, false).map_err(|errno| (Step::Exec, errno))
}

fn enter_cgroup(procs: Option<&OwnedFd>) -> Result<(), Errno> {
    procs.map_or(Ok(()), |procs| write(procs, b"0").map(drop))
}

fn take_streams(program: &Program) -> Result<(), Errno> {
    setsid()?;
    let [input, output, error] = program.streams.map(|raw| {
        // SAFETY: the parent holds these descriptors open for the whole call of `spawn`.
        unsafe { BorrowedFd::borrow_raw(raw) }
    });
    if program.terminal {
        ioctl_tiocsctty(input)?;
    }
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(error)
}

/// As root, so that a folder that only root may enter can be somebody's working folder.
fn enter_folder(cwd: &CStr) -> Result<(), Errno> {
    if cwd == c"/" { Ok(()) } else { chdir(cwd) }
}

/// The agent is root without groups: a program that is the same has nothing to change.
fn take_identity(program: &Program) -> Result<(), Errno> {
    let Program { uid, gid, ref groups, .. } = *program;
    if !groups.is_empty() {
        set_thread_groups(groups)?;
    }
    if !gid.is_root() {
        set_thread_res_gid(gid, gid, gid)?;
    }
    if !uid.is_root() {
        set_thread_res_uid(uid, uid, uid)?;
    }
    Ok(())
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags, open};

    use super::*;

    /// Runs `true` or what is not there, with the test's user and nothing to say.
    fn spawn(spawner: &mut Spawner, path: &CStr) -> Result<Pid, (Step, Errno)> {
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let root = (Uid::from_raw(0), Gid::from_raw(0)); // is never changed to
        spawner.spawn(&Program {
            path: path.to_owned(),
            argv: vec![path.to_owned()],
            env: Vec::new(),
            cwd: c"/".to_owned(),
            uid: root.0,
            gid: root.1,
            groups: Vec::new(),
            streams: [null.as_raw_fd(); 3],
            terminal: false,
        })
    }

    fn code(pid: Pid) -> Option<i32> {
        waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1.exit_status()
    }

    fn is_there(pid: Pid) -> bool {
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[test]
    fn what_is_prepared_becomes_the_next_program_and_no_other() {
        let mut spawner = Spawner::new();
        spawner.prepare();
        let prepared = spawner.waiting.unwrap();
        let (first, second) = (spawn(&mut spawner, c"/bin/true").unwrap(), spawn(&mut spawner, c"/bin/false").unwrap());
        assert_eq!((first, code(first), code(second)), (prepared, Some(0), Some(1)));
        assert_ne!(second, prepared);
    }

    #[test]
    fn what_cannot_be_run_is_told_of_whoever_was_to_become_it() {
        let mut spawner = Spawner::new();
        for prepare in [true, false] {
            if prepare {
                spawner.prepare();
            }
            assert_eq!(spawn(&mut spawner, c"/no/such/program"), Err((Step::Exec, Errno::NOENT)));
        }
        let after = spawn(&mut spawner, c"/bin/true").unwrap();
        assert_eq!(code(after), Some(0));
    }

    #[test]
    fn what_is_dismissed_or_killed_is_no_program_and_hinders_none() {
        let mut spawner = Spawner::new();
        spawner.prepare();
        let dismissed = spawner.waiting.unwrap();
        spawner.dismiss();
        assert!(!is_there(dismissed));
        spawner.prepare();
        let killed = spawner.waiting.unwrap();
        kill_process(killed, Signal::KILL).unwrap();
        assert_eq!(code(killed), None);
        let program = spawn(&mut spawner, c"/bin/true").unwrap();
        assert_eq!(code(program), Some(0));
        spawner.prepare();
        let left = spawner.waiting.unwrap();
        drop(spawner);
        assert!(!is_there(left));
    }
}
