//! Watching a command from outside while it works: what it has made so far, its virtual machine, and the database.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use matchlock_testkit::{Home, Running, run, tool};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// How long anything that a story waits for may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// How long after one look at the world the next one is taken.
const NEXT_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// A process of which nothing is known but its number, held so that the number stays its own.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// There is none.
    pub fn open(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(pid.try_into()?).context("a process has a number")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("process {pid}"))?;
        Ok(Self { pid, pidfd })
    }

    /// Kill it.
    ///
    /// # Errors
    /// It has ended.
    pub fn kill(&self) -> Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL)?)
    }

    /// Has it ended?
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn has_ended(&self) -> Result<bool> {
        self.ends_within(Timespec::default())
    }

    /// Wait until it has ended by itself.
    ///
    /// # Errors
    /// It goes on for longer than ten seconds.
    pub fn ends(&self) -> Result<()> {
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        ensure!(self.ends_within(patience)?, "process {} goes on", self.pid);
        Ok(())
    }

    fn ends_within(&self, timeout: Timespec) -> Result<bool> {
        Ok(poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout))? > 0)
    }
}

/// Wait until `look` finds something while `command` goes on.
///
/// # Errors
/// The command ends first, or nothing is found in two minutes.
pub fn until<T>(command: &Running, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let process = Process::open(command.pid())?;
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if process.ends_within(NEXT_LOOK)? {
            bail!("it ended before {what}");
        }
        ensure!(Instant::now() < until, "{what}: not within {} s", DEADLINE.as_secs());
    }
}

/// All that a supervisor has started, with the network namespaces that are its own: what must end with it.
#[derive(Debug)]
pub struct Family {
    processes: Vec<Process>,
    networks: BTreeSet<PathBuf>,
}

impl Family {
    /// As it is now; stop the supervisor before, so that it stays so.
    #[must_use]
    pub fn of(supervisor: u32) -> Self {
        let mut pids = children_of(supervisor);
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            pids.extend(children_of(*pid));
            next += 1;
        }
        let ours = network_of("self");
        let networks = pids.iter().filter_map(|pid| network_of(&pid.to_string()));
        let networks = networks.filter(|network| Some(network) != ours.as_ref()).collect();
        Self { processes: pids.into_iter().filter_map(|pid| Process::open(pid).ok()).collect(), networks }
    }

    /// Wait until all of it is gone by itself.
    ///
    /// # Errors
    /// A process goes on for longer than ten seconds, or one is left in a namespace.
    pub fn ends(&self) -> Result<()> {
        self.processes.iter().try_for_each(Process::ends)?;
        let all = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let within = |pid: &String| network_of(pid).is_some_and(|network| self.networks.contains(&network));
        let left: Vec<_> = all.filter(within).collect();
        ensure!(left.is_empty(), "left in a network of the sandbox: {left:?}");
        Ok(())
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The network namespace of a process that there is, by its name below `/proc`.
fn network_of(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

/// The virtual machine of a supervisor: its child that is QEMU.
#[must_use]
pub fn machine_of(supervisor: u32) -> Option<Process> {
    let is_qemu =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu"));
    children_of(supervisor).into_iter().find(is_qemu).and_then(|pid| Process::open(pid).ok())
}

/// The folder of the one sandbox of a home, as soon as it is there.
#[must_use]
pub fn sandbox_folder(home: &Home) -> Option<PathBuf> {
    Some(fs::read_dir(home.state().vms()).ok()?.next()?.ok()?.path())
}

/// What the sandbox in this folder has logged so far.
#[must_use]
pub fn logged(home: &Home) -> String {
    let log = sandbox_folder(home).map(|folder| fs::read(folder.join("vm.log")).unwrap_or_default());
    String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
}

/// What `sqlite3` says to a query of the sandbox database, as a user would ask.
///
/// # Errors
/// It refuses.
pub fn query(home: &Home, sql: &str) -> Result<String> {
    let mut sqlite3 = tool("sqlite3", "sqlite3")?;
    Ok(run(sqlite3.arg("-cmd").arg(".timeout 10000").arg(home.state().database()).arg(sql))?.trim_end().to_owned())
}

/// Keeps everybody else from writing to the database of sandboxes, until it is dropped.
#[derive(Debug)]
pub struct Lock(std::process::Child);

/// Take that lock.
///
/// # Errors
/// It cannot be had within ten seconds.
pub fn hold_database(home: &Home) -> Result<Lock> {
    let mut sqlite3 = tool("sqlite3", "sqlite3")?;
    sqlite3.args(["-cmd", ".timeout 10000"]).arg(home.state().database());
    let mut lock = Lock(sqlite3.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    lock.0.stdin.as_mut().context("its input")?.write_all(b"BEGIN IMMEDIATE;\nSELECT 'held';\n")?;
    let mut said = [0; 5];
    lock.0.stdout.as_mut().context("its output")?.read_exact(&mut said)?;
    ensure!(said == *b"held\n", "sqlite3 said {said:?}");
    Ok(lock)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // One that has ended holds nothing any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
