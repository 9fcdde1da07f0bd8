//! What is left when a supervisor is killed, how its holder is confined, and that an ordinary user can have one.

use std::{
    fs,
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
};

use matchlock_net::namespace;
use matchlock_testkit::tool;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, geteuid, pidfd_open},
};

use crate::{
    FORBIDDING, Story, USUAL, sandbox,
    world::{self, DEADLINE, Host},
};

pub(crate) const STORIES: &[Story] = &[
    ("end_of_a_killed_supervisor_leaves_nothing", killed),
    ("end_of_a_namespace_is_the_end_of_its_holder", dropped),
    ("end_an_ordinary_user_can_have_a_namespace", ordinary),
];

/// This program as a supervisor: makes a namespace, says so, and keeps it until its input ends.
pub(crate) fn supervise() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = runtime.block_on(async {
        let (tap, unfurnished) = namespace::create(sandbox::holder()).await?;
        sandbox::furnish(unfurnished, sandbox::plan()).await.map(|furnished| (tap, furnished))
    });
    println!("{}", made.as_ref().map_or_else(ToString::to_string, |_| "made".to_owned()));
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

pub(crate) fn supervisor(prepare: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new("/proc/self/exe");
    let host = if world::host() == Host::Usual { USUAL } else { FORBIDDING };
    prepare(command.args(["supervise", host]).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut child = command.spawn().unwrap();
    let mut said = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"made\n");
    child
}

/// The one child of a process, whichever of its threads started it.
pub(crate) fn child_of(parent: u32) -> i32 {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let children = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    children.collect::<String>().trim().parse().unwrap()
}

/// Which processes are in the network namespace that this link names.
fn processes_in(namespace: &PathBuf) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let inside = |process: &PathBuf| fs::read_link(process.join("ns/net")).is_ok_and(|found| found == *namespace);
    processes.filter(inside).map(|process| process.display().to_string()).collect()
}

pub(crate) fn wait_for_end(pid: i32) {
    // Gone already is as good.
    let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return };
    let deadline = Timespec { tv_sec: DEADLINE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline)), Ok(1));
}

fn killed() {
    let mut supervisor = supervisor(|_| {});
    let holder = child_of(supervisor.id());
    let status = fs::read_to_string(format!("/proc/{holder}/status")).unwrap();
    // No more than CAP_NET_RAW and CAP_NET_BIND_SERVICE (linux/capability.h).
    for line in
        ["NoNewPrivs:\t1", "CapPrm:\t0000000000002400", "CapEff:\t0000000000002400", "CapAmb:\t0000000000000000"]
    {
        assert!(status.contains(line), "{line}\n{status}");
    }
    let limits = fs::read_to_string(format!("/proc/{holder}/limits")).unwrap();
    assert!(limits.lines().any(|l| l.starts_with("Max core file size") && l.contains(" 0 ")), "{limits}");
    let namespace = fs::read_link(format!("/proc/{holder}/ns/net")).unwrap();
    assert_eq!(processes_in(&namespace), [format!("/proc/{holder}")]);
    assert_ne!(namespace, fs::read_link("/proc/self/ns/net").unwrap());

    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    wait_for_end(holder);
    assert_eq!(processes_in(&namespace), [""; 0]);
    let tables = tool("nft", "nftables").unwrap().args(["list", "tables"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&tables.stdout), "", "on the host");
    let links = tool("ip", "iproute2").unwrap().args(["-o", "link"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("fc-"), "on the host");
}

fn dropped() {
    let mut supervisor = supervisor(|_| {});
    let holder = child_of(supervisor.id());
    drop(supervisor.stdin.take());
    assert!(supervisor.wait().unwrap().success());
    wait_for_end(holder);
}

fn ordinary() {
    if geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") {
        // As udev makes it.
        let tun = "mount --make-rprivate / && mount -t tmpfs tun /dev/net && mknod -m 666 /dev/net/tun c 10 200";
        assert!(Command::new("sh").args(["-c", tun]).status().unwrap().success());
        let mut supervisor = supervisor(|command| {
            command.uid(65534).gid(65534);
        });
        let holder = child_of(supervisor.id());
        let [ours, theirs] = ["self".to_owned(), holder.to_string()]
            .map(|process| fs::read_link(format!("/proc/{process}/ns/user")).unwrap());
        assert_ne!(ours, theirs, "an ordinary user has rights in a user namespace only");
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
    } else {
        // This is one, who is root in a namespace of the story's.
        let mut supervisor = supervisor(|_| {});
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
    }
}
