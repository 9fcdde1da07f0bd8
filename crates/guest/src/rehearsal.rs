//! Before a guest is saved it goes once through everything that a sandbox will need, so that each restored one finds it
//! done: code and data of the kernel in memory, caches made, branches patched.
//!
//! Called for the request `Park`. Invariant: nothing is left but what the kernel keeps for itself. It happens in a process
//! with mounts of its own; when that has ended the disks are closed, and others may take their place.

#![expect(unsafe_code, reason = "a process of its own takes a fork")]

use matchlock_wire::{Exec, REHEARSAL, RootDisks, Start};
use rustix::{
    io::Errno,
    mount::{MountPropagationFlags, mount_change},
    process::{Pid, WaitOptions, waitpid},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    console::say,
    exec, identity,
    os_error::{Doing, OsError},
    reap::last_errno,
    root,
    spawn::Spawner,
};

/// Do it.
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

fn perform(disks: &RootDisks) -> Result<(), String> {
    // SAFETY: a new mount namespace invalidates no descriptor, and this process has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|errno| format!("mounts of its own: {errno}"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| format!("keep mounts to itself: {errno}"))?;
    let start = Start { hostname: "parked".to_owned(), root: disks.clone(), ..Start::default() };
    root::enter(disks).and_then(|_| identity::assume(&start)).map_err(|error| error.to_string())?;
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
