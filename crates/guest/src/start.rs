//! A parked guest becomes one sandbox, in the order that makes it safe: first entropy, last the confinement of what the
//! user runs.

use std::os::fd::OwnedFd;

use matchlock_wire::Start;

use crate::{
    cgroup, confine, entropy, identity,
    os_error::{Doing, OsError},
    root,
    spawn::Spawner,
};

/// Do all that `start` says. Returns the file systems to make read-only at the end.
pub(crate) fn start(start: &Start, spawner: &mut Spawner) -> Result<Vec<OwnedFd>, OsError> {
    entropy::mix(start.entropy).doing(|| "mix the host's entropy".to_owned())?;
    entropy::set_clock(start.clock_ns).doing(|| "set the clock".to_owned())?;
    let mut disks = vec![root::enter(&start.root)?];
    identity::assume(start)?;
    for disk in &start.disks {
        disks.extend(root::mount_user_disk(disk)?);
    }
    if let Some(quota) = start.cpu_quota {
        spawner.enter(cgroup::limited(quota).doing(|| "limit processor time".to_owned())?);
        if !start.privileged {
            cgroup::protect().doing(|| "protect the limit of processor time".to_owned())?;
        }
    }
    if !start.privileged {
        confine::confine().doing(|| "confine commands".to_owned())?;
    }
    Ok(disks)
}
