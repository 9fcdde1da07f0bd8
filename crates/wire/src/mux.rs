//! The protocol's state machine, free of I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    frame::{Channel, HEADER, Header, Kind},
    limits,
    message::{Hello, Note, Request},
};

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens sessions.
    Host,
    /// Serves them.
    Guest,
}

/// A session's number, chosen by the host, never used twice on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u32);

/// What the peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest is ready (seen by the host).
    Hello(Hello),
    /// The host asks for something (seen by the guest).
    Opened(SessionId, Request),
    /// A message arrived.
    Note(SessionId, Note),
    /// Bytes arrived. They count against this side's grant until [`Mux::grant`] is called for them.
    Data(SessionId, Channel, Vec<u8>),
    /// The peer takes this many more bytes.
    Credit(SessionId, Channel, u32),
    /// No more bytes will come on this channel.
    Eof(SessionId, Channel),
    /// The peer takes no more bytes on this channel.
    Stopped(SessionId, Channel),
    /// Seen by the host: the session is over. Seen by the guest: the host wants it ended; answer with [`Mux::end`].
    Ended(SessionId),
}

/// The peer broke the protocol, or the link cannot take a call. The stream is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WireError {
    #[error("malformed frame header on the guest link")]
    Header,
    #[error("unexpected {0:?} frame on the guest link")]
    Unexpected(Kind),
    #[error("unreadable {0:?} message on the guest link")]
    Message(Kind),
    #[error("more data on the guest link than was granted")]
    Overrun,
    #[error("more than {} sessions on the guest link", limits::MAX_SESSIONS)]
    TooManySessions,
    #[error("message of {0} bytes is too large for the guest link")]
    TooLarge(usize),
    #[error("session {0} is not open")]
    NoSession(u32),
}

/// Flow control of one channel, as seen from this side.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Bytes that may still be sent (sender) or may still arrive (receiver).
    credit: u32,
    /// Bytes dealt with for which no `Credit` was sent yet (receiver).
    owed: u32,
    /// `Eof` or `Stop` has ended it.
    closed: bool,
    /// The peer has said so, which it may once.
    peer_closed: bool,
}

#[derive(Debug)]
struct Session {
    channels: [Flow; 3],
    /// The host has sent `End` and waits for the guest's.
    ending: bool,
    /// Messages that the guest may still send.
    notes_left: u8,
}

impl Session {
    const fn new() -> Self {
        Self {
            channels: [Flow { credit: limits::WINDOW, owed: 0, closed: false, peer_closed: false }; 3],
            ending: false,
            notes_left: limits::MAX_GUEST_NOTES,
        }
    }
}

/// One end of a link. See the crate's documentation for the protocol.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    sessions: BTreeMap<u32, Session>,
    next_session: u32,
    greeted: bool,
    input: Vec<u8>,
    output: VecDeque<u8>,
}

