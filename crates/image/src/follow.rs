//! Reading a file while it is being downloaded: the converter unpacks what has arrived and waits for the rest.
//!
//! The downloading task holds a [`Growth`], the converter's thread a [`Follower`]. Invariant: a follower sees the end
//! of the file only after the download was verified; a download that is given up, or whose task vanishes, is an error
//! to every follower, so none waits for ever.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// The writing side.
#[derive(Debug)]
pub(crate) struct Growth {
    shared: Arc<Shared>,
}

/// The reading side.
#[derive(Debug)]
pub(crate) struct Follower {
    shared: Arc<Shared>,
    position: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    available: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Verified,
    GivenUp,
}

impl Growth {
    /// A file that does not exist yet.
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// Another reader, from the first byte on.
    pub(crate) fn follow(&self) -> Follower {
        Follower { shared: Arc::clone(&self.shared), position: 0 }
    }

    /// The file is there, and `available` bytes of it.
    pub(crate) fn start(&self, file: File, available: u64) {
        self.change(|state| {
            state.file = Some(Arc::new(file));
            state.available = available;
        });
    }

    /// There are now `available` bytes, which will not change any more.
    pub(crate) fn advance(&self, available: u64) {
        self.change(|state| state.available = available);
    }

    /// All bytes are there and were verified.
    pub(crate) fn complete(self) {
        self.change(|state| state.end = Some(End::Verified));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.change(|state| {
            state.end.get_or_insert(End::GivenUp);
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file and how much of it can be read at `position`; nothing at its end.
    fn readable(&self, position: u64) -> io::Result<Option<(Arc<File>, u64)>> {
        // No deadline of its own: the download has one for silence on the wire, and its end of any kind wakes us.
        let waiting = |state: &mut State| state.end.is_none() && state.available <= position;
        let state = self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        match (&state.file, state.end) {
            (Some(file), _) if state.available > position => Ok(Some((Arc::clone(file), state.available - position))),
            (_, Some(End::Verified)) => Ok(None),
            _ => Err(io::Error::other("the download was given up")),
        }
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((file, readable)) = self.shared.readable(self.position)? else { return Ok(0) };
        let length = usize::try_from(readable).unwrap_or(usize::MAX).min(buffer.len());
        let read = file.read_at(&mut buffer[..length], self.position)?;
        if read == 0 && length > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the layer file was truncated"));
        }
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_reads_what_arrives_and_learns_how_it_ended() {
        for verified in [true, false] {
            let growth = Growth::new();
            let threads = [growth.follow(), growth.follow()].map(|mut reader| {
                std::thread::spawn(move || {
                    let mut text = String::new();
                    (reader.read_to_string(&mut text).is_ok(), text)
                })
            });
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(b"one ", 0).unwrap();
            growth.start(file.try_clone().unwrap(), 4);
            file.write_all_at(b"two", 4).unwrap();
            growth.advance(7);
            if verified {
                growth.complete();
            } else {
                drop(growth);
            }
            for thread in threads {
                assert_eq!(thread.join().unwrap(), (verified, "one two".to_owned()));
            }
        }
    }
}
