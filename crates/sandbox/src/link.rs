//! The guest link as async code sees it: one task owns the stream and the [`Mux`]; sessions talk to it through channels.
//!
//! Used in both roles: as host towards the guest and towards another process's supervisor, as guest by the supervisor
//! towards `matchlock exec` (see [`crate::relay`]).
//!
//! Invariant: what waits in the channels is bounded. Events of a session by the credit its holder granted, commands by
//! the credit its holder was granted, and [`limits::MAX_SESSIONS`] bounds the sessions.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{Arc, OnceLock},
};

use matchlock_wire::{
    Channel, Event, Hello, Mux, Note, Request, Role, SessionId, WireError,
    limits::{self, PROTOCOL},
};
use thiserror::Error;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{mpsc, oneshot},
};

/// Bytes taken from the stream at once.
const READ_CHUNK: usize = 64 * 1024;

/// Why a link ended or a session could not be opened.
#[derive(Clone, Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LinkError {
    #[error("the sandbox has ended")]
    Closed,
    #[error("the guest broke the protocol")]
    Protocol(#[from] WireError),
    #[error("the request was not sent")]
    Refused(#[source] WireError),
    #[error("guest link")]
    Io(#[source] Arc<io::Error>),
    #[error("the sandbox speaks protocol {theirs}, this matchlock {ours}: use the version that started it")]
    Version { theirs: u32, ours: u32 },
}

/// A handle to a link. Clones share it; it ends when its stream does.
#[derive(Clone, Debug)]
pub struct Link {
    commands: mpsc::UnboundedSender<Command>,
    fate: Arc<OnceLock<LinkError>>,
}

/// One session of a link. Dropping it cancels it.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    link: Link,
    events: mpsc::UnboundedReceiver<Event>,
    over: bool,
}

/// Sessions that the other side opens (guest role).
#[derive(Debug)]
pub struct Incoming {
    /// Keeps the link open while no session does.
    _link: Link,
    opened: mpsc::UnboundedReceiver<(Session, Request)>,
}

#[derive(Debug)]
enum Command {
    Open(Box<Request>, oneshot::Sender<Result<Session, LinkError>>),
    Note(SessionId, Note),
    Send(SessionId, Channel, Vec<u8>),
    Grant(SessionId, Channel, u32),
    Eof(SessionId, Channel),
    Stop(SessionId, Channel),
    End(SessionId),
    Release(oneshot::Sender<StdStream>),
}

impl Link {
    /// Take the host's role on `stream`: returns once the guest has said hello.
    ///
    /// # Errors
    /// [`LinkError`] if the stream ends first or the guest speaks another protocol.
    pub async fn to_guest(stream: UnixStream) -> Result<Self, LinkError> {
        let (hello, greeted) = oneshot::channel();
        let (link, _) = Self::drive(stream, Mux::new(Role::Host), Some(hello));
        let hello = greeted.await.map_err(|_| link.fate())?;
        if hello.protocol == PROTOCOL {
            Ok(link)
        } else {
            Err(LinkError::Version { theirs: hello.protocol, ours: PROTOCOL })
        }
    }

    /// Take the host's role towards a guest that was saved while it was parked: it has said its hello.
    #[must_use]
    pub fn to_restored(stream: UnixStream) -> Self {
        Self::drive(stream, Mux::to_restored(limits::PARKING_SESSIONS), None).0
    }

    /// Take the host's role towards a guest that somebody else has warmed.
    #[must_use]
    pub(crate) fn to_warmed(stream: UnixStream) -> Self {
        Self::drive(stream, Mux::to_restored(limits::WARMING_SESSIONS), None).0
    }

    /// Let go of the stream, for somebody else to take this role.
    ///
    /// # Errors
    /// It is gone, or something is still said on it.
    pub(crate) async fn release(self) -> Result<StdStream, LinkError> {
        let (reply, released) = oneshot::channel();
        self.commands.send(Command::Release(reply)).map_err(|_| self.fate())?;
        released.await.map_err(|_| self.fate())
    }

    /// Take the guest's role on `stream`.
    ///
    /// # Errors
    /// None in practice: the greeting is far below its bound.
    pub fn to_host(stream: UnixStream) -> Result<Incoming, LinkError> {
        let mut mux = Mux::new(Role::Guest);
        mux.hello(&Hello { protocol: PROTOCOL })?;
        Ok(Self::drive(stream, mux, None).1)
    }

    /// Ask for something.
    ///
    /// # Errors
    /// [`LinkError::Refused`] if it cannot take another session or such a large request; else the link is gone.
    pub async fn open(&self, request: Request) -> Result<Session, LinkError> {
        let (reply, opened) = oneshot::channel();
        self.commands.send(Command::Open(Box::new(request), reply)).map_err(|_| self.fate())?;
        opened.await.map_err(|_| self.fate())?
    }

    /// Wait until the link is gone; returns why.
    pub async fn closed(&self) -> LinkError {
        self.commands.closed().await;
        self.fate()
    }

    fn fate(&self) -> LinkError {
        self.fate.get().cloned().unwrap_or(LinkError::Closed)
    }

    fn drive(stream: UnixStream, mux: Mux, hello: Option<oneshot::Sender<Hello>>) -> (Self, Incoming) {
        let (commands, command_queue) = mpsc::unbounded_channel();
        let (accept, opened) = mpsc::unbounded_channel();
        let fate = Arc::new(OnceLock::new());
        let link = Self { commands, fate: Arc::clone(&fate) };
        // The driver must not keep its own command queue open, or dropping every handle would not end it.
        let driver = Driver {
            stream,
            mux,
            sessions: BTreeMap::new(),
            handles: link.commands.downgrade(),
            fate: Arc::clone(&fate),
            hello,
            accept,
        };
        tokio::spawn(async move {
            if let Err(error) = driver.run(command_queue).await {
                // The first reason is the one that counts.
                let _ = fate.set(error);
            }
        });
        (link.clone(), Incoming { _link: link, opened })
    }
}

impl Incoming {
    /// The next session that the other side opens, or `None` when it is gone.
    pub async fn accept(&mut self) -> Option<(Session, Request)> {
        self.opened.recv().await
    }
}

impl Session {
    /// What happens next in this session; `None` after [`Event::Ended`] or when the link is gone.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        self.over |= matches!(event, None | Some(Event::Ended(_)));
        event
    }

    /// Send a message.
    pub fn note(&self, note: Note) {
        self.command(Command::Note(self.id, note));
    }

    /// Send bytes, never more than the peer granted: [`limits::WINDOW`] at first, then what [`Event::Credit`] adds.
    pub fn send(&self, channel: Channel, bytes: Vec<u8>) {
        self.command(Command::Send(self.id, channel, bytes));
    }

    /// Let the peer send this many more bytes.
    pub fn grant(&self, channel: Channel, count: u32) {
        self.command(Command::Grant(self.id, channel, count));
    }

    /// No more bytes will be sent.
    pub fn eof(&self, channel: Channel) {
        self.command(Command::Eof(self.id, channel));
    }

    /// No more bytes are wanted.
    pub fn stop(&self, channel: Channel) {
        self.command(Command::Stop(self.id, channel));
    }

    /// End the session (guest role), or ask for its end (host role).
    pub fn end(&self) {
        self.command(Command::End(self.id));
    }

    /// A way to grant and stop from another task.
    #[must_use]
    pub fn receipts(&self, channel: Channel) -> Receipts {
        Receipts { id: self.id, channel, link: self.link.clone() }
    }

    /// Why there is nothing more to come.
    #[must_use]
    pub fn fate(&self) -> LinkError {
        self.link.fate()
    }

    fn command(&self, command: Command) {
        // A link that is gone takes nothing; the holder learns it from `next`.
        let _ = self.link.commands.send(command);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.over {
            self.end();
        }
    }
}

