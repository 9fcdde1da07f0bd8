//! The file systems that every sandbox sees, as data: mounted at boot, before anything is known of a sandbox, and moved
//! under its root as three whole trees (`/proc`, `/sys`, `/dev`) by [`crate::root`].
//!
//! `/run` and `/tmp` are not here on purpose: they stay on the overlay, so that what an image holds there is seen.

use rustix::{
    fs::{CWD, Mode, mkdirat, symlinkat},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount},
};

use crate::{
    console::say,
    os_error::{Doing, OsError},
};

/// The trees to move under a sandbox's root.
pub(crate) const TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// One thing to do at boot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Make a folder.
    Folder { path: &'static str, mode: u32 },
    /// Mount a file system.
    Mount { kind: &'static str, path: &'static str, flags: MountFlags, options: &'static str, needed: bool },
    /// Make a symbolic link.
    Link { path: &'static str, target: &'static str },
}

/// For what holds neither programs nor devices.
pub(crate) const STRICT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

/// Everything to do at boot, in order.
pub(crate) const PLAN: &[Step] = &[
    Step::Folder { path: "/proc", mode: 0o555 },
    needed("proc", "/proc", STRICT, ""),
    Step::Folder { path: "/sys", mode: 0o555 },
    needed("sysfs", "/sys", STRICT, ""),
    Step::Folder { path: "/dev", mode: 0o755 },
    needed("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
    Step::Folder { path: "/dev/pts", mode: 0o755 },
    needed("devpts", "/dev/pts", NO_PROGRAMS, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    Step::Folder { path: "/dev/shm", mode: 0o1777 },
    needed("tmpfs", "/dev/shm", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=1777"),
    Step::Folder { path: "/dev/mqueue", mode: 0o1777 },
    wanted("mqueue", "/dev/mqueue", STRICT, ""),
    wanted("cgroup2", "/sys/fs/cgroup", STRICT, "nsdelegate"),
    Step::Link { path: "/dev/fd", target: "/proc/self/fd" },
    Step::Link { path: "/dev/stdin", target: "/proc/self/fd/0" },
    Step::Link { path: "/dev/stdout", target: "/proc/self/fd/1" },
    Step::Link { path: "/dev/stderr", target: "/proc/self/fd/2" },
];

const fn needed(kind: &'static str, path: &'static str, flags: MountFlags, options: &'static str) -> Step {
    Step::Mount { kind, path, flags, options, needed: true }
}

/// A kernel without this file system makes a poorer sandbox, but a sandbox.
const fn wanted(kind: &'static str, path: &'static str, flags: MountFlags, options: &'static str) -> Step {
    Step::Mount { kind, path, flags, options, needed: false }
}

/// What only administrators of a machine change, and what would have the kernel itself run a program (`core_pattern`,
/// `modprobe`, `uevent_helper`) or stop the machine. Commands can read it, as in every container.
const SHIELD: &[&str] = &["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// Like them, but a mount already.
const SYS: &str = "/sys";

/// Make everything in [`SHIELD`] and [`SYS`] read-only. Done at boot, so that it costs a sandbox nothing.
pub(crate) fn shield() -> Result<(), OsError> {
    let seal = |path: &str| mount_remount(path, STRICT | MountFlags::BIND | MountFlags::RDONLY, c"");
    let cover = |path: &str| mount_bind(path, path).and_then(|()| seal(path));
    let absent = |errno| if errno == Errno::NOENT { Ok(()) } else { Err(errno) };
    SHIELD.iter().try_for_each(|path| cover(path).or_else(absent).doing(|| format!("protect {path}")))?;
    seal(SYS).doing(|| format!("protect {SYS}"))
}

/// Open them again, for commands that may change everything.
pub(crate) fn lift_shield() -> Result<(), OsError> {
    let uncover = |path: &str| match unmount(path, UnmountFlags::DETACH) {
        Err(Errno::NOENT | Errno::INVAL) => Ok(()), // not every kernel has everything
        other => other,
    };
    SHIELD.iter().try_for_each(|path| uncover(path).doing(|| format!("open {path}")))?;
    mount_remount(SYS, STRICT | MountFlags::BIND, c"").doing(|| format!("open {SYS}"))
}

/// Do a plan's steps.
pub(crate) fn execute(plan: &[Step]) -> Result<(), OsError> {
    plan.iter().try_for_each(Step::execute)
}

impl Step {
    fn execute(&self) -> Result<(), OsError> {
        match *self {
            Self::Folder { path, mode } => existing(mkdirat(CWD, path, Mode::from_raw_mode(mode))),
            Self::Link { path, target } => existing(symlinkat(target, CWD, path)),
            Self::Mount { kind, path, flags, options, .. } => mount_plain(kind, path, flags, options),
        }
        .or_else(|errno| match *self {
            Self::Mount { kind, path, needed: false, .. } => {
                say(format_args!("{path} ({kind}) is missing: error {}", errno.raw_os_error()));
                Ok(())
            }
            _ => Err(errno),
        })
        .doing(|| format!("{self:?}"))
    }
}

fn mount_plain(kind: &str, path: &str, flags: MountFlags, options: &str) -> Result<(), Errno> {
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    mount(kind, path, kind, flags, options.as_c_str())
}

/// What is there already is as good as made.
pub(crate) fn existing(made: Result<(), Errno>) -> Result<(), Errno> {
    made.or_else(|errno| if errno == Errno::EXIST { Ok(()) } else { Err(errno) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: &Step) -> String {
        match step {
            Step::Folder { path, mode } => format!("folder {path} {mode:o}"),
            Step::Link { path, target } => format!("link   {path} -> {target}"),
            Step::Mount { kind, path, flags, options, needed } => {
                let flags = format!("{flags:?}").to_lowercase().replace("mountflags", "");
                format!(
                    "mount  {path} {kind} {flags} [{options}]{}",
                    if *needed { "" } else { " if the kernel has it" }
                )
            }
        }
    }

    #[test]
    fn the_plan() {
        insta::assert_snapshot!(PLAN.iter().map(line).collect::<Vec<_>>().join("\n"), @r"
        folder /proc 555
        mount  /proc proc (nodev | noexec | nosuid) []
        folder /sys 555
        mount  /sys sysfs (nodev | noexec | nosuid) []
        folder /dev 755
        mount  /dev devtmpfs (nosuid) [mode=0755]
        folder /dev/pts 755
        mount  /dev/pts devpts (noexec | nosuid) [newinstance,ptmxmode=0666,mode=0620,gid=5]
        folder /dev/shm 1777
        mount  /dev/shm tmpfs (nodev | nosuid) [mode=1777]
        folder /dev/mqueue 1777
        mount  /dev/mqueue mqueue (nodev | noexec | nosuid) [] if the kernel has it
        mount  /sys/fs/cgroup cgroup2 (nodev | noexec | nosuid) [nsdelegate] if the kernel has it
        link   /dev/fd -> /proc/self/fd
        link   /dev/stdin -> /proc/self/fd/0
        link   /dev/stdout -> /proc/self/fd/1
        link   /dev/stderr -> /proc/self/fd/2
        ");
    }
}
