//! A guest becomes one sandbox, in the order that makes it safe: first entropy, last the confinement of what the user runs.
//!
//! Called by [`crate::agent`]. What is the same for all sandboxes is done before if the guest is parked, and what takes no
//! name if it is warm:
//!
//! ```text
//!                          park              warm, with the image      warm, without it
//! root                     mounted           entered                   not mounted
//! commands                 confined          confined                  confined
//! left for the start       enter, names      names                     mount, enter, names
//! ```

use std::{os::fd::OwnedFd, path::Path};

use matchlock_wire::{Authority, NetworkLink, Park, RootDisks, Start, Warm};
use rustix::io::Errno;

use crate::{
    cgroup, confine, entropy,
    identity::Names,
    mounts, network,
    os_error::{Doing, OsError},
    rehearsal,
    root::{self, Layer},
    spawn::Spawner,
    stopwatch::Stopwatch,
    trust,
};

/// What was done before the start. Commands are confined, too.
pub(crate) struct Parked {
    root: Root,
    privileged: bool,
    /// The network interface as it is configured.
    network: Option<NetworkLink>,
    /// There was a [`warm`]: commands can be run.
    pub(crate) warm: bool,
}

/// How far the root is; with what to make read-only at the end.
enum Root {
    /// Nothing is mounted.
    Bare,
    /// Mounted, and nobody has looked up a name in it.
    Mounted(OwnedFd),
    /// The agent and what it starts are in it.
    Entered(OwnedFd),
}

/// Do what is the same for all sandboxes.
pub(crate) fn park(park: &Park) -> Result<Parked, OsError> {
    if let Some(link) = &park.network {
        network::configure(link)?;
    }
    rehearsal::rehearse(&park.root)?;
    if let Some(link) = &park.network {
        network::settle(link)?;
    }
    let root = Root::Mounted(rehearsal::mount(&park.root)?);
    confine_unless(park.privileged)?;
    Ok(Parked { root, privileged: park.privileged, network: park.network.clone(), warm: false })
}

/// Do what can be done, and warms what comes later, while nobody knows whose sandbox it will be.
pub(crate) fn warm(parked: Parked, warm: &Warm) -> Result<Parked, OsError> {
    mix(warm.entropy)?;
    let root = if warm.image {
        Root::Entered(parked.root.enter(&warm.root, None, &mut Stopwatch::new())?)
    } else {
        drop(parked.root); // holds a disk that is to be unmounted
        Root::Mounted(rehearsal::again(&warm.root)?)
    };
    Ok(Parked { root, warm: true, ..parked })
}

/// Do all that `start` says. Returns the file systems to make read-only at the end.
pub(crate) fn start(
    start: &Start,
    parked: Option<Parked>,
    names: &Names,
    spawner: &mut Spawner,
    watch: &mut Stopwatch,
) -> Result<Vec<OwnedFd>, OsError> {
    mix(start.entropy)?;
    watch.mark("entropy mixed");
    entropy::set_clock(start.clock_ns).doing(|| "set the clock".to_owned())?;
    watch.mark("clock set");
    let (root, confined, configured) = match parked {
        Some(Parked { privileged, .. }) if privileged != start.privileged => {
            return Err(Errno::PERM).doing(|| "use a guest that was parked for others".to_owned());
        }
        Some(Parked { root, network, .. }) => (root, true, network),
        None => (Root::Bare, false, None),
    };
    if let Some(link) = start.network.as_ref().filter(|link| configured.as_ref() != Some(link)) {
        network::configure(link)?;
        watch.mark("network configured");
    }
    let mut disks = vec![root.enter(&start.root, start.authority.as_ref(), watch)?];
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

impl Root {
    /// Go the rest of the way. Returns what to make read-only at the end.
    fn enter(self, disks: &RootDisks, trusted: Option<&Authority>, watch: &mut Stopwatch) -> Result<OwnedFd, OsError> {
        let upper = match self {
            Self::Entered(upper) => {
                // Names have been looked up: what appears below them now would not be seen.
                trust(trusted, "/", "/", watch)?;
                return Ok(upper);
            }
            Self::Mounted(upper) => upper,
            Self::Bare => root::assemble(disks, Layer::Own, watch)?,
        };
        trust(trusted, root::LOWER, root::ADDED, watch)?;
        root::enter(watch)?;
        Ok(upper)
    }
}

fn trust(authority: Option<&Authority>, image: &str, over: &str, watch: &mut Stopwatch) -> Result<(), OsError> {
    if let Some(authority) = authority {
        trust::add(Path::new(image), Path::new(over), authority)?;
        watch.mark("authority trusted");
    }
    Ok(())
}

fn mix(entropy: [u8; 32]) -> Result<(), OsError> {
    entropy::mix(entropy).doing(|| "mix the host's entropy".to_owned())
}

fn confine_unless(privileged: bool) -> Result<(), OsError> {
    if privileged { mounts::lift_shield() } else { confine::confine().doing(|| "confine commands".to_owned()) }
}
