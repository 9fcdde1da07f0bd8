//! The standard streams of a program about to start: the agent's ends, and the program's.
//!
//! Invariant: every descriptor is close-on-exec, and only the agent's ends are non-blocking.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use matchlock_wire::{Stdio, TerminalSize};
use rustix::{
    fs::{Gid, Mode, OFlags, Uid, fchown, fcntl_setfl, open},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// Both ends of a program's standard streams.
pub(crate) struct Streams {
    /// What the agent keeps.
    pub(crate) agent: AgentEnds,
    /// What the program gets as 0, 1 and 2.
    pub(crate) program: ProgramEnds,
}

/// The agent's ends. A terminal is one descriptor for both directions.
pub(crate) struct AgentEnds {
    pub(crate) input: Option<Rc<OwnedFd>>,
    pub(crate) output: Rc<OwnedFd>,
    pub(crate) error: Option<Rc<OwnedFd>>,
    /// The program's side of its terminal, kept so that the terminal lives as long as the session.
    pub(crate) terminal: Option<OwnedFd>,
}

/// The program's ends.
pub(crate) enum ProgramEnds {
    /// Input, output, error.
    Pipes([OwnedFd; 3]),
    /// The controlling terminal: the agent keeps the descriptor.
    Terminal(RawFd),
}

impl ProgramEnds {
    /// The descriptors for 0, 1 and 2.
    pub(crate) fn raw(&self) -> [RawFd; 3] {
        match self {
            Self::Pipes(ends) => ends.each_ref().map(AsRawFd::as_raw_fd),
            Self::Terminal(end) => [*end; 3],
        }
    }

    /// Is it a terminal?
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }
}

/// Make the streams for a program that will run as `uid`.
pub(crate) fn open_streams(stdio: Stdio, uid: u32) -> Result<Streams, Errno> {
    match stdio {
        Stdio::Terminal(size) => terminal(size, uid),
        Stdio::OutputOnly => {
            let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            pipes(None, null, uid)
        }
        Stdio::Pipes => {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            fcntl_setfl(&ours, OFlags::NONBLOCK)?;
            give(&theirs, uid)?;
            pipes(Some(Rc::new(ours)), theirs, uid)
        }
    }
}

fn pipes(input: Option<Rc<OwnedFd>>, program_input: OwnedFd, uid: u32) -> Result<Streams, Errno> {
    let (output, program_output) = outgoing(uid)?;
    let (error, program_error) = outgoing(uid)?;
    Ok(Streams {
        agent: AgentEnds { input, output: Rc::new(output), error: Some(Rc::new(error)), terminal: None },
        program: ProgramEnds::Pipes([program_input, program_output, program_error]),
    })
}

fn outgoing(uid: u32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    give(&theirs, uid)?;
    Ok((ours, theirs))
}

fn terminal(size: TerminalSize, uid: u32) -> Result<Streams, Errno> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    fcntl_setfl(&master, OFlags::NONBLOCK)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    resize(&master, size)?;
    give(&slave, uid)?;
    let master = Rc::new(master);
    let program = ProgramEnds::Terminal(slave.as_raw_fd());
    Ok(Streams {
        agent: AgentEnds { input: Some(Rc::clone(&master)), output: master, error: None, terminal: Some(slave) },
        program,
    })
}

/// Tell a terminal its size; the kernel sends SIGWINCH to its foreground processes.
pub(crate) fn resize(master: impl AsFd, size: TerminalSize) -> Result<(), Errno> {
    tcsetwinsize(master, Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 })
}

/// A program may open its own streams again through `/dev/stdout`, which takes permission on the file behind it.
fn give(end: impl AsFd, uid: u32) -> Result<(), Errno> {
    if uid == 0 { Ok(()) } else { fchown(end, Some(Uid::from_raw(uid)), None::<Gid>) }
}
