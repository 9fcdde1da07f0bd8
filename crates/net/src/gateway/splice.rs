//! Bytes from one socket to another without a copy of them here: splice(2), through a pipe of the thread's.
//!
//! Invariant: the pipe is empty whenever it is put away, so that nothing of a connection gets into another. One that is not, after an
//! error, is closed.

use std::{cell::Cell, io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

use super::copy::Passed;

/// At once, and what the pipe has room for. Where the user has too many pipes already, it has less.
const LENGTH: usize = 256 * 1024;

struct Pipe {
    from: OwnedFd,
    to: OwnedFd,
}

thread_local! {
    static PIPE: Cell<Option<Pipe>> = const { Cell::new(None) };
}

/// Take what is there and give as much of it as is taken. Neither end's readiness is forgotten: who finds nothing to do has to
/// read or write in the usual way before waiting.
pub(super) fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<Passed> {
    // No descriptor to spare: it can be read.
    let pipe = PIPE.take().map_or_else(Pipe::new, Ok).map_err(|_| Errno::WOULDBLOCK)?;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let count = splice(from, None, &pipe.to, None, LENGTH, flags)?;
    if count == 0 {
        PIPE.set(Some(pipe));
        // The end, or what is next to urgent data and has the end behind it: reading tells.
        return Err(Errno::WOULDBLOCK.into());
    }
    let mut left = count;
    while left > 0 {
        match splice(&pipe.from, None, to, None, left, flags) {
            Ok(0) | Err(Errno::WOULDBLOCK) => break,
            taken => left -= taken?,
        }
    }
    let left_over = pipe.read(left)?;
    PIPE.set(Some(pipe));
    Ok(Passed::Bytes { count, left_over })
}

/// Wait until a third of what it can have waiting is free: what is taken without that is left over. That it could be written to when
/// it was last asked says nothing about that.
pub(super) async fn has_room(to: &TcpStream) -> io::Result<()> {
    let look = || {
        let ready = poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&Timespec::default()))?;
        if ready == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    };
    to.async_io(Interest::WRITABLE, look).await
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&to, LENGTH);
        Ok(Self { from, to })
    }

    /// The bytes that are in it.
    fn read(&self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match rustix::io::read(&self.from, &mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(bytes)
    }
}
