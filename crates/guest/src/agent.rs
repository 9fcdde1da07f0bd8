//! The loop: one `poll` over the port, the dead, and the sessions' streams.
//!
//! Called by `main` for ever. Every turn first does what needs no waiting (last output of ended programs, deadlines),
//! then writes to the host, then waits, then reacts. A host that leaves takes its sessions with it; the next one is
//! greeted anew.

use std::{
    convert::Infallible,
    mem,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use matchlock_wire::{
    Channel, Event, Failure, FailureKind, Hello, Mux, Note, Request, Role, SessionId, WireError, limits,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    time::Timespec,
};
use thiserror::Error;

use crate::{
    drain::Drains,
    ending::Ending,
    exec,
    identity::Names,
    link::{Link, Received},
    os_error::{Doing, OsError},
    power::PowerOff,
    reap::{Left, Reaper},
    session::Session,
    spawn::Spawner,
    start,
    stopwatch::Stopwatch,
};

/// Bytes read at once from a stream.
const SCRATCH: usize = limits::MAX_DATA;

/// The most that one read of the port brings: the size of the kernel's buffers for it. A full one has more behind it.
const PORT_BUFFER: usize = 4096;

/// Reads of the port in one turn of the loop.
const MAX_READS: usize = 16;

/// Serves the host.
pub(crate) struct Agent {
    link: Link,
    mux: Mux,
    names: Names,
    reaper: Reaper,
    spawner: Spawner,
    stage: Stage,
    sessions: Vec<Session>,
    endings: Vec<Ending>,
    drains: Drains,
    more_dead: bool,
    scratch: Vec<u8>,
}

/// How far the VM is.
enum Stage {
    /// No `Start` yet: the guest may be saved as a template, or wait for its sandbox. Holds what was done before.
    Parked(Option<start::Parked>),
    /// A sandbox; holds what to make read-only at the end.
    Started(Vec<OwnedFd>),
    /// A `Park`, `Warm` or `Start` failed half-way. Only `PowerOff` makes sense.
    Broken,
    /// On the way down.
    PoweringOff(PowerOff),
}

/// Something to do after a `poll`.
#[derive(Clone, Copy)]
enum Ready {
    Link,
    Children,
    Input(SessionId),
    Output(SessionId, Channel),
    Drains,
}

/// What ends the agent.
#[derive(Debug, Error)]
#[error(transparent)]
pub(crate) enum AgentError {
    /// The kernel refused what the agent cannot do without.
    Os(#[from] OsError),
    /// The host does not keep to the protocol.
    Wire(#[from] WireError),
}

/// A request's answer; `None` where it comes later.
type Answer = Result<Option<Note>, Failure>;

impl Agent {
    /// An agent that waits for a host on `link`.
    pub(crate) fn new(link: Link, names: Names) -> Result<Self, OsError> {
        Ok(Self {
            link,
            names,
            mux: Mux::new(Role::Guest),
            reaper: Reaper::new().doing(|| "watch for ended processes".to_owned())?,
            spawner: Spawner::new(),
            stage: Stage::Parked(None),
            sessions: Vec::new(),
            endings: Vec::new(),
            drains: Drains::default(),
            more_dead: false,
            scratch: vec![0; SCRATCH],
        })
    }

    /// Serve for ever.
    pub(crate) fn run(mut self) -> Result<Infallible, AgentError> {
        loop {
            self.advance();
            self.link.flush(&mut self.mux).doing(|| "write to the host".to_owned())?;
            for (ready, flags) in self.wait().doing(|| "wait".to_owned())? {
                self.react(ready, flags)?;
            }
        }
    }

    /// Everything that needs no waiting.
    fn advance(&mut self) {
        if self.more_dead {
            self.bury();
        }
        let Self { mux, sessions, drains, scratch, endings, .. } = self;
        sessions.retain_mut(|session| !session.finish(mux, drains, scratch));
        let now = Instant::now();
        endings.retain_mut(|ending| {
            let gone = ending.advance(now);
            if let Some(id) = ending.id.filter(|_| gone) {
                mux.end(id);
            }
            !gone
        });
        if let Stage::PoweringOff(power) = &mut self.stage {
            power.advance(now, &self.link, &mut self.mux);
        }
    }

    /// Wait until there is something to do.
    fn wait(&self) -> Result<Vec<(Ready, PollFlags)>, Errno> {
        let mut fds = vec![self.link.interest(&self.mux), PollFd::new(&self.reaper, PollFlags::IN)];
        let mut meanings = vec![Ready::Link, Ready::Children];
        for session in self.sessions.iter().filter(|session| !session.has_ended()) {
            if let Some((input, flags)) = session.input_interest() {
                fds.push(PollFd::new(input, flags));
                meanings.push(Ready::Input(session.id));
            }
            for source in session.readable(&self.mux) {
                fds.push(PollFd::new(source.fd(), PollFlags::IN));
                meanings.push(Ready::Output(session.id, source.channel()));
            }
        }
        for fd in self.drains.fds() {
            fds.push(PollFd::new(fd, PollFlags::IN));
            meanings.push(Ready::Drains);
        }
        match poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(other) => return Err(other),
        }
        let ready = meanings.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Until the next deadline.
    fn timeout(&self) -> Option<Timespec> {
        if self.more_dead {
            return Some(Timespec::default());
        }
        let power = if let Stage::PoweringOff(power) = &self.stage { Some(power.deadline()) } else { None };
        let next = self.endings.iter().filter_map(Ending::deadline).chain(power).min()?;
        // Rounded up, so that the deadline has passed when the wait is over.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(wait).ok()
    }

    fn react(&mut self, ready: Ready, flags: PollFlags) -> Result<(), AgentError> {
        match ready {
            Ready::Link if self.link.is_alone() => self.greet().doing(|| "look for a host".to_owned())?,
            Ready::Link => self.listen()?,
            Ready::Children => self.bury(),
            Ready::Input(id) => self.with_session(id, |session, mux| session.input_is_ready(flags, mux)),
            Ready::Output(id, channel) => self.pump(id, channel),
            Ready::Drains => self.drains.drain(&mut self.scratch),
        }
        Ok(())
    }

    /// A host may have come.
    fn greet(&mut self) -> Result<(), Errno> {
        if self.link.look_for_host()? {
            self.mux = Mux::new(Role::Guest);
            let _ = self.mux.hello(&Hello { protocol: limits::PROTOCOL }); // far below its bound
        }
        Ok(())
    }

    /// Hear what the host says.
    fn listen(&mut self) -> Result<(), AgentError> {
        for _ in 0..MAX_READS {
            let count = match self.link.receive(&mut self.scratch).doing(|| "read from the host".to_owned())? {
                Received::Bytes(count) => count,
                Received::Nothing => break,
                Received::HostLeft => {
                    self.forget_host();
                    break;
                }
            };
            let events = self.mux.receive(&self.scratch[..count])?;
            for event in events {
                self.obey(event);
            }
            if count < PORT_BUFFER {
                break;
            }
        }
        Ok(())
    }

    /// The host is gone, and with it everybody who waits for its programs.
    fn forget_host(&mut self) {
        for session in mem::take(&mut self.sessions) {
            self.cancel(session, None);
        }
        self.endings.iter_mut().for_each(|ending| ending.id = None);
        if let Stage::PoweringOff(power) = &mut self.stage {
            power.asked_by = None;
        }
    }

    fn obey(&mut self, event: Event) {
        match event {
            Event::Opened(id, request) => self.answer(id, request),
            Event::Data(id, Channel::Input, bytes) => {
                self.with_session(id, |session, mux| session.take_input(&bytes, mux));
            }
            Event::Eof(id, Channel::Input) => self.with_session(id, Session::end_input),
            Event::Stopped(id, channel) => self.with_session(id, |session, _| session.stop_output(channel)),
            Event::Note(id, note) => self.with_session(id, |session, _| session.take_note(&note)),
            Event::Ended(id) => match self.sessions.iter().position(|session| session.id == id) {
                Some(index) => {
                    let session = self.sessions.swap_remove(index);
                    self.cancel(session, Some(id));
                }
                None if self.endings.iter().any(|ending| ending.id == Some(id)) => {}
                None => self.mux.end(id),
            },
            // Credit only changes what can be read, which every turn of the loop looks at anew.
            Event::Credit(..) | Event::Hello(_) | Event::Data(..) | Event::Eof(..) => {}
        }
    }

    fn answer(&mut self, id: SessionId, request: Request) {
        let answer = match request {
            Request::Start(start) => self.start(id, &start),
            Request::Exec(exec) => self.exec(id, &exec),
            Request::Park(park) => self.park(&park),
            Request::Warm(warm) => self.warm(&warm),
            Request::PowerOff { grace_ms } => self.power_off(id, grace_ms),
        };
        let note = match answer {
            Ok(None) => return,
            Ok(Some(note)) => note,
            Err(failure) => Note::Failed(failure),
        };
        if self.mux.note(id, &note).is_err() {
            let message = "the reason is too long to be told".to_owned();
            let _ = self.mux.note(id, &Note::Failed(Failure { kind: FailureKind::Internal, message }));
        }
        self.mux.end(id);
    }

    fn start(&mut self, id: SessionId, request: &matchlock_wire::Start) -> Answer {
        let Stage::Parked(parked) = &mut self.stage else {
            return Err(internal("the sandbox has been started before"));
        };
        if !(self.sessions.is_empty() && self.endings.is_empty()) {
            return Err(internal("a command from before the start still runs"));
        }
        let parked = parked.take();
        self.stage = Stage::Broken;
        if parked.as_ref().is_some_and(|parked| parked.warm) && !self.reaper.clear() {
            return Err(internal("this agent is not the machine's first process"));
        }
        let mut watch = Stopwatch::new();
        let disks = start::start(request, parked, &self.names, &mut self.spawner, &mut watch)
            .map_err(|error| Failure { kind: FailureKind::Internal, message: error.to_string() })?;
        self.stage = Stage::Started(disks);
        if request.timings {
            let _ = self.mux.note(id, &Note::Times(watch.milestones())); // a dozen short lines, far below its bound
        }
        Ok(Some(Note::Done))
    }

    fn park(&mut self, request: &matchlock_wire::Park) -> Answer {
        if !matches!(self.stage, Stage::Parked(None)) {
            return Err(internal("this guest cannot be parked any more"));
        }
        self.stage = Stage::Broken;
        let parked = start::park(request).map_err(|error| internal(&error.to_string()))?;
        self.spawner.prepare();
        self.stage = Stage::Parked(Some(parked));
        Ok(Some(Note::Done))
    }

    fn warm(&mut self, request: &matchlock_wire::Warm) -> Answer {
        let cold = |parked: &mut start::Parked| !parked.warm;
        let parked = if let Stage::Parked(parked) = &mut self.stage { parked.take_if(cold) } else { None };
        let parked = parked.ok_or_else(|| internal("only a guest that is parked gets warm, and once"))?;
        self.stage = Stage::Broken;
        self.spawner.dismiss(); // making processes is to be warm, too
        let warm = start::warm(parked, request).map_err(|error| internal(&error.to_string()))?;
        self.stage = Stage::Parked(Some(warm));
        Ok(Some(Note::Done))
    }

    fn exec(&mut self, id: SessionId, request: &matchlock_wire::Exec) -> Answer {
        match self.stage {
            Stage::Started(_) => {}
            Stage::Parked(Some(ref parked)) if parked.warm => {}
            Stage::Parked(_) | Stage::Broken => return Err(internal("the sandbox has not been started")),
            Stage::PoweringOff(_) => return Err(internal("the sandbox is ending")),
        }
        let (pid, ends) = exec::start(request, &mut self.spawner)?;
        self.sessions.push(Session::new(id, pid, ends));
        let _ = self.mux.note(id, &Note::Started { pid: pid.as_raw_nonzero().get().unsigned_abs() });
        Ok(None)
    }

    fn power_off(&mut self, id: SessionId, grace_ms: u32) -> Answer {
        let disks = match &mut self.stage {
            Stage::PoweringOff(_) => return Err(internal("the sandbox is ending already")),
            Stage::Started(disks) => mem::take(disks),
            Stage::Parked(_) | Stage::Broken => Vec::new(),
        };
        self.spawner.dismiss(); // it would hear no signal but the last
        let power = PowerOff::begin(id, Duration::from_millis(grace_ms.into()), disks)
            .ok_or_else(|| internal("this agent is not the machine's first process"))?;
        self.stage = Stage::PoweringOff(power);
        self.bury();
        Ok(None)
    }

    fn cancel(&mut self, session: Session, id: Option<SessionId>) {
        match id {
            _ if !session.has_ended() => self.endings.push(Ending::begin(id, session.pid)),
            Some(id) => self.mux.end(id),
            None => {}
        }
        session.abandon(&mut self.drains);
    }

    /// Collect the dead.
    fn bury(&mut self) {
        let round = self.reaper.round();
        for (pid, kind) in round.dead {
            self.endings.iter_mut().for_each(|ending| ending.note_death(pid));
            if let Some(session) = self.sessions.iter_mut().find(|session| session.pid == pid && !session.has_ended()) {
                session.program_ended(kind);
            }
        }
        self.more_dead = round.left == Left::PerhapsDead;
        if let Stage::PoweringOff(power) = &mut self.stage {
            power.nobody_left |= round.left == Left::Nobody;
        }
    }

    fn pump(&mut self, id: SessionId, channel: Channel) {
        let Self { sessions, mux, drains, scratch, .. } = self;
        if let Some(session) = sessions.iter_mut().find(|session| session.id == id) {
            session.pump(channel, mux, drains, scratch);
        }
    }

    fn with_session(&mut self, id: SessionId, act: impl FnOnce(&mut Session, &mut Mux)) {
        if let Some(session) = self.sessions.iter_mut().find(|session| session.id == id) {
            act(session, &mut self.mux);
        }
    }
}

fn internal(message: &str) -> Failure {
    Failure { kind: FailureKind::Internal, message: message.to_owned() }
}

#[cfg(test)]
mod tests;
