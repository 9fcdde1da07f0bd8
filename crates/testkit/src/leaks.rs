//! Processes that a test has left behind: those whose arguments, environment, working folder or open files name its home.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal},
};

/// The processes that know `home` and do not end by themselves within `deadline`: pid and command line.
pub(crate) fn processes(home: &Path, deadline: Duration) -> Result<Vec<String>> {
    let until = Instant::now() + deadline;
    let mut left = Vec::new();
    for pid in pids_of(home)? {
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? == 0 {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            left.push(format!("{pid} {}", String::from_utf8_lossy(&arguments).replace('\0', " ")));
        }
    }
    Ok(left)
}

/// End the processes that know `home`, so that a failed test leaves nothing to the next one.
pub(crate) fn end_processes(home: &Path) {
    for pid in pids_of(home).unwrap_or_default() {
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            // It may have ended meanwhile.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

fn pids_of(home: &Path) -> Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw).filter(|pid| *pid != getpid() && names(&path, home)) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Does the process of this `/proc` folder name `home` anywhere? What cannot be read is not ours.
fn names(process: &Path, home: &Path) -> bool {
    let home = home.as_os_str().as_bytes();
    let mentions = |bytes: &[u8]| bytes.windows(home.len()).any(|window| window == home);
    let links = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    ["cmdline", "environ"].iter().any(|file| fs::read(process.join(file)).is_ok_and(|bytes| mentions(&bytes)))
        || links
            .chain([process.join("cwd")])
            .any(|link| fs::read_link(link).is_ok_and(|target| mentions(target.as_os_str().as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_whatever_it_has_of_the_home() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path();
        let at_once = Duration::ZERO;
        assert!(processes(path, at_once).unwrap().is_empty());
        let mut commands = [Command::new("cat"), Command::new("cat"), Command::new("cat"), Command::new("tail")];
        commands[0].env("HOME", path);
        commands[1].current_dir(path);
        commands[2].stderr(fs::File::create(path.join("log")).unwrap());
        commands[3].args(["-f", "/dev/null"]).arg(path.join("log"));
        for command in &mut commands {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let found = processes(path, at_once).unwrap();
            assert!(found.len() == 1 && found[0].starts_with(&child.id().to_string()), "{command:?}: {found:?}");
            end_processes(path);
            child.wait().unwrap();
            assert!(processes(path, at_once).unwrap().is_empty());
        }
    }
}
