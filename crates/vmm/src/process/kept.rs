//! The owner's side of a keeper: a machine that can change hands, as its pid and the lifeline.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command},
    sync::{Mutex, PoisonError},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, Shutdown, recv, shutdown},
    process::Signal,
};
use tokio::io::unix::AsyncFd;

use super::{
    Kind, Process, ProcessEnd,
    starter::{on_long_lived_thread, pass, spawn_keeper},
    watch,
};
use crate::keeper::{LIFELINE_FD, Report};

/// Keepers that this process started. They are its children until it ends, whoever owns their machines; one that has ended is
/// collected when the next is started, so that there are never more of them than there were machines at one time.
static STARTED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

impl Process {
    /// As [`Process::start`], but `command` is a keeper's, and the process that which it starts. It ends with its owner, which
    /// is this process until it hands it over.
    pub(crate) async fn start_kept(mut command: Command, mut descriptors: Vec<(OwnedFd, i32)>) -> io::Result<Self> {
        let (lifeline, keepers) = UnixStream::pair()?;
        descriptors.push((keepers.into(), LIFELINE_FD));
        pass(&mut command, descriptors)?;
        // The command, and with it our copy of the keeper's end, is gone when this returns.
        on_long_lived_thread(move || {
            let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
            started.retain_mut(|keeper| matches!(keeper.try_wait(), Ok(None)));
            started.push(spawn_keeper(&mut command)?);
            io::Result::Ok(())
        })
        .await??;
        // Whatever happens from here on: the keeper ends its machine when this is dropped.
        let lifeline = watch(lifeline.into())?;
        match next_report(&lifeline, RecvFlags::empty()).await? {
            Some(Report::Runs(pid)) => Self::new(pid, lifeline.into_inner(), Kind::Kept),
            Some(Report::Refused(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Report::Ended(_)) | None => Err(io::Error::other("the process that keeps it has ended")),
        }
    }

    /// Own the process `pid`, which another one [released](Self::release).
    pub(crate) fn adopt(pid: i32, lifeline: OwnedFd) -> io::Result<Self> {
        Self::new(pid, lifeline, Kind::Kept)
    }

    /// Give it away as its lifeline: it is whose that is.
    ///
    /// # Errors
    /// It is a child of this process, which nobody else can own; or the system refuses a descriptor. It is ended then.
    pub(crate) fn release(mut self) -> io::Result<OwnedFd> {
        if self.kind != Kind::Kept {
            return Err(io::Error::other("a machine without a keeper cannot change hands"));
        }
        let lifeline = self.fd().try_clone_to_owned()?;
        self.kind = Kind::HandedOver;
        Ok(lifeline)
    }
}

/// Tell the keeper to kill it, as the end of this process would.
pub(crate) fn send_kill(lifeline: BorrowedFd<'_>) -> io::Result<()> {
    Ok(shutdown(lifeline, Shutdown::Write)?)
}

/// How it ended, if it has.
pub(super) fn end_of(lifeline: BorrowedFd<'_>) -> io::Result<ProcessEnd> {
    report(lifeline, RecvFlags::empty()).map(end_in)
}

/// The kernel kills it when its keeper ends, who says nothing then.
fn end_in(report: Option<Report>) -> ProcessEnd {
    match report {
        Some(Report::Ended(end)) => end,
        _ => ProcessEnd::Signal(Signal::KILL.as_raw()),
    }
}

/// Wait until the process at the other end of this lifeline has ended; whoever adopts it learns so as well.
pub(crate) async fn ended(lifeline: BorrowedFd<'_>) -> io::Result<ProcessEnd> {
    let lifeline = watch(lifeline.try_clone_to_owned()?)?;
    next_report(&lifeline, RecvFlags::PEEK).await.map(end_in)
}

/// Is there nothing to wait for any more?
pub(crate) fn has_ended(lifeline: BorrowedFd<'_>) -> bool {
    !report(lifeline, RecvFlags::PEEK).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

async fn next_report(lifeline: &AsyncFd<OwnedFd>, flags: RecvFlags) -> io::Result<Option<Report>> {
    loop {
        let mut ready = lifeline.readable().await?;
        if let Ok(report) = ready.try_io(|lifeline| report(lifeline.get_ref().as_fd(), flags)) {
            return report;
        }
    }
}

/// The next report, if there is one; nothing once the keeper has ended.
fn report(lifeline: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Option<Report>> {
    let mut record = [0; Report::SIZE];
    match recv(lifeline, &mut record, RecvFlags::DONTWAIT | flags) {
        Ok((read, _)) if read == record.len() => Ok(Report::from_bytes(record)),
        Ok(_) | Err(Errno::CONNRESET) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
