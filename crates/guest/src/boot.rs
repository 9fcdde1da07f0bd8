//! From the kernel's jump to `/init` until the port to the host is open. Everything that is the same for all sandboxes
//! is done here, before the host may save the parked guest as a template.
//!
//! Called once, by `main`. Invariant: no disk is opened, and nothing random is read, so that two sandboxes restored
//! from one template share no secret and no stale block.

use std::{ffi::CString, fs, os::fd::OwnedFd, path::PathBuf};

use matchlock_wire::PORT_NAME;
use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, open, unlink},
    io::Errno,
    process::{Resource, Rlimit, setrlimit, umask},
    system::finit_module,
    time::Timespec,
};

use crate::{
    agent::Agent,
    announcements::Announcements,
    console::say,
    identity::Names,
    link::Link,
    mounts, network,
    os_error::{Doing, OsError},
    root,
};

/// How long the kernel may be silent before the port is given up. The host, which knows how fast the machine is, gives up
/// earlier; this is for the console's last line.
const PORT_DEADLINE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Open files of a command, soft and hard, as container engines set them.
const OPEN_FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(1_048_576) };

/// Settings of the kernel's network. Ordinary users of containers rely on low ports and `ping` needing no privilege; and nobody
/// but the host is at the other end of the link, so that neither addresses nor routes have to be asked for, and what is said of
/// multicast groups can be said at once (in milliseconds).
const NET_SETTINGS: [(&str, &str); 5] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0"),
    ("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0"),
    ("/proc/sys/net/ipv6/conf/eth0/mldv2_unsolicited_report_interval", "1"),
];

/// Settings of each disk: it has no arm whose ways had to be planned, and writing is not held back for the sake of reading, which
/// takes a timer.
const DISK_SETTINGS: [(&str, &str); 2] = [("scheduler", "none"), ("wbt_lat_usec", "0")];

/// Of the kernel's memory: nothing is moved together before somebody needs it, which takes a thread that wakes twice a second.
const MEMORY_SETTING: (&str, &str) = ("/proc/sys/vm/compaction_proactiveness", "0");

/// Prepare the machine, and return the agent that will serve the host.
pub(crate) fn boot() -> Result<Agent, OsError> {
    umask(Mode::from_raw_mode(0o022));
    mounts::execute(mounts::PLAN)?;
    let devices = Announcements::of_devices().doing(|| "listen to the kernel".to_owned())?;
    load_modules();
    for folder in [root::LOWER, root::ADDED, root::UPPER, root::MERGED] {
        mounts::existing(mkdirat(CWD, folder, Mode::from_raw_mode(0o700))).doing(|| format!("make {folder}"))?;
    }
    setrlimit(Resource::Nofile, OPEN_FILES).doing(|| "set the limit of open files".to_owned())?;
    network::raise_loopback().doing(|| "bring up the loopback device".to_owned())?;
    for (path, value) in NET_SETTINGS.into_iter().chain([MEMORY_SETTING]) {
        let _ = fs::write(path, value); // a kernel without the setting, or a machine without the interface, does without it
    }
    for disk in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        for (name, value) in DISK_SETTINGS {
            let _ = fs::write(disk.path().join("queue").join(name), value);
        }
    }
    mounts::shield()?;
    let port = open_port(&devices).doing(|| format!("open the port {PORT_NAME}"))?;
    let link = Link::new(port).doing(|| "watch the port to the host".to_owned())?;
    Agent::new(link, Names::prepare("")?)
}

/// Load `/modules/*.ko` in the order of their names and drop the files: they are memory.
fn load_modules() {
    let mut modules: Vec<PathBuf> =
        fs::read_dir("/modules").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for path in modules {
        let loaded =
            open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).and_then(|file| finit_module(file, c"", 0));
        if let Err(errno) = loaded
            && errno != Errno::EXIST
        {
            say(format_args!("module {}: error {}", path.display(), errno.raw_os_error()));
        }
        let _ = unlink(&path);
    }
}

/// The device whose name is [`PORT_NAME`], waited for.
fn open_port(devices: &Announcements) -> Result<OwnedFd, Errno> {
    loop {
        if let Some(device) = find_port() {
            return open(device.as_c_str(), OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        }
        devices.wait(PORT_DEADLINE)?;
    }
}

fn find_port() -> Option<CString> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == PORT_NAME).then_some(())?;
        CString::new(format!("/dev/{}", port.file_name().to_str()?)).ok()
    })
}
