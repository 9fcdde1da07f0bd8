//! Namespaces that a test moves into, so that what it does with networks concerns nobody else.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::{getegid, geteuid},
};

use crate::tool;

/// Move this process into network and mount namespaces of its own: a host with nothing but its loopback. Whoever is not
/// root becomes it, in a user namespace. Only a process with one thread can.
///
/// # Errors
/// There are more threads, or the kernel forbids such namespaces to users.
pub fn enter() -> Result<()> {
    enter_with(!geteuid().is_root())
}

/// The same on a host that forbids its users to make namespaces: everybody is in a user namespace, in which no other can be made.
///
/// # Errors
/// As [`enter`].
pub fn enter_forbidding() -> Result<()> {
    enter_with(true)?;
    fs::write("/proc/sys/user/max_user_namespaces", "0").context("forbid user namespaces")
}

fn enter_with(users: bool) -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    let spaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if users {
        unshare(spaces | CloneFlags::CLONE_NEWUSER).context("make namespaces, with one thread, as a user")?;
        let maps = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {} 1", user.as_raw())),
            ("gid_map", format!("0 {} 1", group.as_raw())),
        ];
        for (file, content) in maps {
            fs::write(format!("/proc/self/{file}"), content).context(file)?;
        }
    } else {
        unshare(spaces).context("make namespaces")?;
    }
    // What is mounted from now on is seen in here only.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("keep mounts private")?;
    // Whoever is root here may ping.
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").context("allow pings")?;
    ip("link set lo up\n")
}

/// Have ip(8) do these things in the calling thread's namespace.
///
/// # Errors
/// One of them cannot be done; ip has said why.
pub fn ip(batch: &str) -> Result<()> {
    let mut ip: Command = tool("ip", "iproute2")?;
    let mut ip = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("start ip")?;
    ip.stdin.take().context("piped")?.write_all(batch.as_bytes())?;
    ensure!(ip.wait()?.success(), "ip could not: {batch}");
    Ok(())
}
