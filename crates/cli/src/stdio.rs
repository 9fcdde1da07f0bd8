//! The caller's standard streams, connected to a program in a sandbox: plain, piped or as a terminal.

use std::{
    io::{self, IsTerminal, Read},
    os::fd::AsFd,
};

use matchlock_sandbox::{
    Stdio, TerminalSize,
    exec::{INPUT_BLOCK, INPUT_BLOCKS, Streams, Taker},
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::error::CliError;

/// Size where the terminal does not tell.
const UNKNOWN_SIZE: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// How a program is connected to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Output only.
    Stream,
    /// Input and output.
    Pipe,
    /// The caller's terminal.
    Terminal,
}

impl Mode {
    /// `-t` alone has no effect, `-i` alone pipes, both give a terminal.
    pub(crate) const fn from_flags(interactive: bool, tty: bool) -> Self {
        match (interactive, tty) {
            (true, true) => Self::Terminal,
            (true, false) => Self::Pipe,
            (false, _) => Self::Stream,
        }
    }
}

/// The caller's streams in a mode. A terminal is raw as long as this lives.
pub(crate) struct Connection {
    pub(crate) stdio: Stdio,
    pub(crate) streams: Streams,
    _raw: Option<RawTerminal>,
}

impl Connection {
    /// Refuse a terminal session without a terminal, before anything is started for it.
    pub(crate) fn check(mode: Mode) -> Result<(), CliError> {
        if mode == Mode::Terminal && !io::stdin().is_terminal() {
            return Err(CliError::failure("-it requires a TTY: use -i to pipe standard input"));
        }
        Ok(())
    }

    /// Nobody to connect to: output is only for the log.
    pub(crate) fn detached() -> Self {
        let nowhere = || Some(Box::new(tokio::io::sink()) as Taker);
        let streams = Streams { output: nowhere(), error: nowhere(), ..Streams::default() };
        Self { stdio: Stdio::OutputOnly, streams, _raw: None }
    }

    /// Connect. From here on standard input is being read (other than in stream mode).
    pub(crate) fn open(mode: Mode) -> Result<Self, CliError> {
        let mut streams = Streams {
            output: Some(Box::new(tokio::io::stdout())),
            error: Some(Box::new(tokio::io::stderr())),
            ..Streams::default()
        };
        if mode == Mode::Stream {
            return Ok(Self { stdio: Stdio::OutputOnly, streams, _raw: None });
        }
        let (stdio, raw) = match mode {
            Mode::Terminal => {
                streams.resizes = Some(resizes()?);
                let raw = RawTerminal::enter().map_err(CliError::io("set the terminal to raw mode"))?;
                (Stdio::Terminal(size()), Some(raw))
            }
            Mode::Stream | Mode::Pipe => (Stdio::Pipes, None),
        };
        streams.input = Some(input().map_err(CliError::io("read standard input"))?);
        Ok(Self { stdio, streams, _raw: raw })
    }
}

/// Read standard input on a thread: it may be a file, a pipe or a terminal shared with others, and a blocking read is the
/// one way that works for all without changing it for those others.
fn input() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (blocks, queue) = mpsc::channel(INPUT_BLOCKS);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut block = vec![0; INPUT_BLOCK];
        loop {
            match stdin.read(&mut block) {
                // An unreadable input ends like one that is at its end.
                Ok(0) => return,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
                Err(_) => {}
                Ok(count) => {
                    if blocks.blocking_send(block[..count].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    })?;
    Ok(queue)
}

fn size() -> TerminalSize {
    match tcgetwinsize(io::stdin().as_fd()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, cols: size.ws_col },
        _ => UNKNOWN_SIZE,
    }
}

fn resizes() -> Result<mpsc::Receiver<TerminalSize>, CliError> {
    let mut changes = signal(SignalKind::window_change()).map_err(CliError::io("watch the terminal's size"))?;
    let (sizes, queue) = mpsc::channel(1);
    tokio::spawn(async move { while changes.recv().await.is_some() && sizes.send(size()).await.is_ok() {} });
    Ok(queue)
}

/// Raw mode on standard input, put back on drop.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone by now; there is nobody left to tell.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &self.before);
    }
}
