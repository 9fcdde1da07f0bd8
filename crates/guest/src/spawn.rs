//! One new process and `execve`, with everything prepared before.
//!
//! The child shares the agent's memory, as a child of `vfork` does, and the agent stands still until the program runs or
//! the child has ended: nothing is copied, which halves the time under emulation. The child has a stack of its own, makes
//! system calls only, and leaves a note in the shared memory if it fails.
//!
//! Invariant: nothing that a program's start can wait for is served by the agent's loop. A file system in user space, for
//! one, needs a process of its own.

#![expect(unsafe_code, reason = "a new process between fork and execve is beyond any safe interface")]

use std::{
    cell::Cell,
    ffi::{CStr, CString},
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    ptr,
};

use rustix::{
    fs::{Gid, Uid},
    io::{Errno, write},
    process::{Pid, WaitOptions, chdir, ioctl_tiocsctty, setsid, waitpid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
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
    cgroup: Option<OwnedFd>,
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
        Self { stack: vec![0; STACK].into_boxed_slice(), cgroup: None }
    }

    /// Start every later program in the cgroup with this `cgroup.procs`.
    pub(crate) fn enter(&mut self, cgroup: OwnedFd) {
        self.cgroup = Some(cgroup);
    }

    /// Start `program` as the leader of a session and a process group of its own.
    pub(crate) fn spawn(&mut self, program: &Program) -> Result<Pid, (Step, Errno)> {
        let argv = pointers(&program.argv);
        let env = pointers(&program.env);
        let failure = Cell::new(None);
        let job = Job { program, argv: &argv, env: &env, cgroup: self.cgroup.as_ref(), failure };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = self.stack.as_mut_ptr_range().end.cast();
        // SAFETY: `become_program` gets the `Job` that it expects, on a stack that nothing else uses. It neither allocates
        // nor takes a lock nor returns, and the kernel does not let this process go on before it is done.
        let pid = unsafe { libc::clone(become_program, top, flags, (&raw const job).cast_mut().cast()) };
        let pid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| (Step::Fork, last_errno()))?;
        match job.failure.take() {
            None => Ok(pid),
            Some(failure) => {
                let _ = waitpid(Some(pid), WaitOptions::empty()); // it has ended: the note is its last act
                Err(failure)
            }
        }
    }
}

/// The child's whole life.
extern "C" fn become_program(job: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `Spawner::spawn` hands over a `Job` that outlives this process's use of it.
    let job = unsafe { &*job.cast::<Job<'_>>() };
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
