//! One cgroup for all commands, made only when the sandbox has a share of the processors to keep to. The agent stays
//! outside, so that it answers however busy the commands are.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, open},
    io::{Errno, write},
};

const ROOT: &str = "/sys/fs/cgroup";

/// The period of the quota in microseconds; also the kernel's default.
const PERIOD: u32 = 100_000;

/// The smallest quota that the kernel takes, in microseconds.
const MIN_QUOTA: u32 = 1_000;

/// Make the cgroup, with `quota` microseconds of processor time in each period. Returns its `cgroup.procs`.
pub(crate) fn limited(quota: u32) -> Result<OwnedFd, Errno> {
    set(&format!("{ROOT}/cgroup.subtree_control"), "+cpu")?;
    let path = format!("{ROOT}/sandbox");
    mkdirat(CWD, &path, Mode::from_raw_mode(0o755))?;
    set(&format!("{path}/cpu.max"), &format!("{} {PERIOD}", quota.max(MIN_QUOTA)))?;
    open(format!("{path}/cgroup.procs"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

fn set(path: &str, value: &str) -> Result<(), Errno> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(file, value.as_bytes()).map(drop)
}
