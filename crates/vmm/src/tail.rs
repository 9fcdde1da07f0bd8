//! Reads what a machine says (its console, its VMM's errors) until it ends: into a log if there is one, and the last of it
//! into memory for error messages.
//!
//! Invariant: the speaker never waits for us, and can make neither memory nor log grow beyond their bounds.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

/// What is kept in memory, in bytes.
const KEPT: usize = 16 * 1024;

/// What one start of a machine may append to its log, in bytes.
pub const MAX_CONSOLE_LOG: u64 = 8 * 1024 * 1024;

/// Stands in a log where it was cut off.
const CUT: &[u8] = b"\n[the rest of the console's output is not logged]\n";

/// The end of a stream that a thread of its own reads.
pub(crate) struct Tail {
    last: Arc<Mutex<VecDeque<u8>>>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Tail {
    /// Start reading. The thread ends with the stream, which must end with the process at its other side.
    pub(crate) fn of(name: &str, mut stream: impl Read + Send + 'static, mut log: Option<File>) -> io::Result<Self> {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let shared = Arc::clone(&last);
        let read_all = move || {
            let mut buffer = [0; 4096];
            let mut room = MAX_CONSOLE_LOG;
            loop {
                let read = match stream.read(&mut buffer) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(0) | Err(_) => return,
                    Ok(read) => read,
                };
                let bytes = &buffer[..read];
                keep(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), bytes);
                if let Some(file) = &mut log {
                    room = room.saturating_sub(read as u64);
                    let written = file.write_all(if room > 0 { bytes } else { CUT });
                    if room == 0 || written.is_err() {
                        log = None; // a full disk must not stop the machine
                    }
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
    fn memory_and_log_are_bounded() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let noise = io::repeat(b'a').take(MAX_CONSOLE_LOG + 100_000).chain(&b"the end"[..]);
        let tail = Tail::of("test", noise, Some(log.reopen().unwrap())).unwrap();
        let text = tail.finish();
        assert_eq!(text.len(), KEPT);
        assert!(text.ends_with("aathe end"));
        let logged = std::fs::read(log.path()).unwrap();
        assert!(logged.len() as u64 <= MAX_CONSOLE_LOG + CUT.len() as u64);
        assert!(logged.ends_with(CUT));
    }
}
