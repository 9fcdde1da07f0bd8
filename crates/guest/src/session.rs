//! One running program and the host's session for it.
//!
//! ```text
//! Running --the program ends--> Ended(kind): its last output is sent --> over: Exited, End
//!    |
//!    +--the host ends the session--> crate::ending
//! ```
//!
//! Invariant: a stream is read only when the host has granted credit and the link's queue is short; the bytes waiting for
//! a program never exceed its input's credit.

use std::os::fd::OwnedFd;

use matchlock_wire::{Channel, ExitKind, Mux, Note, SessionId};
use rustix::{event::PollFlags, process::Pid};

use crate::{
    drain::Drains,
    stdio::{AgentEnds, resize},
    stream::{Flushed, Pumped, Sink, Source},
};

/// A program that the host watches.
pub(crate) struct Session {
    /// The host's number for it.
    pub(crate) id: SessionId,
    /// The program, leader of its process group.
    pub(crate) pid: Pid,
    input: Option<Sink>,
    outputs: [Option<Source>; 2],
    ended: Option<ExitKind>,
    /// The program's side of its terminal. While it is open, the terminal cannot be hung up but by the program's end.
    terminal: Option<OwnedFd>,
}

impl Session {
    /// The session of a program that was just started.
    pub(crate) fn new(id: SessionId, pid: Pid, ends: AgentEnds) -> Self {
        let is_terminal = ends.terminal.is_some();
        Self {
            id,
            pid,
            input: ends.input.map(|fd| Sink::new(fd, is_terminal)),
            outputs: [
                Some(Source::new(ends.output, Channel::Output)),
                ends.error.map(|fd| Source::new(fd, Channel::Error)),
            ],
            ended: None,
            terminal: ends.terminal,
        }
    }

    /// Has the program ended?
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// What to poll the program's input for, if anything.
    pub(crate) fn input_interest(&self) -> Option<(&OwnedFd, PollFlags)> {
        let input = self.input.as_ref()?;
        if input.is_waiting() {
            return Some((input.fd(), PollFlags::OUT));
        }
        // Without any flag the kernel still says when a pipe's reader is gone. A terminal has no such end.
        self.terminal.is_none().then(|| (input.fd(), PollFlags::empty()))
    }

    /// The kernel has something to say about what [`Session::input_interest`] returned. What was waiting then may have been
    /// written meanwhile.
    pub(crate) fn input_is_ready(&mut self, flags: PollFlags, mux: &mut Mux) {
        self.flush_input(mux);
        if flags.contains(PollFlags::ERR) && self.input.as_ref().is_some_and(|input| !input.is_waiting()) {
            self.refuse_input(mux);
        }
    }

    /// The program's outputs that can be read now.
    pub(crate) fn readable<'a>(&'a self, mux: &'a Mux) -> impl Iterator<Item = &'a Source> {
        self.outputs.iter().flatten().filter(|source| source.has_room(self.id, mux))
    }

    /// Bytes for the program.
    pub(crate) fn take_input(&mut self, bytes: &[u8], mux: &mut Mux) {
        if let Some(input) = &mut self.input {
            input.push(bytes);
            self.flush_input(mux);
        }
    }

    /// No more bytes for the program will come.
    pub(crate) fn end_input(&mut self, mux: &mut Mux) {
        if let Some(input) = &mut self.input {
            input.end();
            self.flush_input(mux);
        }
    }

    /// Write on what waits for the program.
    fn flush_input(&mut self, mux: &mut Mux) {
        match self.input.as_mut().map(|input| input.flush(self.id, mux)) {
            None | Some(Flushed::Open) => {}
            Some(Flushed::Finished) => self.input = None,
            Some(Flushed::Refused) => self.refuse_input(mux),
        }
    }

    /// The program has closed its input.
    fn refuse_input(&mut self, mux: &mut Mux) {
        self.input = None;
        mux.stop(self.id, Channel::Input);
    }

    /// Send what the program wrote to `channel`, once.
    pub(crate) fn pump(&mut self, channel: Channel, mux: &mut Mux, drains: &mut Drains, scratch: &mut [u8]) -> Pumped {
        let slot = &mut self.outputs[usize::from(channel == Channel::Error)];
        let Some(source) = slot else { return Pumped::Nothing };
        let pumped = source.pump(self.id, mux, scratch);
        if matches!(pumped, Pumped::End | Pumped::Held) {
            mux.eof(self.id, channel);
            if let Some(source) = slot.take().filter(|_| pumped == Pumped::Held && self.terminal.is_none()) {
                drains.add(source.into_fd());
            }
        }
        pumped
    }

    /// The host wants no more of `channel`: the program finds its stream closed.
    pub(crate) fn stop_output(&mut self, channel: Channel) {
        self.outputs[usize::from(channel == Channel::Error)] = None;
        if self.terminal.is_some() {
            self.input = None; // the same descriptor: only when both are gone is the terminal hung up
        }
    }

    /// The terminal's size.
    pub(crate) fn take_note(&mut self, note: &Note) {
        if let (Note::Resize(size), Some(source), Some(_)) = (note, &self.outputs[0], &self.terminal) {
            let _ = resize(source.fd(), *size);
        }
    }

    /// The program has ended.
    pub(crate) fn program_ended(&mut self, kind: ExitKind) {
        self.ended = Some(kind);
        self.input = None;
        self.outputs.iter_mut().flatten().for_each(Source::program_ended);
    }

    /// Send what the ended program left. True when the session is over, and the host has been told so.
    pub(crate) fn finish(&mut self, mux: &mut Mux, drains: &mut Drains, scratch: &mut [u8]) -> bool {
        let Some(kind) = self.ended else { return false };
        for channel in [Channel::Output, Channel::Error] {
            while self.pump(channel, mux, drains, scratch) == Pumped::Some {}
        }
        if self.outputs.iter().any(Option::is_some) {
            return false;
        }
        let _ = mux.note(self.id, &Note::Exited(kind)); // far below its bound
        mux.end(self.id);
        true
    }

    /// Give the streams of a session that the host gave up to the drains.
    pub(crate) fn abandon(self, drains: &mut Drains) {
        if self.terminal.is_none() {
            self.outputs.into_iter().flatten().for_each(|source| drains.add(source.into_fd()));
        }
    }
}
