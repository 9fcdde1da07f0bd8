//! The port to the host: bytes in and out, and whether a host is there at all.
//!
//! A virtio-serial port whose other end is closed answers every `poll` with `POLLHUP` and every `read` with nothing. So
//! while no host is there the port is watched edge-triggered, through an epoll descriptor of its own, which becomes
//! readable when the kernel is told that a host has come.
//!
//! The kernel keeps no count of hosts: one that leaves and is followed by another before the guest has looked once is taken
//! for the same. So whoever hands a guest over from one host to another lets it see the pause between them.

use std::os::fd::{AsFd, OwnedFd};

use matchlock_wire::{Mux, limits};
use rustix::{
    event::{
        PollFd, PollFlags,
        epoll::{self, EventData, EventFlags},
    },
    io::{Errno, read, write},
    time::Timespec,
};

/// The guest's end of the stream; works on any bidirectional, non-blocking descriptor.
pub(crate) struct Link {
    port: OwnedFd,
    arrival: OwnedFd,
    present: bool,
}

/// What a read of the port brought.
pub(crate) enum Received {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The host has closed its end.
    HostLeft,
}

impl Link {
    /// Watch `port` for a host.
    pub(crate) fn new(port: OwnedFd) -> Result<Self, Errno> {
        let arrival = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&arrival, &port, EventData::new_u64(0), edges)?;
        Ok(Self { port, arrival, present: false })
    }

    /// What to poll for.
    pub(crate) fn interest(&self, mux: &Mux) -> PollFd<'_> {
        if !self.present {
            return PollFd::new(&self.arrival, PollFlags::IN);
        }
        let output = if mux.output_len() > 0 { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::new(&self.port, PollFlags::IN | output)
    }

    /// Is no host there? Then [`Link::look_for_host`] is to be called when the descriptor of [`Link::interest`] is ready.
    pub(crate) fn is_alone(&self) -> bool {
        !self.present
    }

    /// Has a host come?
    pub(crate) fn look_for_host(&mut self) -> Result<bool, Errno> {
        let mut events = Vec::with_capacity(1);
        epoll::wait(&self.arrival, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()))?;
        self.present = events.iter().any(|event| !{ event.flags }.contains(EventFlags::HUP));
        Ok(self.present)
    }

    /// Read what has arrived.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Received, Errno> {
        match read(&self.port, buffer) {
            Ok(0) | Err(Errno::PIPE | Errno::CONNRESET) => {
                self.present = false;
                Ok(Received::HostLeft)
            }
            Ok(count) => Ok(Received::Bytes(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(other) => Err(other),
        }
    }

    /// Write as much of `mux`'s output as the port takes now.
    pub(crate) fn flush(&self, mux: &mut Mux) -> Result<(), Errno> {
        while self.present && mux.output_len() > 0 {
            let output = mux.output();
            match write(&self.port, &output[..output.len().min(limits::MAX_DATA)]) {
                Ok(count) => mux.written(count),
                // A host that left is noticed by the next read.
                Err(Errno::AGAIN | Errno::INTR | Errno::PIPE | Errno::CONNRESET) => break,
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// The port itself, to wait on at the very end.
    pub(crate) fn port(&self) -> impl AsFd {
        &self.port
    }
}
