//! `network.jsonl`: what the guest did on the network, one JSON object a line, bounded like `vm.log`.
//!
//! Written by the supervisor only. What a line has is the gateway's [`Event`] and when it was over; `docs/network.md` shows it.

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use matchlock_model::printable_json;
use matchlock_net::gateway::Event;
use serde::Serialize;

use super::Denials;
use crate::log::{BoundedFile, FULL, VmLog};

/// Such a log. Clones write to the same.
#[derive(Clone, Debug)]
pub struct NetworkLog {
    file: Arc<Mutex<BoundedFile>>,
}

/// Who hears of each event, and of the line about it if it has to be told to people. Called from the gateway's tasks: it must not
/// block.
#[derive(Clone)]
pub struct Listener(pub Arc<Hear>);

/// What a [`Listener`] does.
pub type Hear = dyn Fn(&Event, Option<&str>) + Send + Sync;

#[derive(Serialize)]
struct Line<'a> {
    /// In UTC (RFC 3339), when it was over.
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

impl NetworkLog {
    /// Begin the log at `path`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::with_bound(path, FULL)
    }

    fn with_bound(path: &Path, full: u64) -> io::Result<Self> {
        // Every line is an object, so the second file begins with one, too.
        let file = BoundedFile::create(path, full, |_| String::new())?;
        Ok(Self { file: Arc::new(Mutex::new(file)) })
    }

    /// Append a line.
    pub fn append(&self, event: &Event) {
        let line = Line { time: format!("{:.3}", Timestamp::now()), event };
        match serde_json::to_string(&line) {
            Ok(line) => {
                let line = printable_json(&line) + "\n";
                self.file.lock().unwrap_or_else(PoisonError::into_inner).append(line.as_bytes());
            }
            Err(error) => tracing::debug!("an event of the network is no JSON: {error}"),
        }
    }

    /// What a gateway tells its events: they are written here, what was denied is told once in `console`, and `listener` hears of
    /// all of it.
    #[must_use]
    pub fn sink(self, console: VmLog, listener: Option<Listener>) -> Arc<dyn Fn(Event) + Send + Sync> {
        let denials = Denials::default();
        Arc::new(move |event| {
            self.append(&event);
            let line = denials.line(&event);
            if let Some(line) = &line {
                console.append(format!("[matchlock] {line}\n").as_bytes());
            }
            if let Some(Listener(listener)) = &listener {
                listener(&event, line.as_deref());
            }
        })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::events::denied, *};

    #[test]
    fn every_line_of_both_files_is_an_event() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("network.jsonl");
        let log = NetworkLog::with_bound(&path, 2000).unwrap();
        for number in 0..50 {
            log.append(&denied(&format!("host-{number}.x.com")));
        }
        let read = |path| std::fs::read_to_string(path).unwrap();
        let (before, now) = (read(crate::log::previous(&path)), read(path));
        assert!(before.len() <= 2000 && now.len() <= 2000 && now.contains("host-49.x.com"));
        for line in before.lines().chain(now.lines()) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["time"].as_str().unwrap().parse::<Timestamp>().unwrap();
            assert_eq!(line["outcome"], "denied");
        }
    }

    #[test]
    fn what_is_denied_is_told_once_and_heard_each_time() {
        let home = tempfile::tempdir().unwrap();
        let console = VmLog::create(&home.path().join("vm.log")).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&heard);
        let listener = Listener(Arc::new(move |event: &Event, line: Option<&str>| {
            listener.lock().unwrap().push((event.destination, line.is_some()));
        }));
        let log = NetworkLog::create(&home.path().join("network.jsonl")).unwrap();
        let sink = log.sink(console, Some(listener));
        for _ in 0..3 {
            sink(denied("evil.com"));
        }
        let told: Vec<_> = heard.lock().unwrap().iter().map(|(_, told)| *told).collect();
        assert_eq!(told, [true, false, false]);
        let console = std::fs::read_to_string(home.path().join("vm.log")).unwrap();
        let line = "[matchlock] denied evil.com: host not in allowlist (--allow-host evil.com would allow it)\n";
        assert_eq!(console, line);
    }
}
