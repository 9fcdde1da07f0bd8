//! Run one of the host's programs to its end, with a deadline. It ends with this process at the latest.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::process::start_helper;

/// Bound on what is kept of a program's output.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// What the program wrote to its standard output, if it succeeded.
///
/// # Errors
/// `"<program> is not installed"`, `"<program>: <last line on its standard error>"`, or what the system said.
pub(crate) fn run(command: &mut Command, deadline: Duration) -> io::Result<String> {
    run_with(command, Stdio::null(), deadline)
}

/// As [`run`], with something else on its standard input than nothing.
pub(crate) fn run_with(command: &mut Command, stdin: Stdio, deadline: Duration) -> io::Result<String> {
    let program = command.get_program().to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
    let (mut output, mut errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
    // Its messages are looked at, so they must be in one language.
    command.env("LC_ALL", "C").stdin(stdin).stdout(output.try_clone()?).stderr(errors.try_clone()?);
    // It is started on another thread, which wants a command of its own.
    let command = std::mem::replace(command, Command::new(""));
    let spawned = start_helper(command).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(e.kind(), format!("{program} is not installed")),
        _ => io::Error::new(e.kind(), format!("{program}: {e}")),
    });
    // Whatever fails from here on, the program does not go on without anybody who knows of it.
    let mut child = spawned?;
    if !ends_within(child.0.id(), deadline)? {
        let message = format!("{program} took longer than {} seconds", deadline.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    }
    let status = child.0.wait()?;
    if status.success() {
        return text_of(&mut output);
    }
    let errors = text_of(&mut errors)?;
    let line = errors.lines().rev().find(|line| !line.trim().is_empty());
    Err(io::Error::other(format!(
        "{program}: {}",
        line.map_or_else(|| status.to_string(), |line| line.trim().to_owned())
    )))
}

fn ends_within(pid: u32, deadline: Duration) -> io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no such process"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(deadline).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

fn text_of(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For a shell to do next to nothing, however busy the host is.
    const DEADLINE: Duration = Duration::from_secs(30);

    fn sh_within(deadline: Duration, script: &str) -> Result<String, String> {
        run(Command::new("sh").args(["-c", script]), deadline).map_err(|e| e.to_string())
    }

    fn sh(script: &str) -> Result<String, String> {
        sh_within(DEADLINE, script)
    }

    #[test]
    fn output_failure_and_deadline() {
        assert_eq!(sh("echo hi; echo no >&2").unwrap(), "hi\n");
        assert_eq!(sh("echo a >&2; echo ' b ' >&2; echo >&2; exit 3").unwrap_err(), "sh: b");
        assert_eq!(sh("exit 3").unwrap_err(), "sh: exit status: 3");
        assert_eq!(sh_within(Duration::from_millis(100), "sleep 1000").unwrap_err(), "sh took longer than 0 seconds");
        let missing = run(&mut Command::new("/nowhere/mke3fs"), DEADLINE).unwrap_err();
        assert_eq!(missing.to_string(), "mke3fs is not installed");
    }
}
