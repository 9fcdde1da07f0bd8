//! Reads what a machine says (its console, its VMM's errors) until it ends: into a log if there is one, and the last of it
//! into memory for error messages.
//!
//! Invariant: the speaker never waits for us for long, and cannot make our memory grow beyond its bound.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use crate::machine::ConsoleLog;

/// What is kept in memory, in bytes.
const KEPT: usize = 16 * 1024;

/// The end of a stream that a thread of its own reads.
pub(crate) struct Tail {
    last: Arc<Mutex<VecDeque<u8>>>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Tail {
    /// Start reading. The thread ends with the stream, which must end with the process at its other side.
    pub(crate) fn of(name: &str, mut stream: impl Read + Send + 'static, log: Option<ConsoleLog>) -> io::Result<Self> {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let shared = Arc::clone(&last);
        let read_all = move || {
            let mut buffer = [0; 4096];
            loop {
                let read = match stream.read(&mut buffer) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(0) | Err(_) => return,
                    Ok(read) => read,
                };
                let bytes = &buffer[..read];
                keep(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), bytes);
                if let Some(log) = &log {
                    log.take(bytes);
                }
            }
        };
        let reader = std::thread::Builder::new().name(name.to_owned()).spawn(read_all)?;
        Ok(Self { last, reader: Mutex::new(Some(reader)) })
    }

    /// The end of what was said so far.
    pub(crate) fn text(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (a, b) = last.as_slices();
        String::from_utf8_lossy(&[a, b].concat()).into_owned()
    }

    /// The end of all that was said; waits for the stream's end, so call it when the process is gone.
    pub(crate) fn finish(&self) -> String {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            // The thread cannot panic with anything of interest.
            let _ = reader.join();
        }
        self.text()
    }
}

fn keep(last: &mut VecDeque<u8>, bytes: &[u8]) {
    last.extend(bytes);
    let excess = last.len().saturating_sub(KEPT);
    last.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_log_gets_everything() {
        const NOISE: u64 = 1_000_000;
        let logged = Arc::new(Mutex::new(0));
        let count = Arc::clone(&logged);
        let log = ConsoleLog::new(move |bytes| *count.lock().unwrap() += bytes.len());
        let noise = io::repeat(b'a').take(NOISE).chain(&b"the end"[..]);
        let text = Tail::of("test", noise, Some(log)).unwrap().finish();
        assert_eq!(text.len(), KEPT);
        assert!(text.ends_with("aathe end"));
        assert_eq!(*logged.lock().unwrap() as u64, NOISE + 7);
    }
}
