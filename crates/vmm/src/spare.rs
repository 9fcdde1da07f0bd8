//! A machine between two owners: a guest that goes on, whom nobody talks to, as a pid and descriptors.
//!
//! ```text
//! Running ─into_spare─> Spare ─into_parts─> (sent to another process) ─from_parts─> Spare ─adopt─> Running
//! ```
//!
//! Called by `sandbox`. Invariant: whoever has the descriptors owns the machine, and it ends with them; while they are under
//! way, that is the socket that they are sent through. Nobody reads its console and its VMM's errors meanwhile: they wait in
//! their streams, a guest that fills its console waits with them, and a VMM's few words fit.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use crate::{
    ConsoleLog, Exit, ProcessEnd, Running,
    process::{Process, kept},
    qemu::Qmp,
    tail::last_words,
};

/// See the module. Dropping it ends the machine.
#[derive(Debug)]
pub struct Spare {
    pid: i32,
    lifeline: OwnedFd,
    control: UnixStream,
    monitor: UnixStream,
    console: OwnedFd,
    errors: OwnedFd,
}

impl Running {
    /// Stop attending to it, for another process to go on. `control` is the host's end of its control link.
    ///
    /// # Errors
    /// It was not started by a VMM [that lets its machines change hands](crate::qemu::Qemu::kept_by), or not to be saved or
    /// restored, or is being told something; it has ended then.
    pub fn into_spare(self, control: UnixStream) -> io::Result<Spare> {
        let Self { process, console, errors, monitor } = self;
        let monitor = monitor.ok_or_else(|| io::Error::other("a machine that takes no orders cannot change hands"))?;
        let (monitor, console, errors) = (monitor.release()?, console.release()?, errors.release()?);
        Ok(Spare { pid: process.pid(), lifeline: process.release()?, control, monitor, console, errors })
    }
}

impl Spare {
    /// The VMM's process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// What it consists of, which is whose the machine is from now on: the VMM's pid, and the keeper's lifeline, the host's
    /// ends of control link and monitor, the console, and what the VMM complains of, in this order.
    #[must_use]
    pub fn into_parts(self) -> (i32, [OwnedFd; 5]) {
        let Self { pid, lifeline, control, monitor, console, errors } = self;
        (pid, [lifeline, control.into(), monitor.into(), console, errors])
    }

    /// A machine as [`Spare::into_parts`] of another process took it apart.
    ///
    /// # Errors
    /// It has ended.
    pub fn from_parts(pid: i32, parts: [OwnedFd; 5]) -> io::Result<Self> {
        let [lifeline, control, monitor, console, errors] = parts;
        if kept::has_ended(lifeline.as_fd()) {
            return Err(io::Error::other("the machine has ended"));
        }
        Ok(Self { pid, lifeline, control: control.into(), monitor: monitor.into(), console, errors })
    }

    /// Wait until it has ended, which it should not. Only the first to learn it gets its last words.
    pub async fn ended(&self) -> Exit {
        let told = |process| Exit { process, errors: last_words(&self.errors), console: last_words(&self.console) };
        let unknown = |e: io::Error| Exit { errors: e.to_string(), ..told(ProcessEnd::Signal(0)) };
        kept::ended(self.lifeline.as_fd()).await.map_or_else(unknown, told)
    }

    /// Go on with it: its console is read from where it was left, and it takes orders. Also returns the control link, which
    /// does not block.
    ///
    /// # Errors
    /// The system refuses a thread, or to watch a socket; the machine has ended then.
    pub fn adopt(self, console_log: Option<ConsoleLog>) -> io::Result<(Running, UnixStream)> {
        let Self { pid, lifeline, control, monitor, console, errors } = self;
        control.set_nonblocking(true)?;
        let mut running = Running::new(Process::adopt(pid, lifeline)?, console, errors, console_log)?;
        running.monitor = Some(Box::new(Qmp::resume(monitor)?));
        Ok((running, control))
    }

    /// End it, and wait until it is gone.
    pub async fn end(self) {
        let lifeline = self.lifeline.as_fd();
        // Where the system refuses either, the drop ends it.
        if kept::send_kill(lifeline).is_ok() {
            let _ = kept::ended(lifeline).await;
        }
    }
}
