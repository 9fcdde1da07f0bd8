//! A guest that is to be saved does all that is the same for every sandbox: it goes once through everything that one will
//! need, so that each restored guest finds the kernel's caches made and its branches patched; and it mounts its root, for a
//! restored guest finds another image in the same place.
//!
//! Called for the request `Park`, and once more for a `Warm` that comes before the sandbox's image. Invariant: of the image
//! that is on the disk now nothing stays in memory, no name, no file, no block, but where it stays mounted what every image
//! has in the same place: superblock and root folder. No name of it is looked up by a process that lives on.

#![expect(unsafe_code, reason = "a process of its own takes a fork")]

use std::os::fd::OwnedFd;

use matchlock_wire::{Exec, REHEARSAL, RootDisks, Start};
use rustix::{
    io::Errno,
    mount::{MountPropagationFlags, mount_change},
    process::{Pid, WaitOptions, waitpid},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    console::say,
    exec,
    identity::Names,
    os_error::{Doing, OsError},
    reap::last_errno,
    root::{self, Layer},
    spawn::Spawner,
    stopwatch::Stopwatch,
};

/// Go through it in a process with mounts of its own; when that has ended, nothing of it is left.
pub(crate) fn rehearse(disks: &RootDisks) -> Result<(), OsError> {
    // SAFETY: the agent has one thread, so that the child may do all that its parent may.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let done = perform(disks);
        if let Err(reason) = &done {
            say(format_args!("rehearsal: {reason}"));
        }
        // SAFETY: ends the child without running what is the parent's.
        unsafe { libc::_exit(i32::from(done.is_err())) }
    }
    let pid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(last_errno).doing(|| "rehearse".to_owned())?;
    succeeded(pid).doing(|| "rehearse (see the console)".to_owned())
}

/// Mount the root, after a rehearsal. Returns what to make read-only at the end.
pub(crate) fn mount(disks: &RootDisks) -> Result<OwnedFd, OsError> {
    let upper = root::assemble(disks, Layer::Own, &mut Stopwatch::new())?;
    root::discard_rehearsal()?;
    rustix::fs::sync();
    root::forget_blocks(disks.lower)?;
    Ok(upper)
}

/// Do both once more, with a root that [`mount`] has mounted.
pub(crate) fn again(disks: &RootDisks) -> Result<OwnedFd, OsError> {
    root::disassemble()?;
    root::unmark_layer(disks)?;
    rehearse(disks)?;
    mount(disks)
}

fn perform(disks: &RootDisks) -> Result<(), String> {
    // SAFETY: a new mount namespace invalidates no descriptor, and this process has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|errno| format!("mounts of its own: {errno}"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| format!("keep mounts to itself: {errno}"))?;
    let start = Start { hostname: "parked".to_owned(), root: disks.clone(), ..Start::default() };
    let watch = &mut Stopwatch::new();
    let mut enter = || {
        let names = Names::prepare("rehearsed-")?;
        let _upper = root::assemble(disks, Layer::Rehearsal, watch)?;
        root::enter(watch)?;
        names.assume(&start)
    };
    enter().map_err(|error| error.to_string())?;
    let program = Exec { argv: vec![REHEARSAL.as_bytes().to_vec()], ..Exec::default() };
    let (pid, _ends) = exec::start(&program, &mut Spawner::new()).map_err(|failure| failure.message)?;
    succeeded(pid).map_err(|errno| format!("run {REHEARSAL}: {errno}"))
}

fn succeeded(pid: Pid) -> Result<(), Errno> {
    match waitpid(Some(pid), WaitOptions::empty())? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        _ => Err(Errno::CANCELED),
    }
}
