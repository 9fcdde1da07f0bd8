//! A machine that runs.

use std::{fmt, fs::File, io, os::fd::OwnedFd, time::Duration};

use serde_json::json;

use crate::{
    machine::{ConsoleLog, Disk},
    process::{Process, ProcessEnd},
    qemu::{QemuError, Qmp, QmpError, replace_disk},
    tail::Tail,
};

/// The thread that reads a console.
const CONSOLE: &str = "vm-console";

/// A machine that runs. Dropping it ends the machine at once.
pub struct Running {
    pub(crate) process: Process,
    pub(crate) console: Tail,
    pub(crate) errors: Tail,
    /// Where the VMM takes orders, if it was started with such a place.
    pub(crate) monitor: Option<Box<Qmp>>,
}

/// How a machine ended, and the last that it and its VMM said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How the VMM's process ended. Code 0 after the guest powered off or reset itself.
    pub process: ProcessEnd,
    /// What the VMM wrote to its standard error, the last part of it.
    pub errors: String,
    /// What the guest wrote to its console, the last part of it.
    pub console: String,
}

impl Running {
    /// Attend to the machine of this VMM, whose console and standard error these are.
    pub(crate) fn new(
        process: Process,
        console: impl Into<OwnedFd>,
        errors: impl Into<OwnedFd>,
        console_log: Option<ConsoleLog>,
    ) -> io::Result<Self> {
        let console = Tail::of(CONSOLE, console, console_log)?;
        Ok(Self { process, console, errors: Tail::of("vm-errors", errors, None)?, monitor: None })
    }

    /// The VMM's process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// How much processor time it has used; under emulation the guest's and QEMU's own.
    ///
    /// # Errors
    /// It has ended.
    pub fn processor_time(&self) -> io::Result<Duration> {
        self.process.processor_time()
    }

    /// Have `log` take what its console says from now on.
    pub(crate) fn log_console(self, log: Option<ConsoleLog>) -> io::Result<Self> {
        let console = self.console.release()?;
        Ok(Self { console: Tail::of(CONSOLE, console, log)?, ..self })
    }

    /// Stop it, and write what it takes to go on, beside its memory, to `state`.
    pub(crate) async fn save(&mut self, state: &File) -> Result<(), QmpError> {
        match &mut self.monitor {
            Some(monitor) => monitor.save(state).await,
            None => Err(QmpError::Closed),
        }
    }

    /// Have it go on after [`Running::save`].
    pub(crate) async fn go_on(&mut self) -> Result<(), QmpError> {
        match &mut self.monitor {
            Some(monitor) => monitor.execute("cont", json!({})).await.map(drop),
            None => Err(QmpError::Closed),
        }
    }

    /// Put the file of `disk` under disk `number`, in place of the one that it has, which is let go of. `disk` is otherwise as
    /// the one that the machine was started with. The guest is not told: what it has read it may keep, and the size that it
    /// knows stays. Once for each disk, of a machine that was saved or restored.
    ///
    /// # Errors
    /// The file cannot be opened; nothing has happened then. Or QEMU refuses, and the machine is to be ended.
    pub async fn replace_disk(&mut self, number: usize, disk: &Disk) -> Result<(), QemuError> {
        match &mut self.monitor {
            Some(monitor) => replace_disk(monitor, number, disk).await,
            None => Err(QmpError::Closed.into()),
        }
    }

    /// Wait until the machine has ended, for whatever reason. Several may wait.
    ///
    /// # Errors
    /// The process cannot be watched, which the system never refuses in practice.
    pub async fn exited(&self) -> io::Result<Exit> {
        self.process.ended().await.map(|end| self.exit(end))
    }

    /// End the machine by force.
    ///
    /// # Errors
    /// As for [`Running::exited`].
    pub async fn kill(&self) -> io::Result<Exit> {
        self.process.kill().await.map(|end| self.exit(end))
    }

    /// As [`Running::kill`], without waiting until it is gone.
    ///
    /// # Errors
    /// The kernel does not let this process kill its child, which never happens in practice.
    pub fn condemn(&self) -> io::Result<()> {
        self.process.send_kill()
    }

    /// End the machine by force and leave its remains to the kernel. For a process that is about to end, which its children
    /// do not survive: it does not wait until the kernel has freed what they had.
    ///
    /// # Errors
    /// As for [`Running::condemn`].
    pub fn let_go(self) -> io::Result<()> {
        self.process.let_go()
    }

    fn exit(&self, process: ProcessEnd) -> Exit {
        Exit { process, errors: self.errors.finish(), console: self.console.finish() }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Exit {
    /// The last line that the guest wrote to its console, fit to be shown.
    #[must_use]
    pub fn last_console_line(&self) -> Option<String> {
        last_line(&self.console)
    }
}

impl fmt::Display for Exit {
    /// One line: what the VMM complained about, or else the last that the guest said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the virtual machine ended with {}", self.process)?;
        // One that was killed did not end because of anything that its guest said.
        let said = || self.last_console_line().filter(|_| matches!(self.process, ProcessEnd::Code(_)));
        match (last_line(&self.errors), said()) {
            (Some(line), _) => write!(f, ": {line}"),
            // Its own words, whoever wrote them there.
            (None, Some(line)) => write!(f, "; the guest's console: {line:?}"),
            (None, None) => Ok(()),
        }
    }
}

/// The last line that is not blank, without what a terminal would obey: the guest may have chosen it.
fn last_line(text: &str) -> Option<String> {
    const MAX_SHOWN: usize = 300;
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(matchlock_model::printable(line, MAX_SHOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_one_line_that_says_most() {
        let exit = |errors: &str, console: &str| Exit {
            process: ProcessEnd::Code(1),
            errors: errors.into(),
            console: console.into(),
        };
        let shown = [
            exit("", ""),
            exit("qemu: a\nqemu: no such file\n\n", "Kernel panic"),
            exit("", "x\r\n[ 1.0] Kernel \x1b[31mpanic\r\n\r\n"),
        ]
        .map(|exit| exit.to_string())
        .join("\n");
        insta::assert_snapshot!(shown, @r#"
        the virtual machine ended with exit code 1
        the virtual machine ended with exit code 1: qemu: no such file
        the virtual machine ended with exit code 1; the guest's console: "[ 1.0] Kernel [31mpanic"
        "#);
    }
}
