//! Running the `matchlock` under test, with a deadline and with all it says.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Write},
    mem::take,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use crate::matchlock_binary;

/// How long a command may take unless the test says otherwise: a cold boot on a loaded machine with room to spare.
const DEADLINE: Duration = Duration::from_mins(2);

/// The most that is kept of what a command says.
const OUTPUT_LIMIT: u64 = 512 << 20;

/// Bytes read at once of what a command says.
const CHUNK: usize = 64 * 1024;

/// A `matchlock` command to be run.
#[derive(Debug)]
pub struct Matchlock {
    arguments: Vec<OsString>,
    home: PathBuf,
    environment: Vec<(OsString, OsString)>,
    stdin: Input,
    deadline: Duration,
}

#[derive(Debug)]
enum Input {
    Empty,
    Bytes(Vec<u8>),
    File(PathBuf),
    Open,
}

/// What a command did.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Said,
    stderr: Said,
    started: Instant,
    deadline: Duration,
}

impl Matchlock {
    pub(crate) fn new<A: AsRef<OsStr>>(home: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            arguments: arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect(),
            home: home.to_owned(),
            environment: Vec::new(),
            stdin: Input::Empty,
            deadline: DEADLINE,
        }
    }

    /// Set an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Give it these bytes on standard input; without, it is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// Give it a file on standard input.
    #[must_use]
    pub fn stdin_file(mut self, path: &Path) -> Self {
        self.stdin = Input::File(path.to_owned());
        self
    }

    /// Leave its standard input open, for [`Running::write`].
    #[must_use]
    pub fn stdin_open(mut self) -> Self {
        self.stdin = Input::Open;
        self
    }

    /// Kill it and fail if it takes longer.
    #[must_use]
    pub const fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Run it to its end, however it ends.
    ///
    /// # Errors
    /// It cannot be started, or takes too long.
    pub fn run(self) -> Result<Output> {
        self.spawn()?.wait()
    }

    /// The command as [`std::process::Command`], for what this type does not do. Its streams are this process's.
    ///
    /// # Errors
    /// There is no program under test.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(matchlock_binary()?);
        let inherited = ["PATH", "TMPDIR", "MATCHLOCK_KERNEL", "RUST_BACKTRACE"];
        command
            .env_clear()
            .envs(inherited.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("HOME", &self.home)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(&self.arguments);
        Ok(command)
    }

    /// Start it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(self) -> Result<Running> {
        let mut command = self.command()?;
        let stdin = match &self.stdin {
            Input::Empty => Stdio::null(),
            Input::File(path) => File::open(path).with_context(|| path.display().to_string())?.into(),
            Input::Bytes(_) | Input::Open => Stdio::piped(),
        };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let shown = format!("{command:?}");
        let mut child = command.spawn().with_context(|| shown.clone())?;
        let mut stdin = child.stdin.take();
        if let Input::Bytes(bytes) = self.stdin
            && let Some(mut pipe) = stdin.take()
        {
            // A command may end without reading all.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let stdout = Said::by(child.stdout.take().context("piped")?);
        let stderr = Said::by(child.stderr.take().context("piped")?);
        Ok(Running { command: shown, child, stdin, stdout, stderr, started, deadline: self.deadline })
    }
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Write to its standard input.
    ///
    /// # Errors
    /// It does not read any more, or its input was not left open.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin_open() was not asked for")?;
        stdin.write_all(bytes)?;
        Ok(stdin.flush()?)
    }

    /// Close its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Wait until it has written `text` to standard output; all that it has written there so far.
    ///
    /// # Errors
    /// Its output ends or its deadline passes first.
    pub fn expect_stdout(&mut self, text: &str) -> Result<String> {
        let until = self.started + self.deadline;
        self.stdout.expect(text, until).with_context(|| self.command.clone())
    }

    /// As [`Self::expect_stdout`], for standard error.
    ///
    /// # Errors
    /// Its output ends or its deadline passes first.
    pub fn expect_stderr(&mut self, text: &str) -> Result<String> {
        let until = self.started + self.deadline;
        self.stderr.expect(text, until).with_context(|| self.command.clone())
    }

    /// Read no more of its standard output: what it writes next fails.
    pub fn close_stdout(&mut self) {
        self.stdout.more = None;
    }

    /// Send it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.process()?, signal)?)
    }

    /// Wait for its end and for all it said.
    ///
    /// # Errors
    /// It takes longer than its deadline: then it is killed; or what it said is not complete within that time,
    /// because a process that it has left behind keeps the pipe.
    pub fn wait(mut self) -> Result<Output> {
        self.stdin = None;
        let pidfd = pidfd_open(self.process()?, PidfdFlags::empty())?;
        let in_time = readable(pidfd.as_fd(), self.left()?)?;
        if !in_time {
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        let took = self.started.elapsed();
        let until = Instant::now() + Duration::from_secs(5).max(self.deadline.saturating_sub(took));
        let kept = !self.stdout.read_to_end(until) | !self.stderr.read_to_end(until);
        let (stdout, stderr) = (take(&mut self.stdout.all), take(&mut self.stderr.all));
        let output = Output { command: self.command.clone(), status, stdout, stderr, took };
        ensure!(in_time, "not ended within {} s: {output}", self.deadline.as_secs());
        ensure!(!kept, "a process that it left behind keeps its output open: {output}");
        Ok(output)
    }

    fn process(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id().try_into()?).context("a child has a pid")
    }

    fn left(&self) -> Result<Timespec> {
        Ok(self.deadline.saturating_sub(self.started.elapsed()).try_into()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code; 128 and the signal's number where a signal ended it, as a shell would say.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// This, if it exited with 0.
    ///
    /// # Errors
    /// It did not; the message has all it said.
    pub fn success(self) -> Result<Self> {
        self.exits_with(0)
    }

    /// This, if it exited with `code`.
    ///
    /// # Errors
    /// It did not; the message has all it said.
    pub fn exits_with(self, code: i32) -> Result<Self> {
        if self.code() == code { Ok(self) } else { bail!("expected exit code {code}: {self}") }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, status, took, .. } = self;
        write!(f, "{command}: {status} after {took:.1?}\n--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr())
    }
}

/// What a command says on one stream. A thread reads it, so that neither stream waits for the other.
#[derive(Debug)]
struct Said {
    all: Vec<u8>,
    /// `None` if nobody is interested any more.
    more: Option<mpsc::Receiver<Vec<u8>>>,
}

impl Said {
    fn by(pipe: impl Read + Send + 'static) -> Self {
        let (chunks, more) = mpsc::channel();
        std::thread::spawn(move || {
            let mut pipe = pipe.take(OUTPUT_LIMIT);
            let mut chunk = vec![0; CHUNK];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                if chunks.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { all: Vec::new(), more: Some(more) }
    }

    fn expect(&mut self, text: &str, until: Instant) -> Result<String> {
        while !self.all.windows(text.len()).any(|window| window == text.as_bytes()) {
            let more = self.read(until);
            let said = || format!("waiting for {text:?}; so far: {:?}", String::from_utf8_lossy(&self.all));
            self.all.extend(more.with_context(said)?);
        }
        Ok(String::from_utf8_lossy(&self.all).into_owned())
    }

    /// `false` if it does not end in time.
    fn read_to_end(&mut self, until: Instant) -> bool {
        loop {
            match self.read(until) {
                Ok(more) => self.all.extend(more),
                Err(error) => return error == RecvTimeoutError::Disconnected,
            }
        }
    }

    fn read(&self, until: Instant) -> Result<Vec<u8>, RecvTimeoutError> {
        let more = self.more.as_ref().ok_or(RecvTimeoutError::Disconnected)?;
        more.recv_timeout(until.saturating_duration_since(Instant::now()))
    }
}

fn readable(fd: BorrowedFd<'_>, timeout: Timespec) -> Result<bool> {
    Ok(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))? > 0)
}