/// Answers for received bytes of one channel, given where they were written out.
#[derive(Debug)]
pub struct Receipts {
    id: SessionId,
    channel: Channel,
    link: Link,
}

impl Receipts {
    /// These bytes have been dealt with.
    pub fn grant(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(limits::WINDOW);
        let _ = self.link.commands.send(Command::Grant(self.id, self.channel, count));
    }

    /// No more are wanted.
    pub fn stop(&self) {
        let _ = self.link.commands.send(Command::Stop(self.id, self.channel));
    }
}

/// The task behind a link.
struct Driver {
    stream: UnixStream,
    mux: Mux,
    sessions: BTreeMap<SessionId, mpsc::UnboundedSender<Event>>,
    handles: mpsc::WeakUnboundedSender<Command>,
    fate: Arc<OnceLock<LinkError>>,
    hello: Option<oneshot::Sender<Hello>>,
    accept: mpsc::UnboundedSender<(Session, Request)>,
}

impl Driver {
    /// Runs until the stream ends, the protocol is broken, or (host) every handle is dropped.
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) -> Result<(), LinkError> {
        let mut chunk = vec![0; READ_CHUNK];
        loop {
            let interest =
                if self.mux.output_len() == 0 { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            tokio::select! {
                ready = self.stream.ready(interest) => {
                    let ready = ready.map_err(LinkError::from)?;
                    if ready.is_writable() {
                        self.write()?;
                    }
                    if ready.is_readable() && !self.read(&mut chunk)? {
                        return Ok(());
                    }
                    // A peer that never stops must not keep the other tasks of this thread from running.
                    tokio::task::consume_budget().await;
                }
                command = commands.recv() => {
                    let Some(command) = command else { return Ok(()) };
                    if let Some(wants_stream) = self.obey(command) {
                        return self.release(wants_stream);
                    }
                    self.write()?;
                }
            }
        }
    }

    fn write(&mut self) -> Result<(), LinkError> {
        while self.mux.output_len() > 0 {
            match self.stream.try_write(self.mux.output()) {
                Ok(count) => self.mux.written(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => match error.into() {
                    // What the other side said before it went is still to be read, and then its end.
                    LinkError::Closed => self.mux.written(self.mux.output_len()),
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// `false` at the end of the stream.
    fn read(&mut self, chunk: &mut [u8]) -> Result<bool, LinkError> {
        let count = match self.stream.try_read(chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for event in self.mux.receive(&chunk[..count])? {
            self.dispatch(event);
        }
        Ok(true)
    }

    fn dispatch(&mut self, event: Event) {
        let id = match &event {
            Event::Hello(hello) => {
                if let Some(waiting) = self.hello.take() {
                    let _ = waiting.send(hello.clone());
                }
                return;
            }
            Event::Opened(id, request) => {
                let request = request.clone();
                if let Some(session) = self.session(*id) {
                    // Nobody accepts any more: dropping the session ends it.
                    let _ = self.accept.send((session, request));
                }
                return;
            }
            Event::Note(id, _)
            | Event::Data(id, ..)
            | Event::Credit(id, ..)
            | Event::Eof(id, _)
            | Event::Stopped(id, _)
            | Event::Ended(id) => *id,
        };
        let over = matches!(event, Event::Ended(_));
        if let Some(holder) = self.sessions.get(&id) {
            // A holder that is gone has asked for the end already.
            let _ = holder.send(event);
        }
        if over {
            self.sessions.remove(&id);
            self.mux.end(id);
        }
    }

    fn session(&mut self, id: SessionId) -> Option<Session> {
        let commands = self.handles.upgrade()?;
        let (holder, events) = mpsc::unbounded_channel();
        self.sessions.insert(id, holder);
        let link = Link { commands, fate: Arc::clone(&self.fate) };
        Some(Session { id, link, events, over: false })
    }

    /// Returns who wants the stream, if that was the command.
    fn obey(&mut self, command: Command) -> Option<oneshot::Sender<StdStream>> {
        match command {
            Command::Open(request, reply) => {
                let session = self.mux.open(&request).map_err(LinkError::Refused);
                let session = session.and_then(|id| self.session(id).ok_or(LinkError::Closed));
                let _ = reply.send(session);
            }
            // An oversized note can only come from this program; it ends the session rather than the link.
            Command::Note(id, note) => {
                if self.mux.note(id, &note).is_err() {
                    self.mux.end(id);
                }
            }
            Command::Send(id, channel, bytes) => {
                self.mux.send(id, channel, &bytes);
            }
            Command::Grant(id, channel, count) => self.mux.grant(id, channel, count),
            Command::Eof(id, channel) => self.mux.eof(id, channel),
            Command::Stop(id, channel) => self.mux.stop(id, channel),
            Command::End(id) => self.mux.end(id),
            Command::Release(reply) => return Some(reply),
        }
        None
    }

    /// Only between sessions does the other side notice nothing of it.
    fn release(self, reply: oneshot::Sender<StdStream>) -> Result<(), LinkError> {
        if self.sessions.is_empty() && self.mux.output_len() == 0 {
            // One who does not wait any more does not want it.
            let _ = reply.send(self.stream.into_std()?);
        }
        Ok(())
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // QEMU's or a client's end is the end of the link, however abrupt.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

#[cfg(test)]
mod tests;