impl Mux {
    /// A fresh end of a link.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            sessions: BTreeMap::new(),
            next_session: 1,
            greeted: false,
            input: Vec::new(),
            output: VecDeque::new(),
        }
    }

    /// The host's end of the link to a guest that somebody else had before, who got its hello and opened no session beyond
    /// the number `after`: [`limits::PARKING_SESSIONS`] or [`limits::WARMING_SESSIONS`]. It waits for the next request.
    #[must_use]
    pub fn to_restored(after: u32) -> Self {
        Self { greeted: true, next_session: after.saturating_add(1), ..Self::new(Role::Host) }
    }

    /// Take bytes that arrived on the stream and say what they mean, in order.
    ///
    /// # Errors
    /// A [`WireError`] if no well-behaved peer would have sent them; nothing of this call's events is returned then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Event>, WireError> {
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut at = 0;
        while let Some(header) = self.input.get(at..).and_then(<[u8]>::first_chunk::<HEADER>) {
            let header = Header::decode(*header).ok_or(WireError::Header)?;
            let body = at + HEADER..at + HEADER + header.len;
            let Some(payload) = self.input.get(body.clone()) else { break };
            at = body.end;
            let payload = payload.to_vec();
            if let Some(event) = self.interpret(header, payload)? {
                events.push(event);
            }
        }
        self.input.drain(..at);
        if self.input.is_empty() && self.input.capacity() > limits::OUTPUT_HIGH_WATER {
            self.input = Vec::new(); // a large request is rare, and its room is memory of the guest
        }
        Ok(events)
    }

    fn interpret(&mut self, header: Header, payload: Vec<u8>) -> Result<Option<Event>, WireError> {
        let Header { kind, channel, session: number, .. } = header;
        let id = SessionId(number);
        match (kind, self.role) {
            (Kind::Hello, Role::Host) if !self.greeted && number == 0 => {
                self.greeted = true;
                return Ok(Some(Event::Hello(decode(kind, &payload)?)));
            }
            (Kind::Open, Role::Guest) if number >= self.next_session => {
                if self.sessions.len() >= limits::MAX_SESSIONS {
                    return Err(WireError::TooManySessions);
                }
                self.next_session = number.checked_add(1).ok_or(WireError::Unexpected(kind))?;
                self.sessions.insert(number, Session::new());
                return Ok(Some(Event::Opened(id, decode(kind, &payload)?)));
            }
            (Kind::Hello | Kind::Open, _) => return Err(WireError::Unexpected(kind)),
            _ => {}
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            // Frames of the host that crossed the guest's `End` are no fault of the host; the guest has no such excuse.
            let crossed = self.role == Role::Guest && number < self.next_session;
            return if crossed { Ok(None) } else { Err(WireError::Unexpected(kind)) };
        };
        let incoming = (channel == Channel::Input) == (self.role == Role::Guest);
        let flow = &mut session.channels[channel as usize];
        let event = match kind {
            Kind::Note => {
                if self.role == Role::Host {
                    session.notes_left = session.notes_left.checked_sub(1).ok_or(WireError::Overrun)?;
                }
                Event::Note(id, decode(kind, &payload)?)
            }
            Kind::Data if incoming && !payload.is_empty() => {
                let len = u32::try_from(payload.len()).map_err(|_| WireError::Overrun)?;
                flow.credit = flow.credit.checked_sub(len).ok_or(WireError::Overrun)?;
                if flow.closed {
                    return Ok(None); // crossed our `Stop`; the credit check above still bounds it
                }
                Event::Data(id, channel, payload)
            }
            Kind::Eof if incoming && !flow.peer_closed => {
                (flow.closed, flow.peer_closed) = (true, true);
                Event::Eof(id, channel)
            }
            Kind::Credit if !incoming => {
                let more =
                    <[u8; 4]>::try_from(payload).map(u32::from_le_bytes).map_err(|_| WireError::Message(kind))?;
                let credit = flow.credit.checked_add(more).filter(|credit| more > 0 && *credit <= limits::WINDOW);
                flow.credit = credit.ok_or(WireError::Overrun)?;
                Event::Credit(id, channel, more)
            }
            Kind::Stop if !incoming && !flow.peer_closed => {
                (flow.closed, flow.peer_closed) = (true, true);
                Event::Stopped(id, channel)
            }
            Kind::End => {
                if self.role == Role::Host {
                    self.sessions.remove(&number);
                    return Ok(Some(Event::Ended(id)));
                }
                Event::Ended(id)
            }
            _ => return Err(WireError::Unexpected(kind)),
        };
        // After our `End` only the guest's own matters.
        Ok(self.sessions.get(&number).is_none_or(|s| !s.ending).then_some(event))
    }

    /// Say that this guest is ready.
    ///
    /// # Errors
    /// None in practice; the message is far below its bound.
    pub fn hello(&mut self, hello: &Hello) -> Result<(), WireError> {
        self.put_message(Kind::Hello, 0, hello)
    }

    /// Open a session (host).
    ///
    /// # Errors
    /// [`WireError::TooManySessions`], or [`WireError::TooLarge`] for a request over [`limits::MAX_OPEN`]; neither harms
    /// the link.
    pub fn open(&mut self, request: &Request) -> Result<SessionId, WireError> {
        if self.sessions.len() >= limits::MAX_SESSIONS {
            return Err(WireError::TooManySessions);
        }
        let number = self.next_session;
        self.put_message(Kind::Open, number, request)?;
        self.next_session += 1;
        self.sessions.insert(number, Session::new());
        Ok(SessionId(number))
    }

    /// Send a message inside a session. A session that is already over swallows it.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for a note over [`limits::MAX_NOTE`].
    pub fn note(&mut self, id: SessionId, note: &Note) -> Result<(), WireError> {
        if self.is_open(id) { self.put_message(Kind::Note, id.0, note) } else { Ok(()) }
    }

    /// Send as many of `bytes` as the peer's grant allows; returns how many. Zero if the channel is closed.
    pub fn send(&mut self, id: SessionId, channel: Channel, bytes: &[u8]) -> usize {
        let sendable = self.sendable(id, channel).min(bytes.len());
        for chunk in bytes[..sendable].chunks(limits::MAX_DATA) {
            self.put(Kind::Data, channel, id.0, chunk);
        }
        if let (Some(session), Ok(sent)) = (self.sessions.get_mut(&id.0), u32::try_from(sendable)) {
            session.channels[channel as usize].credit -= sent;
        }
        sendable
    }

    /// Bytes that [`Mux::send`] would take now.
    #[must_use]
    pub fn sendable(&self, id: SessionId, channel: Channel) -> usize {
        self.sessions.get(&id.0).map_or(0, |session| {
            let flow = session.channels[channel as usize];
            if flow.closed || session.ending { 0 } else { flow.credit as usize }
        })
    }

    /// Grant the peer `count` more bytes on `channel`: that many of what arrived have been dealt with. The peer is told
    /// when it is worth a frame, [`limits::GRANT`].
    pub fn grant(&mut self, id: SessionId, channel: Channel, count: u32) {
        let Some(session) = self.sessions.get_mut(&id.0) else { return };
        let flow = &mut session.channels[channel as usize];
        flow.owed = flow.owed.saturating_add(count).min(limits::WINDOW - flow.credit);
        if flow.owed >= limits::GRANT && !flow.closed && !session.ending {
            let more = mem::take(&mut flow.owed);
            flow.credit += more;
            self.put(Kind::Credit, channel, id.0, &more.to_le_bytes());
        }
    }

    /// Say that no more bytes will be sent on `channel`.
    pub fn eof(&mut self, id: SessionId, channel: Channel) {
        self.close_channel(id, channel, Kind::Eof);
    }

    /// Say that no more bytes are wanted on `channel`.
    pub fn stop(&mut self, id: SessionId, channel: Channel) {
        self.close_channel(id, channel, Kind::Stop);
    }

    /// Host: ask for the session's end. Guest: end it; nothing of it may be sent afterwards.
    pub fn end(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id.0) else { return };
        match self.role {
            Role::Guest => {
                self.sessions.remove(&id.0);
            }
            Role::Host if session.ending => return,
            Role::Host => session.ending = true,
        }
        self.put(Kind::End, Channel::Input, id.0, &[]);
    }

    /// Is this session open, and not about to end?
    #[must_use]
    pub fn is_open(&self, id: SessionId) -> bool {
        self.sessions.get(&id.0).is_some_and(|session| !session.ending)
    }

    /// Bytes to write to the stream: the first contiguous part of them.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.output.as_slices().0
    }

    /// How many bytes are waiting to be written in all.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// `count` bytes of [`Mux::output`] have been written.
    pub fn written(&mut self, count: usize) {
        self.output.drain(..count);
        if self.output.is_empty() && self.output.capacity() > limits::OUTPUT_HIGH_WATER {
            self.output = VecDeque::new();
        }
    }

    fn close_channel(&mut self, id: SessionId, channel: Channel, kind: Kind) {
        let Some(session) = self.sessions.get_mut(&id.0) else { return };
        let flow = &mut session.channels[channel as usize];
        if !flow.closed && !session.ending {
            flow.closed = true;
            self.put(kind, channel, id.0, &[]);
        }
    }

    fn put_message(&mut self, kind: Kind, session: u32, message: &impl Serialize) -> Result<(), WireError> {
        let payload = postcard::to_stdvec(message).map_err(|_| WireError::Message(kind))?;
        if payload.len() > kind.max_payload() {
            return Err(WireError::TooLarge(payload.len()));
        }
        self.put(kind, Channel::Input, session, &payload);
        Ok(())
    }

    fn put(&mut self, kind: Kind, channel: Channel, session: u32, payload: &[u8]) {
        self.output.extend(Header { kind, channel, session, len: payload.len() }.encode());
        self.output.extend(payload);
    }
}

fn decode<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Message(kind)),
    }
}
