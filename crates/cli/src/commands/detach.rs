//! `run --detach` and `warm --detach`: the same program once more, in a session of its own, as the sandbox's supervisor or as the keeper
//! of spares.
//!
//! It says on a pipe when it is ready. Until then it shares our stderr, so that what goes wrong is seen.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Command, Stdio},
};

use matchlock_model::ExitStatus;
use rustix::{
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
    pipe::PipeFlags,
    process::{Pid, Signal, kill_process},
};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, process::Child};

use super::{get, handover::Handover};
use crate::{
    env::{Environment, READY_FD, SECRETS_FD},
    error::CliError,
    output,
    signals::Signals,
};

/// Start the supervisor and wait until its sandbox is ready, then print the id. A signal in the meantime is passed on.
///
/// A sandbox whose id nobody could be told is ended and removed again.
pub(crate) async fn supervise_in_background(
    environment: &Environment,
    secrets: &Handover,
) -> Result<ExitStatus, CliError> {
    let background = match work_in_background(secrets).await? {
        Ok(background) => background,
        Err(status) => return Ok(status),
    };
    if let Err(untold) = output::line(&background.said) {
        let id = get::parse(&background.said)?;
        background.end().await?;
        environment.host()?.sandboxes()?.remove(&id).map_err(CliError::during("remove VM"))?;
        return Err(untold);
    }
    Ok(ExitStatus::SUCCESS)
}

/// What works in the background now.
pub(crate) struct Background {
    /// What it said when it was ready.
    pub(crate) said: String,
    process: Child,
    pid: Option<Pid>,
}

impl Background {
    /// Have it end in order, and wait until it has.
    pub(crate) async fn end(mut self) -> Result<(), CliError> {
        if let Some(Ok(())) = self.pid.map(|pid| kill_process(pid, Signal::TERM)) {
            self.process.wait().await.map_err(CliError::io("detach"))?;
        }
        Ok(())
    }
}

/// Start this program again, in the background, and wait until it says that it is ready, or has ended: the inner error is the status of
/// one that has, which has said why. It is handed the secrets. A signal in the meantime is passed on.
pub(crate) async fn work_in_background(secrets: &Handover) -> Result<Result<Background, ExitStatus>, CliError> {
    let failed = || CliError::io("detach");
    let mut signals = Signals::take().map_err(failed())?;
    let (ready, announce) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).map_err(failed())?;
    let mut process = start(announce, secrets).map_err(failed())?;
    let pid = process.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);

    let mut ready = Receiver::from_owned_fd(ready).map_err(failed())?;
    let mut said = String::new();
    {
        let reading = ready.read_to_string(&mut said);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                read = &mut reading => {
                    read.map_err(failed())?;
                    break;
                }
                number = signals.next() => {
                    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(i32::from(number))) {
                        // One that has ended has closed the pipe, too.
                        let _ = kill_process(pid, signal);
                    }
                }
            }
        }
    }
    if !said.is_empty() {
        return Ok(Ok(Background { said, process, pid }));
    }
    let status = process.wait().await.map_err(failed())?;
    match (status.code().and_then(|code| u8::try_from(code).ok()), status.signal()) {
        (Some(code), _) if code != 0 => Ok(Err(ExitStatus::Code(code))),
        (_, Some(signal)) => {
            Err(CliError::failure(format!("the process in the background was killed by signal {signal}")))
        }
        _ => Ok(Err(ExitStatus::Failure)),
    }
}

/// This program with the same arguments, told to announce itself on `announce` and given the secrets.
fn start(announce: OwnedFd, secrets: &Handover) -> io::Result<Child> {
    fcntl_setfd(&announce, FdFlags::empty())?;
    let (taken, given) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Not by its path, which may have been replaced since, or lead through folders that only the caller's caller could enter.
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env(READY_FD, announce.as_raw_fd().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    if !secrets.values.is_empty() {
        fcntl_setfd(&taken, FdFlags::empty())?;
        command.env(SECRETS_FD, taken.as_raw_fd().to_string());
    }
    leave_session(&mut command);
    let supervisor = tokio::process::Command::from(command).spawn();
    // From here on only the supervisor holds the pipes open.
    drop((announce, taken));
    let supervisor = supervisor?;
    match secrets.write(given) {
        // It has ended already, and says why itself.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(supervisor),
    }
}

#[expect(unsafe_code, reason = "a session of its own can only be entered between fork and exec")]
fn leave_session(command: &mut Command) {
    // SAFETY: setsid and the descriptor's flag are plain system calls; nothing is allocated and no lock is taken.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

/// How a process in the background says that what it was started for is ready.
#[derive(Debug)]
pub(crate) struct Announcement {
    pipe: File,
}

impl Announcement {
    /// The pipe that our parent made, if this process is such a supervisor.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Option<Self>, CliError> {
        let pipe = inherited_pipe(READY_FD, environment.ready_fd.as_deref())?;
        Ok(pipe.map(|pipe| Self { pipe: File::from(pipe) }))
    }

    /// Say it with this word, and let go of the terminal.
    pub(crate) fn make(&mut self, word: &str) -> Result<(), CliError> {
        // First what may fail: who has been told of a sandbox has one.
        let null = File::options().write(true).open("/dev/null").map_err(CliError::io("open /dev/null"))?;
        self.pipe.write_all(word.as_bytes()).map_err(CliError::io("say that it is ready"))?;
        rustix::stdio::dup2_stderr(null).map_err(io::Error::from).map_err(CliError::io("let go of standard error"))
    }
}

/// The pipe that our parent left us under the number which is the `value` of the variable `name`, if it has one.
pub(crate) fn inherited_pipe(name: &str, value: Option<&OsStr>) -> Result<Option<OwnedFd>, CliError> {
    let Some(number) = value else { return Ok(None) };
    let number = number.to_str().and_then(|text| text.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
    let bad = || CliError::failure(format!("{name} is for matchlock's own use: unset it"));
    adopt(number.ok_or_else(bad)?).map(Some).ok_or_else(bad)
}

/// Take over a descriptor that was inherited under this number, if it is an open pipe.
#[expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]
fn adopt(number: RawFd) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{number}");
    let is_pipe = std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("pipe:"));
    if !is_pipe {
        return None;
    }
    // SAFETY: the descriptor is open (it has an entry above), and nothing in this process owns it: it was inherited, and
    // this is the one place that takes inherited descriptors by number, before anything else is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // Not for the children of this process.
    let flags = fcntl_getfd(fd.as_fd()).ok()?;
    fcntl_setfd(fd.as_fd(), flags | FdFlags::CLOEXEC).ok()?;
    Some(fd)
}
