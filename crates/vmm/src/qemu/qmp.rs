//! QEMU's control protocol (QEMU `docs/interop/qmp-spec`): one JSON object a line, over a socket pair that QEMU was
//! started with.
//!
//! Used to save a machine, to restore one, and to put other files under its disks while it runs. Invariant: commands
//! are answered in the order in which they are sent, so several may be under way: [`Qmp::send`] does not wait, and a
//! QEMU that has not yet come to life finds them in its socket.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream as StdStream},
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::UnixStream,
    time::timeout,
};

/// Bytes of one line. The largest that is asked for are some hundred.
const MAX_LINE: u64 = 1024 * 1024;

/// How long QEMU may take to say anything while an answer is waited for: milliseconds, but for a host on which very many start.
const ANSWER_DEADLINE: Duration = Duration::from_mins(2);

/// What a machine's state is called while QEMU has its file.
const STATE: &str = "state";

/// Memory that is a shared file is left where it is (QEMU 4.0, still with its experimental name).
const IGNORE_SHARED: &str = "x-ignore-shared";

/// Why a command had no effect.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum QmpError {
    #[error("QEMU refused {command}: {reason}")]
    Refused { command: &'static str, reason: String },
    #[error("QEMU did not answer {command} within {ANSWER_DEADLINE:?}")]
    Late { command: &'static str },
    #[error("QEMU closed its control socket")]
    Closed,
    #[error("QEMU's control socket")]
    Io(#[from] io::Error),
    #[error("QEMU said what cannot be understood on its control socket")]
    Unreadable(#[from] serde_json::Error),
}

/// The host's end.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    /// The beginning of a line whose reading was given up.
    partial: Vec<u8>,
    /// Commands without an answer so far, the oldest first.
    under_way: VecDeque<&'static str>,
    /// What happened while an answer was waited for.
    events: VecDeque<Event>,
}

/// Something that QEMU says by itself.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// Any line of QEMU's: which of these it has tells what it is. The greeting has none.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "return")]
    done: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Qmp {
    /// Take the host's end, and have QEMU accept commands.
    pub(crate) async fn new(stream: StdStream) -> Result<Self, QmpError> {
        let mut qmp = Self::resume(stream)?;
        qmp.send("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Go on where somebody else [stopped](Self::release).
    pub(crate) fn resume(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = BufReader::new(UnixStream::from_std(stream)?);
        Ok(Self { stream, partial: Vec::new(), under_way: VecDeque::new(), events: VecDeque::new() })
    }

    /// Give the host's end back, for somebody else to go on. What happened and nobody asked for is forgotten.
    ///
    /// # Errors
    /// Not everything that was sent has been done, or half a line was read.
    pub(crate) fn release(self) -> io::Result<StdStream> {
        let between_lines = self.partial.is_empty() && self.stream.buffer().last().is_none_or(|last| *last == b'\n');
        if !between_lines || !self.under_way.is_empty() {
            return Err(io::Error::other("QEMU is being told something"));
        }
        self.stream.into_inner().into_std()
    }

    /// Send a command without waiting for what comes of it; [`Qmp::settle`] tells.
    pub(crate) async fn send(&mut self, command: &'static str, arguments: Value) -> Result<(), QmpError> {
        let line = line(command, &arguments)?;
        self.stream.get_mut().write_all(&line).await.map_err(QmpError::from_io)?;
        self.under_way.push_back(command);
        Ok(())
    }

    /// Give QEMU a copy of `file`, to be called `name` in later commands.
    pub(crate) async fn pass(&mut self, name: &str, file: impl AsFd) -> Result<(), QmpError> {
        self.send_with("getfd", json!({ "fdname": name }), file).await
    }

    /// As [`Qmp::send`], with a copy of `file`.
    pub(crate) async fn send_with(
        &mut self,
        command: &'static str,
        arguments: Value,
        file: impl AsFd,
    ) -> Result<(), QmpError> {
        let line = line(command, &arguments)?;
        let files = [file.as_fd()];
        let stream = self.stream.get_ref();
        let attempt = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&files));
            Ok(sendmsg(stream, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)?)
        };
        let sent = stream.async_io(Interest::WRITABLE, attempt).await.map_err(QmpError::from_io)?;
        self.stream.get_mut().write_all(&line[sent..]).await.map_err(QmpError::from_io)?;
        self.under_way.push_back(command);
        Ok(())
    }

    /// Wait until everything that was sent has been done.
    ///
    /// # Errors
    /// The first refusal; what was sent after it may have had an effect.
    pub(crate) async fn settle(&mut self) -> Result<(), QmpError> {
        while !self.under_way.is_empty() {
            self.answer().await?;
        }
        Ok(())
    }

    /// Send a command and wait for what it returns.
    pub(crate) async fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.send(command, arguments).await?;
        let mut last = Value::Null;
        while !self.under_way.is_empty() {
            last = self.answer().await?;
        }
        Ok(last)
    }

    /// Have a machine that was started for it continue the guest whose state is in `state`. Does not wait.
    pub(crate) async fn restore(&mut self, state: &File) -> Result<(), QmpError> {
        self.send("migrate-set-capabilities", capabilities(&[IGNORE_SHARED])).await?;
        self.pass(STATE, state).await?;
        self.send("migrate-incoming", json!({ "uri": format!("fd:{STATE}") })).await
    }

    /// Stop the machine, and write its state, without its memory, to `state`. It goes on as if nothing had happened when
    /// the state is restored: so it is not told to stop, which would be part of the state.
    pub(crate) async fn save(&mut self, state: &File) -> Result<(), QmpError> {
        self.send("migrate-set-capabilities", capabilities(&[IGNORE_SHARED, "events"])).await?;
        self.pass(STATE, state).await?;
        self.send("migrate", json!({ "uri": format!("fd:{STATE}") })).await?;
        self.settle().await?;
        loop {
            let event = self.event().await?;
            match (event.name.as_str(), event.data["status"].as_str()) {
                ("MIGRATION", Some("completed")) => return Ok(()),
                ("MIGRATION", Some("failed" | "cancelled")) => {
                    let told = self.execute("query-migrate", json!({})).await?;
                    let reason = told["error-desc"].as_str().unwrap_or("no reason given").to_owned();
                    return Err(QmpError::Refused { command: "migrate", reason });
                }
                _ => {}
            }
        }
    }

    /// The next thing that happens, beginning with what happened while an answer was waited for.
    pub(crate) async fn event(&mut self) -> Result<Event, QmpError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let line = self.next_line().await?;
            self.note(line);
        }
    }

    /// The answer to the oldest command.
    async fn answer(&mut self) -> Result<Value, QmpError> {
        loop {
            let command = self.under_way.front().copied().unwrap_or("nothing");
            let late = |_| QmpError::Late { command };
            let line = timeout(ANSWER_DEADLINE, self.next_line()).await;
            let line = line.map_err(late)??;
            let refused = line.error.map(|refusal| refusal.desc);
            if line.done.is_none() && refused.is_none() {
                self.note(Line { error: None, ..line });
                continue;
            }
            self.under_way.pop_front();
            return match refused {
                None => Ok(line.done.unwrap_or_default()),
                Some(reason) => Err(QmpError::Refused { command, reason }),
            };
        }
    }

    fn note(&mut self, line: Line) {
        self.events.extend(line.event.map(|name| Event { name, data: line.data }));
    }

    async fn next_line(&mut self) -> Result<Line, QmpError> {
        // Given up in the middle, it goes on the next time.
        let left = MAX_LINE.saturating_sub(self.partial.len() as u64);
        let read = (&mut self.stream).take(left).read_until(b'\n', &mut self.partial).await;
        match read.map_err(QmpError::from_io)? {
            0 => Err(QmpError::Closed),
            _ => Ok(serde_json::from_slice(&std::mem::take(&mut self.partial))?),
        }
    }
}

