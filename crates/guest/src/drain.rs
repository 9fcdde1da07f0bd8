//! Streams that outlive their session: a child that a program left behind may go on writing to its output. The bytes are
//! thrown away, so that it neither blocks nor dies of a closed pipe.

use std::{collections::VecDeque, os::fd::OwnedFd, rc::Rc};

use rustix::io::{Errno, read};

/// Streams drained at the same time; the oldest is closed for a newer one.
const MAX_DRAINS: usize = 64;

/// The streams that are read for nobody.
#[derive(Default)]
pub(crate) struct Drains(VecDeque<Rc<OwnedFd>>);

impl Drains {
    /// Drain one more.
    pub(crate) fn add(&mut self, fd: Rc<OwnedFd>) {
        if self.0.len() >= MAX_DRAINS {
            self.0.pop_front();
        }
        self.0.push_back(fd);
    }

    /// What to poll for reading.
    pub(crate) fn fds(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Read all of them once; the ended ones are closed.
    pub(crate) fn drain(&mut self, scratch: &mut [u8]) {
        self.0.retain(|fd| matches!(read(fd, &mut *scratch), Ok(1..) | Err(Errno::AGAIN | Errno::INTR)));
    }
}
