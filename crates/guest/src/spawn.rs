//! One `fork` and `execve`, with everything prepared before.
//!
//! The child is made by `clone3` with `CLONE_VFORK`: the agent goes on when the program runs, or when the child has said
//! in a page of shared memory why it does not. Between the two the child makes system calls only.

#![expect(unsafe_code, reason = "a new process between fork and execve is beyond any safe interface")]

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap_anonymous},
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
#[repr(i32)]
pub(crate) enum Step {
    /// No child could be made.
    Fork = 1,
    /// New session, terminal, standard streams.
    Streams = 2,
    /// The working folder.
    Folder = 3,
    /// User and groups.
    User = 4,
    /// The program itself.
    Exec = 5,
}

/// Makes processes, all of them in one cgroup if there is one.
pub(crate) struct Spawner {
    report: Report,
    cgroup: Option<OwnedFd>,
}

impl Spawner {
    /// A spawner without a cgroup.
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { report: Report::new()?, cgroup: None })
    }

    /// Start every later program in this cgroup.
    pub(crate) fn enter(&mut self, cgroup: OwnedFd) {
        self.cgroup = Some(cgroup);
    }

    /// Start `program` as the leader of a session and a process group of its own.
    pub(crate) fn spawn(&self, program: &Program) -> Result<Pid, (Step, Errno)> {
        let argv = pointers(&program.argv);
        let env = pointers(&program.env);
        self.report.clear();
        // SAFETY: the child gets a copy of this single-threaded process. It calls `become_program` and nothing else,
        // which neither allocates nor returns.
        let pid = unsafe { clone(self.cgroup.as_ref()) }.map_err(|errno| (Step::Fork, errno))?;
        let Some(pid) = pid else { become_program(program, &argv, &env, &self.report) };
        match self.report.read() {
            None => Ok(pid),
            Some(failure) => {
                let _ = waitpid(Some(pid), WaitOptions::empty()); // it has ended: the report is its last act
                Err(failure)
            }
        }
    }
}

/// linux/sched.h; the libc crate's types are those of the older `clone`.
const CLONE_VFORK: u64 = 0x4000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `fork`, with the caller suspended until the child executes a program or ends. `None` in the child.
///
/// # Safety
/// The caller has one thread.
unsafe fn clone(cgroup: Option<&OwnedFd>) -> Result<Option<Pid>, Errno> {
    // SAFETY: all zeroes is a valid `clone_args`: a plain fork.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_VFORK;
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: no stack and no shared memory is asked for, so both processes return from here on their own copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match i32::try_from(pid) {
        Ok(pid) if pid >= 0 => Ok(Pid::from_raw(pid)),
        _ => Err(last_errno()),
    }
}

/// The child's whole life.
fn become_program(program: &Program, argv: &[*const libc::c_char], env: &[*const libc::c_char], report: &Report) -> ! {
    let (step, errno) = prepare_child(program).err().unwrap_or_else(|| {
        // SAFETY: path and lists are NUL- and null-terminated, and outlive the call.
        unsafe { libc::execve(program.path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        (Step::Exec, last_errno())
    });
    report.write(step, errno);
    // SAFETY: ends the child at once, without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

fn prepare_child(program: &Program) -> Result<(), (Step, Errno)> {
    take_streams(program).map_err(|errno| (Step::Streams, errno))?;
    enter_folder(&program.cwd).map_err(|errno| (Step::Folder, errno))?;
    take_identity(program).map_err(|errno| (Step::User, errno))?;
    set_mask(libc::SIG_SETMASK, false).map_err(|errno| (Step::Exec, errno))
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

/// A page that both processes see: the step that failed, and the error.
struct Report(NonNull<[AtomicI32; 2]>);

impl Report {
    fn new() -> Result<Self, Errno> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice, zeroed, never unmapped.
        let page = unsafe { mmap_anonymous(ptr::null_mut(), size_of::<[AtomicI32; 2]>(), protection, flags)? };
        NonNull::new(page.cast()).map(Self).ok_or(Errno::NOMEM)
    }

    fn cells(&self) -> &[AtomicI32; 2] {
        // SAFETY: mapped, aligned to a page, zeroed, and never unmapped.
        unsafe { self.0.as_ref() }
    }

    fn clear(&self) {
        self.cells()[0].store(0, Ordering::Relaxed);
    }

    fn write(&self, step: Step, errno: Errno) {
        self.cells()[1].store(errno.raw_os_error(), Ordering::Relaxed);
        self.cells()[0].store(step as i32, Ordering::Release);
    }

    fn read(&self) -> Option<(Step, Errno)> {
        let step = self.cells()[0].load(Ordering::Acquire);
        let step =
            [Step::Streams, Step::Folder, Step::User, Step::Exec].into_iter().find(|known| *known as i32 == step)?;
        Some((step, Errno::from_raw_os_error(self.cells()[1].load(Ordering::Relaxed))))
    }
}
