//! One direction of a program's streams: bytes between a descriptor and a channel of its session, within the channel's
//! credit.

use std::{collections::VecDeque, os::fd::OwnedFd, rc::Rc};

use matchlock_wire::{Channel, Mux, SessionId, limits};
use rustix::{
    io::{Errno, ioctl_fionread, read, write},
    termios::{SpecialCodeIndex, tcgetattr},
};

/// What a terminal may hold beyond what it admits to (its line discipline's buffer and the flip buffers behind it).
const TERMINAL_BACKLOG: usize = 128 * 1024;

/// From a program to the host.
pub(crate) struct Source {
    fd: Rc<OwnedFd>,
    channel: Channel,
    /// Bytes still to be taken from what the program had written when it ended; `None` while it runs.
    left: Option<usize>,
}

/// What one turn of a [`Source`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Bytes went on their way; there may be more.
    Some,
    /// No bytes, no credit, or no room on the link.
    Nothing,
    /// The writers are gone.
    End,
    /// All that counts has been sent, yet somebody holds the other end.
    Held,
}

impl Source {
    /// The bytes of `fd` go to `channel`.
    pub(crate) fn new(fd: Rc<OwnedFd>, channel: Channel) -> Self {
        Self { fd, channel, left: None }
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Where the bytes go.
    pub(crate) fn channel(&self) -> Channel {
        self.channel
    }

    /// Can bytes be taken now? Only then is the descriptor to be polled.
    pub(crate) fn has_room(&self, id: SessionId, mux: &Mux) -> bool {
        mux.sendable(id, self.channel) > 0 && mux.output_len() < limits::OUTPUT_HIGH_WATER
    }

    /// The program has ended: from now on take only what it had written. A child of it that holds the stream open neither
    /// delays the end nor prolongs it by writing on.
    pub(crate) fn program_ended(&mut self) {
        let waiting = ioctl_fionread(&self.fd).unwrap_or_default();
        self.left = Some(usize::try_from(waiting).unwrap_or(usize::MAX).saturating_add(TERMINAL_BACKLOG));
    }

    /// Take what there is, once.
    pub(crate) fn pump(&mut self, id: SessionId, mux: &mut Mux, scratch: &mut [u8]) -> Pumped {
        if !self.has_room(id, mux) {
            return Pumped::Nothing;
        }
        let room = mux.sendable(id, self.channel).min(scratch.len()).min(self.left.unwrap_or(usize::MAX));
        if room == 0 {
            return Pumped::Held;
        }
        match read(&self.fd, &mut scratch[..room]) {
            Ok(0) => Pumped::End,
            Ok(count) => {
                mux.send(id, self.channel, &scratch[..count]);
                self.left = self.left.map(|left| left - count);
                Pumped::Some
            }
            Err(Errno::AGAIN) if self.left.is_some() => Pumped::Held,
            Err(Errno::AGAIN | Errno::INTR) => Pumped::Nothing,
            Err(_) => Pumped::End, // EIO: the terminal was hung up
        }
    }

    /// The descriptor, to be drained.
    pub(crate) fn into_fd(self) -> Rc<OwnedFd> {
        self.fd
    }
}

/// From the host to a program.
pub(crate) struct Sink {
    fd: Rc<OwnedFd>,
    terminal: bool,
    /// Bounded by the channel's credit.
    queue: VecDeque<u8>,
    /// Bytes of `queue` for which credit is to be granted once they are written.
    owed: usize,
    ending: bool,
}

/// What one turn of a [`Sink`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// It stays open.
    Open,
    /// Everything is written and the host has no more: close it.
    Finished,
    /// The program takes no more.
    Refused,
}

impl Sink {
    /// The host's bytes go to `fd`.
    pub(crate) fn new(fd: Rc<OwnedFd>, terminal: bool) -> Self {
        Self { fd, terminal, queue: VecDeque::new(), owed: 0, ending: false }
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Are bytes waiting for the program?
    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Bytes from the host.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
        self.owed += bytes.len();
    }

    /// The host has no more. A terminal cannot be closed from this side: it is sent its end-of-file character.
    pub(crate) fn end(&mut self) {
        if self.terminal {
            self.queue.extend(tcgetattr(&self.fd).map(|termios| termios.special_codes[SpecialCodeIndex::VEOF]));
        } else {
            self.ending = true;
        }
    }

    /// Write what the program takes now.
    pub(crate) fn flush(&mut self, id: SessionId, mux: &mut Mux) -> Flushed {
        while !self.queue.is_empty() {
            match write(&self.fd, self.queue.as_slices().0) {
                Ok(count) => {
                    self.queue.drain(..count);
                    let granted = count.min(self.owed);
                    self.owed -= granted;
                    mux.grant(id, Channel::Input, u32::try_from(granted).unwrap_or(u32::MAX));
                }
                Err(Errno::AGAIN | Errno::INTR) => return Flushed::Open,
                Err(_) => return Flushed::Refused,
            }
        }
        if self.ending { Flushed::Finished } else { Flushed::Open }
    }
}