fn capabilities(names: &[&str]) -> Value {
    let all: Vec<_> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    json!({ "capabilities": all })
}

fn line(command: &str, arguments: &Value) -> Result<Vec<u8>, QmpError> {
    let mut line = serde_json::to_vec(&json!({ "execute": command, "arguments": arguments }))?;
    line.push(b'\n');
    Ok(line)
}

impl QmpError {
    fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};

    use super::*;

    /// A peer that answers each line it gets with the next of `answers`.
    fn peer<const N: usize>(answers: [&'static str; N]) -> (StdStream, std::thread::JoinHandle<Vec<String>>) {
        let (ours, theirs) = StdStream::pair().unwrap();
        let talk = move || {
            let mut lines = io::BufReader::new(&theirs).lines();
            let mut heard = Vec::new();
            for answer in answers {
                let Some(Ok(line)) = lines.next() else { break };
                heard.push(line);
                (&theirs).write_all(answer.as_bytes()).unwrap();
            }
            heard
        };
        (ours, std::thread::spawn(talk))
    }

    #[tokio::test]
    async fn commands_under_way_are_answered_in_order_and_events_are_kept() {
        let greeting = "{\"QMP\": {}}\n{\"return\": {}}\n";
        let (stream, peer) = peer([
            greeting,
            "{\"event\": \"STOP\", \"timestamp\": {}}\n{\"return\": {}}\n",
            "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n{\"return\": {\"a\": 1}}\n",
        ]);
        let mut qmp = Qmp::new(stream).await.unwrap();
        qmp.send("stop", json!({})).await.unwrap();
        assert_eq!(qmp.execute("query", json!({ "b": 2 })).await.unwrap(), json!({ "a": 1 }));
        assert_eq!(qmp.event().await.unwrap().name, "STOP");
        assert_eq!(qmp.event().await.unwrap().data, json!({ "status": "completed" }));
        let heard = peer.join().unwrap();
        let heard: Vec<Value> = heard.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(heard[2], json!({ "execute": "query", "arguments": { "b": 2 } }));
        assert!(matches!(qmp.event().await, Err(QmpError::Closed)));
    }

    #[tokio::test]
    async fn a_refusal_names_its_command() {
        let refusal = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such file\"}}\n";
        let (stream, _peer) = peer(["{\"return\": {}}\n", refusal, "{\"return\": {}}\n"]);
        let mut qmp = Qmp::new(stream).await.unwrap();
        qmp.send("migrate", json!({})).await.unwrap();
        qmp.send("cont", json!({})).await.unwrap();
        assert_eq!(qmp.settle().await.unwrap_err().to_string(), "QEMU refused migrate: no such file");
        qmp.settle().await.unwrap();
    }

    #[tokio::test]
    async fn somebody_else_goes_on_between_two_commands_and_not_before() {
        let (stream, peer) =
            peer(["{\"return\": {}}\n", "{\"event\": \"STOP\"}\n{\"return\": {}}\n", "{\"return\": 1}\n", ""]);
        let mut qmp = Qmp::new(stream).await.unwrap();
        qmp.execute("stop", json!({})).await.unwrap();
        let mut next = Qmp::resume(qmp.release().unwrap()).unwrap();
        assert_eq!(next.execute("query", json!({})).await.unwrap(), json!(1));
        next.send("cont", json!({})).await.unwrap();
        assert!(next.release().is_err(), "an answer is missing");
        let heard = peer.join().unwrap();
        assert_eq!(heard.iter().filter(|line| line.contains("qmp_capabilities")).count(), 1);
    }

    #[tokio::test]
    async fn a_line_whose_reading_was_given_up_is_read_on() {
        let (ours, theirs) = StdStream::pair().unwrap();
        let mut qmp = Qmp::resume(ours).unwrap();
        qmp.send("query", json!({})).await.unwrap();
        (&theirs).write_all(b"{\"return\": ").unwrap();
        let given_up = timeout(Duration::from_millis(50), qmp.settle()).await;
        assert!(given_up.is_err() && !qmp.partial.is_empty());
        (&theirs).write_all(b"{}}\n").unwrap();
        qmp.settle().await.unwrap();
    }

    #[tokio::test]
    async fn nonsense_is_an_error() {
        let (stream, _peer) = peer(["what?\n"]);
        let mut qmp = Qmp::new(stream).await.unwrap();
        assert!(matches!(qmp.settle().await, Err(QmpError::Unreadable(_))));
    }
}
