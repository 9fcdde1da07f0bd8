//! A guest becomes one sandbox, with what is the same for all of them done before if it was parked; in the order that makes it safe: first entropy, last the confinement of what the
//! user runs.

use std::os::fd::OwnedFd;

use matchlock_wire::{Park, Start};
use rustix::io::Errno;

use crate::{
    cgroup, confine, entropy,
    identity::Names,
    mounts,
    os_error::{Doing, OsError},
    rehearsal, root,
    spawn::Spawner,
    stopwatch::Stopwatch,
};

/// What was done before the guest was saved.
pub(crate) struct Parked {
    upper: OwnedFd,
    privileged: bool,
}

/// Do what is the same for all sandboxes.
pub(crate) fn park(park: &Park) -> Result<Parked, OsError> {
    let upper = rehearsal::park(&park.root)?;
    confine_unless(park.privileged)?;
    Ok(Parked { upper, privileged: park.privileged })
}

/// Do all that `start` says. Returns the file systems to make read-only at the end.
pub(crate) fn start(
    start: &Start,
    parked: Option<Parked>,
    names: &Names,
    spawner: &mut Spawner,
    watch: &mut Stopwatch,
) -> Result<Vec<OwnedFd>, OsError> {
    entropy::mix(start.entropy).doing(|| "mix the host's entropy".to_owned())?;
    watch.mark("entropy mixed");
    entropy::set_clock(start.clock_ns).doing(|| "set the clock".to_owned())?;
    watch.mark("clock set");
    let (upper, confined) = match parked {
        Some(Parked { privileged, .. }) if privileged != start.privileged => {
            return Err(Errno::PERM).doing(|| "use a guest that was parked for others".to_owned());
        }
        Some(Parked { upper, .. }) => (upper, true),
        None => (root::assemble(&start.root, root::Layer::Own, watch)?, false),
    };
    let mut disks = vec![upper];
    root::enter(watch)?;
    names.assume(start)?;
    watch.mark("names taken");
    for disk in &start.disks {
        disks.extend(root::mount_user_disk(disk)?);
    }
    if let Some(quota) = start.cpu_quota {
        spawner.enter(cgroup::limited(quota).doing(|| "limit processor time".to_owned())?);
        if !start.privileged {
            cgroup::protect().doing(|| "protect the limit of processor time".to_owned())?;
        }
    }
    if !confined {
        confine_unless(start.privileged)?;
    }
    watch.mark("commands confined");
    Ok(disks)
}

fn confine_unless(privileged: bool) -> Result<(), OsError> {
    if privileged { mounts::lift_shield() } else { confine::confine().doing(|| "confine commands".to_owned()) }
}
