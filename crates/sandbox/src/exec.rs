//! Running a program in a sandbox and connecting it to the outside.
//!
//! Used for the command of `run` (by the supervisor) and for `exec` (from another process): the same session either way.

use std::io;

use matchlock_model::{ExitStatus, SandboxSpec};
use matchlock_wire::{Channel, Event, Exec, ExitKind, FailureKind, Note, Request, TerminalSize, limits};
use thiserror::Error;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    link::{Link, LinkError, Receipts, Session},
    network,
};

/// Blocks of input read ahead of what the guest has taken.
pub const INPUT_BLOCKS: usize = 2;

/// Bytes of such a block.
pub const INPUT_BLOCK: usize = limits::MAX_DATA;

/// Takes what a program writes.
pub type Taker = Box<dyn AsyncWrite + Send + Unpin>;

/// Where a program's streams go. All are optional: what is missing is discarded, or at its end from the start.
#[derive(Default)]
pub struct Streams {
    /// Blocks of standard input, at most [`INPUT_BLOCK`] bytes each; the channel's end is the input's end.
    pub input: Option<mpsc::Receiver<Vec<u8>>>,
    /// Takes standard output, or all a terminal shows.
    pub output: Option<Taker>,
    /// Takes standard error.
    pub error: Option<Taker>,
    /// New sizes of the terminal.
    pub resizes: Option<mpsc::Receiver<TerminalSize>>,
    /// Is told when the program has started; dropped if it does not.
    pub started: Option<oneshot::Sender<()>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// Why a program has no exit status.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ExecError {
    #[error("{message}")]
    NotStarted { status: ExitStatus, message: String },
    #[error("pass on what the program writes")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Fill in what the sandbox's specification says and the request leaves open.
#[must_use]
pub fn with_defaults(mut exec: Exec, spec: &SandboxSpec) -> Exec {
    let image = &spec.image_config;
    let inherited = image.env.iter().chain(&spec.env).map(|(name, value)| (name.clone(), value.clone()));
    // Later entries win in the guest. The value of a secret's variable is of no use there, whoever has it.
    let is_secret = |name: &String| spec.network.secrets.contains_key(name);
    let chosen = inherited.chain(exec.env).filter(|(name, _)| !is_secret(name));
    exec.env = chosen.chain(network::variables(&spec.network)).collect();
    if exec.cwd.is_empty() {
        exec.cwd.clone_from(&image.working_dir);
        exec.create_cwd = true;
    }
    if exec.user.is_empty() {
        exec.user.clone_from(&image.user);
    }
    exec
}

/// Run `exec` through `link` and stay until it has ended and everything it wrote has been passed on.
///
/// Dropping the future cancels the program.
///
/// # Errors
/// [`ExecError`] if it could not be started, its output could not be written, or the sandbox ended first.
pub async fn run(link: &Link, exec: Exec, streams: Streams) -> Result<ExitStatus, ExecError> {
    let session = link.open(Request::Exec(exec)).await?;
    let output = Sink::spawn(streams.output, session.receipts(Channel::Output));
    let error = Sink::spawn(streams.error, session.receipts(Channel::Error));
    let sources = Sources { input: streams.input, resizes: streams.resizes, started: streams.started };
    let status = converse(session, sources, &output, &error).await;
    // However it ended, what it had written before comes first.
    let (output, error) = (output.finish().await, error.finish().await);
    let status = status?;
    output.and(error).map_err(ExecError::Output)?;
    Ok(status)
}

/// What comes from the caller's side while the program runs.
struct Sources {
    input: Option<mpsc::Receiver<Vec<u8>>>,
    resizes: Option<mpsc::Receiver<TerminalSize>>,
    started: Option<oneshot::Sender<()>>,
}

async fn converse(
    mut session: Session,
    sources: Sources,
    output: &Sink,
    error: &Sink,
) -> Result<ExitStatus, ExecError> {
    let Sources { mut input, mut resizes, mut started } = sources;
    let mut credit = limits::WINDOW as usize;
    let mut end = None;
    loop {
        tokio::select! {
            event = session.next() => match event {
                Some(Event::Data(_, Channel::Output, bytes)) => output.put(bytes),
                Some(Event::Data(_, _, bytes)) => error.put(bytes),
                Some(Event::Credit(_, _, count)) => credit += count as usize,
                Some(Event::Stopped(..)) => input = None,
                Some(Event::Note(_, Note::Started { .. })) => {
                    // Nobody may be waiting for it.
                    started.take().map(|started| started.send(()));
                }
                // To the session's very end, so that nothing of it is under way any more.
                Some(Event::Note(_, note)) => end = outcome(note).transpose().or(end),
                Some(Event::Eof(..) | Event::Hello(_) | Event::Opened(..)) => {}
                Some(Event::Ended(_)) => return end.unwrap_or(Err(ExecError::Link(LinkError::Closed))),
                None => return end.unwrap_or_else(|| Err(ExecError::Link(session.fate()))),
            },
            block = next(&mut input), if credit >= INPUT_BLOCK => {
                if let Some(bytes) = block {
                    credit -= bytes.len();
                    session.send(Channel::Input, bytes);
                } else {
                    input = None;
                    session.eof(Channel::Input);
                }
            },
            Some(size) = next(&mut resizes) => session.note(Note::Resize(size)),
        }
    }
}

/// The next item, or for ever nothing where there is no source.
async fn next<T>(source: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match source {
        Some(source) => source.recv().await,
        None => std::future::pending().await,
    }
}

fn outcome(note: Note) -> Result<Option<ExitStatus>, ExecError> {
    match note {
        Note::Exited(ExitKind::Code(code)) => Ok(Some(ExitStatus::Code(code))),
        Note::Exited(ExitKind::Signal(signal)) => Ok(Some(ExitStatus::Signal(signal))),
        Note::Failed(failure) => {
            let status = match failure.kind {
                FailureKind::NotFound => ExitStatus::NotFound,
                FailureKind::NotExecutable => ExitStatus::NotExecutable,
                FailureKind::Internal => ExitStatus::Failure,
            };
            Err(ExecError::NotStarted { status, message: printable(&failure.message) })
        }
        Note::Started { .. } | Note::Times(_) | Note::Done | Note::Resize(_) => Ok(None),
    }
}

/// A line that the guest may have chosen, without what a terminal would obey.
pub(crate) fn printable(line: &str) -> String {
    const MAX_SHOWN: usize = 1000;
    matchlock_model::printable(line, MAX_SHOWN)
}

/// Writes one channel's bytes out at the taker's own pace, and grants the guest as much again.
struct Sink {
    /// Bounded by the window: the guest sends no more than what was granted.
    bytes: mpsc::UnboundedSender<Vec<u8>>,
    task: JoinHandle<io::Result<()>>,
}

impl Sink {
    fn spawn(taker: Option<Taker>, receipts: Receipts) -> Self {
        let (bytes, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        let task = tokio::spawn(async move {
            let mut taker: Taker = taker.unwrap_or_else(|| Box::new(tokio::io::sink()));
            while let Some(block) = queue.recv().await {
                if let Err(error) = write(&mut taker, &block).await {
                    // The program is to learn that nobody takes more as it would from a pipe.
                    receipts.stop();
                    // A reader that has had enough is no failure.
                    return if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) };
                }
                receipts.grant(block.len());
            }
            Ok(())
        });
        Self { bytes, task }
    }

    fn put(&self, block: Vec<u8>) {
        // A taker that is gone has said `stop`; what was under way is of no use to anybody.
        let _ = self.bytes.send(block);
    }

    async fn finish(self) -> io::Result<()> {
        drop(self.bytes);
        // The task ends with its queue.
        self.task.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
    }
}

async fn write(taker: &mut Taker, block: &[u8]) -> io::Result<()> {
    taker.write_all(block).await?;
    taker.flush().await
}
