//! Driving the `matchlock` under test at a terminal: a pseudo-terminal whose other end is the test.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::{fd::AsFd, unix::ffi::OsStringExt},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::Errno,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::tool;

/// A program at a terminal of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct Terminal {
    screen: File,
    child: Child,
    seen: Vec<u8>,
    expected_to: usize,
    until: Instant,
}

impl Terminal {
    /// Start `command` as the leader of a session at a new terminal of this many rows and columns. All that follows
    /// has to happen within `deadline`.
    ///
    /// # Errors
    /// There is no terminal to be had, or the program cannot be started.
    pub fn start(command: &Command, (rows, columns): (u16, u16), deadline: Duration) -> Result<Self> {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&screen)?;
        unlockpt(&screen)?;
        let path = std::ffi::OsString::from_vec(ptsname(&screen, Vec::new())?.into_bytes());
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let keyboard = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        set_size(&screen, rows, columns)?;

        // A child can only make a terminal its own after it has begun a session.
        let mut leader = tool("setsid", "util-linux")?;
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        leader.stdin(keyboard.try_clone()?).stdout(keyboard.try_clone()?).stderr(keyboard);
        let child = leader.spawn().with_context(|| format!("{leader:?}"))?;
        // `leader` holds the terminal's other end, which has to close with the program.
        drop(leader);
        let until = Instant::now() + deadline;
        Ok(Self { screen: screen.into(), child, seen: Vec::new(), expected_to: 0, until })
    }

    /// Wait until `text` is shown after what was expected before.
    ///
    /// # Errors
    /// The program ends or the deadline passes first; the message has all that was shown.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        loop {
            let new = &self.seen[self.expected_to..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.expected_to += at + text.len();
                return Ok(());
            }
            if !self.read_more().with_context(|| format!("waiting for {text:?}"))? {
                bail!("it ended without showing {text:?}: {:?}", self.shown());
            }
        }
    }

    /// Type.
    ///
    /// # Errors
    /// The program has ended.
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        Ok(self.screen.write_all(keys.as_bytes())?)
    }

    /// Change the size of the terminal's window.
    ///
    /// # Errors
    /// The program has ended.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        set_size(&self.screen, rows, columns)
    }

    /// Wait for the program's end: its exit code and all it has shown.
    ///
    /// # Errors
    /// The deadline passes first, or a signal ends it.
    pub fn wait(mut self) -> Result<(i32, String)> {
        while self.read_more()? {}
        let status = self.child.wait()?;
        Ok((status.code().with_context(|| format!("{status}: {:?}", self.shown()))?, self.shown()))
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Wait for more to be shown; `false` at the end.
    fn read_more(&mut self) -> Result<bool> {
        let left = self.until.saturating_duration_since(Instant::now()).try_into()?;
        if poll(&mut [PollFd::new(&self.screen.as_fd(), PollFlags::IN)], Some(&left))? == 0 {
            bail!("the deadline has passed; shown so far: {:?}", self.shown());
        }
        let mut buffer = [0; 4096];
        match self.screen.read(&mut buffer) {
            // So a terminal says that nobody has its other end any more.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            length => {
                let length = length?;
                self.seen.extend_from_slice(&buffer[..length]);
                Ok(length > 0)
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(screen: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    Ok(tcsetwinsize(screen, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env("PATH", "/usr/bin:/bin").env("TERM", "dumb");
        command
    }

    #[test]
    fn a_program_sees_its_terminal_its_size_and_what_is_typed() {
        let script = "trap 'stty size; exit 7' WINCH; stty size; echo $TERM; read line; echo \"got $line\"; read line";
        let mut terminal = Terminal::start(&shell(script), (24, 80), DEADLINE).unwrap();
        terminal.expect("24 80").unwrap();
        terminal.expect("dumb").unwrap();
        terminal.type_in("hello\n").unwrap();
        terminal.expect("got hello").unwrap();
        terminal.resize(50, 100).unwrap();
        terminal.expect("50 100").unwrap();
        assert_eq!(terminal.wait().unwrap().0, 7);
    }

    #[test]
    fn the_end_and_the_deadline_are_told_apart() {
        let mut terminal = Terminal::start(&shell("echo all"), (24, 80), DEADLINE).unwrap();
        let error = format!("{:#}", terminal.expect("more").unwrap_err());
        assert!(error.contains("it ended") && error.contains("all"), "{error}");

        let mut terminal =
            Terminal::start(&shell("echo all; read line"), (24, 80), Duration::from_millis(200)).unwrap();
        let error = format!("{:#}", terminal.expect("more").unwrap_err());
        assert!(error.contains("the deadline has passed"), "{error}");
    }
}
