//! One cgroup for all commands, made only when the sandbox has a share of the processors to keep to. The agent stays
//! outside, so that it answers however busy the commands are.
//!
//! Once protected, the file system can be read as in every container, and the limit cannot be lifted.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, open, openat},
    io::{Errno, write},
    mount::{MountFlags, OpenTreeFlags, mount_remount, open_tree},
};

use crate::mounts::STRICT;

const ROOT: &str = "/sys/fs/cgroup";

/// The period of the quota in microseconds; also the kernel's default.
const PERIOD: u32 = 100_000;

/// Make the cgroup, with `quota` microseconds of processor time in each period. Returns its `cgroup.procs`.
pub(crate) fn limited(quota: u32) -> Result<OwnedFd, Errno> {
    set(&format!("{ROOT}/cgroup.subtree_control"), "+cpu")?;
    let path = format!("{ROOT}/sandbox");
    mkdirat(CWD, &path, Mode::from_raw_mode(0o755))?;
    set(&format!("{path}/cpu.max"), &format!("{quota} {PERIOD}"))?;
    // By a mount of its own, which no path leads to: a file that is open for writing would hinder `protect`.
    let mount = open_tree(CWD, ROOT, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    openat(&mount, "sandbox/cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Make the limit stick: nobody changes it who may not mount.
pub(crate) fn protect() -> Result<(), Errno> {
    mount_remount(ROOT, STRICT | MountFlags::BIND | MountFlags::RDONLY, c"")
}

fn set(path: &str, value: &str) -> Result<(), Errno> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(file, value.as_bytes()).map(drop)
}
