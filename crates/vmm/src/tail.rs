//! Reads what a machine says (its console, its VMM's errors) until it ends or changes hands: into a log if there is one, and
//! the last of it into memory for error messages.
//!
//! Invariant: the speaker never waits for us for long, and cannot make our memory grow beyond its bound. While nobody reads,
//! between two owners, what is said stays in the stream, whose own bound the speaker meets.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::{machine::ConsoleLog, process::wait_for};

/// What is kept in memory, in bytes.
const KEPT: usize = 16 * 1024;

/// The end of a stream that a thread of its own reads.
pub(crate) struct Tail {
    last: Arc<Mutex<VecDeque<u8>>>,
    /// An eventfd: has the thread stop where it is.
    stop: Arc<OwnedFd>,
    reader: Mutex<Option<JoinHandle<OwnedFd>>>,
}

impl Tail {
    /// Start reading. The thread ends with the stream, which must end with the process at its other side.
    pub(crate) fn of(name: &str, stream: impl Into<OwnedFd>, log: Option<ConsoleLog>) -> io::Result<Self> {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (shared, stopped) = (Arc::clone(&last), Arc::clone(&stop));
        let mut stream = File::from(stream.into());
        let read_all = move || {
            let mut buffer = [0; 4096];
            while may_read(&stream, &stopped) {
                let read = match stream.read(&mut buffer) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                };
                let bytes = &buffer[..read];
                keep(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), bytes);
                if let Some(log) = &log {
                    log.take(bytes);
                }
            }
            stream.into()
        };
        let reader = std::thread::Builder::new().name(name.to_owned()).spawn(read_all)?;
        Ok(Self { last, stop, reader: Mutex::new(Some(reader)) })
    }

    /// Stop reading, for somebody else to go on where this one stops.
    pub(crate) fn release(self) -> io::Result<OwnedFd> {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes())?;
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        reader.and_then(|reader| reader.join().ok()).ok_or_else(|| io::Error::other("the stream has ended"))
    }

    /// The end of all that was said; waits for the stream's end, so call it when the process is gone.
    pub(crate) fn finish(&self) -> String {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            // The thread cannot panic with anything of interest.
            let _ = reader.join();
        }
        text_of(&self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The end of what is in a stream that nobody reads; takes it out.
pub(crate) fn last_words(stream: &OwnedFd) -> String {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut last = VecDeque::new();
    let mut buffer = [0; 4096];
    while let Ok(1) = poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&NOW)) {
        match rustix::io::read(stream, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => keep(&mut last, &buffer[..read]),
        }
    }
    text_of(&last)
}

/// Wait for something to read; false when that is no longer wanted.
fn may_read(stream: &File, stopped: &OwnedFd) -> bool {
    let mut awaited = [PollFd::new(stream, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
    wait_for(&mut awaited).is_ok() && awaited[1].revents().is_empty()
}

fn keep(last: &mut VecDeque<u8>, bytes: &[u8]) {
    last.extend(bytes);
    let excess = last.len().saturating_sub(KEPT);
    last.drain(..excess);
}

fn text_of(last: &VecDeque<u8>) -> String {
    let (a, b) = last.as_slices();
    String::from_utf8_lossy(&[a, b].concat()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn counting() -> (ConsoleLog, Arc<Mutex<Vec<u8>>>) {
        let logged = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&logged);
        (ConsoleLog::new(move |bytes| log.lock().unwrap().extend_from_slice(bytes)), logged)
    }

    #[test]
    fn memory_is_bounded_and_the_log_gets_everything() {
        const NOISE: usize = 1_000_000;
        let (reader, mut writer) = io::pipe().unwrap();
        let (log, logged) = counting();
        let tail = Tail::of("test", reader, Some(log)).unwrap();
        writer.write_all(&vec![b'a'; NOISE]).unwrap();
        writer.write_all(b"the end").unwrap();
        drop(writer);
        let text = tail.finish();
        assert_eq!(text.len(), KEPT);
        assert!(text.ends_with("aathe end"));
        assert_eq!(logged.lock().unwrap().len(), NOISE + 7);
    }

    #[test]
    fn whoever_goes_on_reading_misses_nothing() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut stream = OwnedFd::from(reader);
        let (log, logged) = counting();
        for number in 0..100 {
            let tail = Tail::of("test", stream, Some(log.clone())).unwrap();
            writeln!(writer, "{number}").unwrap();
            stream = tail.release().unwrap();
        }
        drop(writer);
        Tail::of("test", stream, Some(log)).unwrap().finish();
        let expected: Vec<_> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(String::from_utf8_lossy(&logged.lock().unwrap()).trim_end(), expected.join("\n"));
    }

    #[test]
    fn last_words_are_what_is_there_now_and_no_more_than_is_kept() {
        let (reader, mut writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        assert_eq!(last_words(&reader), "");
        writer.write_all(&vec![b'a'; KEPT]).unwrap();
        writer.write_all(b"the end").unwrap();
        let words = last_words(&reader);
        assert!(words.len() == KEPT && words.ends_with("aathe end"));
        assert_eq!(last_words(&reader), "");
    }
}
