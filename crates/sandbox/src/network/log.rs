//! `network.jsonl`: what the guest did on the network, one JSON object a line, bounded like `vm.log`.
//!
//! Written by the supervisor only. What a line has is the gateway's [`Event`] and when it was over; `docs/network.md` shows it.
//!
//! ```text
//! gateway's tasks ─ sink ─ queue, bounded ─ a thread: network.jsonl, and refusals into vm.log
//! ```
//!
//! Invariants: the gateway never waits for a disk; what does not fit into the queue is counted, and the count stands in its place; when
//! the [`NetworkLog`] is dropped, all that was heard before is written.

use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use jiff::Timestamp;
use matchlock_model::printable_json;
use matchlock_net::gateway::Event;
use serde::Serialize;

use super::Refusals;
use crate::log::{BoundedFile, FULL, VmLog};

/// Events that wait for the disk. Further ones are lost, and counted.
const MAX_QUEUED: usize = 4096;

/// At the end, for what waits to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(10);

/// Such a log. Dropped, it ends: what is heard later is written nowhere.
#[derive(Debug)]
pub struct NetworkLog {
    queue: Arc<Mutex<Queue>>,
    /// Ends when the writer does.
    written: Receiver<()>,
}

/// Who hears of each event, and of the line about it if it has to be told to people. Called from the gateway's tasks: it must not
/// block.
#[derive(Clone)]
pub struct Listener(pub Arc<Hear>);

/// What a [`Listener`] does.
pub type Hear = dyn Fn(&Event, Option<&str>) + Send + Sync;

/// The way to the writer, until the log ends.
#[derive(Debug)]
struct Queue {
    entries: Option<SyncSender<Entry>>,
    /// Since the last entry.
    lost: u64,
}

#[derive(Debug)]
struct Entry {
    time: Timestamp,
    event: Event,
    /// What people are told of it.
    told: Option<String>,
    /// Events before this one that did not fit into the queue.
    lost: u64,
}

#[derive(Serialize)]
struct Line<T> {
    /// In UTC (RFC 3339), when it was over.
    time: String,
    #[serde(flatten)]
    what: T,
}

/// In the place of events.
#[derive(Serialize)]
struct Lost {
    event: &'static str,
    count: u64,
}

/// What has the files.
struct Writer {
    queue: Arc<Mutex<Queue>>,
    file: BoundedFile,
    console: VmLog,
}

impl NetworkLog {
    /// Begin the log at `path`. What was denied or blocked is told once in `console`, too.
    ///
    /// # Errors
    /// The file or the thread cannot be made.
    pub fn create(path: &Path, console: VmLog) -> io::Result<Self> {
        Self::with_bound(path, FULL, console)
    }

    fn with_bound(path: &Path, full: u64, console: VmLog) -> io::Result<Self> {
        // Every line is an object, so the second file begins with one, too.
        let file = BoundedFile::create(path, full, |_| String::new())?;
        let (sender, entries) = sync_channel(MAX_QUEUED);
        let queue = Arc::new(Mutex::new(Queue { entries: Some(sender), lost: 0 }));
        let writer = Writer { queue: Arc::clone(&queue), file, console };
        let (at_work, written) = sync_channel(0);
        let write = move || {
            // Dropped when all is written.
            let _at_work: SyncSender<()> = at_work;
            writer.write(&entries);
        };
        std::thread::Builder::new().name("network-log".into()).spawn(write)?;
        Ok(Self { queue, written })
    }

    /// What a gateway tells its events: they are written here, and `listener` hears of all of it.
    #[must_use]
    pub fn sink(&self, listener: Option<Listener>) -> Arc<dyn Fn(Event) + Send + Sync> {
        let refusals = Refusals::default();
        let queue = Arc::clone(&self.queue);
        Arc::new(move |event| {
            let told = refusals.line(&event);
            if let Some(Listener(listener)) = &listener {
                listener(&event, told.as_deref());
            }
            lock(&queue).add(event, told);
        })
    }
}

impl Drop for NetworkLog {
    fn drop(&mut self) {
        // The writer's queue ends with its only sender.
        lock(&self.queue).entries = None;
        if self.written.recv_timeout(FLUSH_DEADLINE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the log of the network is not complete: its disk takes nothing");
        }
    }
}

impl Queue {
    fn add(&mut self, event: Event, told: Option<String>) {
        let Some(entries) = &self.entries else { return };
        let entry = Entry { time: Timestamp::now(), event, told, lost: self.lost };
        match entries.try_send(entry) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost += 1,
        }
    }
}

impl Writer {
    fn write(mut self, entries: &Receiver<Entry>) {
        while let Ok(Entry { time, event, told, lost }) = entries.recv() {
            self.write_lost(time, lost);
            self.write_line(time, &event);
            if let Some(told) = told {
                self.console.append(format!("[matchlock] {told}\n").as_bytes());
            }
        }
        // Nobody adds any more.
        let lost = lock(&self.queue).lost;
        self.write_lost(Timestamp::now(), lost);
    }

    fn write_lost(&mut self, time: Timestamp, count: u64) {
        if count > 0 {
            self.write_line(time, Lost { event: "lost", count });
        }
    }

    fn write_line(&mut self, time: Timestamp, what: impl Serialize) {
        match serde_json::to_string(&Line { time: format!("{time:.3}"), what }) {
            Ok(line) => self.file.append((printable_json(&line) + "\n").as_bytes()),
            Err(error) => tracing::debug!("an event of the network is no JSON: {error}"),
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> std::sync::MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, sync::mpsc};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::{super::events::denied, *};

    fn console(home: &Path) -> VmLog {
        VmLog::create(&home.join("vm.log")).unwrap()
    }

    #[test]
    fn every_line_of_both_files_is_an_event() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("network.jsonl");
        let log = NetworkLog::with_bound(&path, 2000, console(home.path())).unwrap();
        let sink = log.sink(None);
        for number in 0..50 {
            sink(denied(&format!("host-{number}.x.com")));
        }
        drop(log);
        let read = |path| fs::read_to_string(path).unwrap();
        let (before, now) = (read(crate::log::previous(&path)), read(path));
        assert!(before.len() <= 2000 && now.len() <= 2000 && now.contains("host-49.x.com"));
        for line in before.lines().chain(now.lines()) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["time"].as_str().unwrap().parse::<Timestamp>().unwrap();
            assert_eq!(line["outcome"], "denied");
        }
    }

    #[test]
    fn a_disk_that_takes_nothing_is_not_waited_for_and_what_it_costs_is_counted() {
        const EVENTS: u64 = 2 * MAX_QUEUED as u64;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("network.jsonl");
        // A pipe takes some hundred lines until it is read.
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let pipe = path.clone();
        let disk = std::thread::spawn(move || {
            let mut file = fs::File::open(pipe).unwrap();
            wait.recv().unwrap();
            let mut written = String::new();
            file.read_to_string(&mut written).unwrap();
            written
        });
        let log = NetworkLog::create(&path, console(home.path())).unwrap();
        let sink = log.sink(None);
        for _ in 0..EVENTS {
            sink(denied("evil.com"));
        }
        go.send(()).unwrap();
        drop(log);
        sink(denied("late.com"));
        let written = disk.join().unwrap();
        let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (lost, events): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["event"] == "lost");
        let lost: Vec<u64> = lost.iter().map(|line| line["count"].as_u64().unwrap()).collect();
        assert!(!lost.is_empty());
        assert_eq!(lost.iter().sum::<u64>() + events.len() as u64, EVENTS);
        assert!(events.len() >= MAX_QUEUED && !written.contains("late.com"));
    }

    #[test]
    fn what_is_denied_is_told_once_and_heard_each_time() {
        let home = tempfile::tempdir().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&heard);
        let listener = Listener(Arc::new(move |event: &Event, line: Option<&str>| {
            listener.lock().unwrap().push((event.destination, line.is_some()));
        }));
        let log = NetworkLog::create(&home.path().join("network.jsonl"), console(home.path())).unwrap();
        let sink = log.sink(Some(listener));
        for _ in 0..3 {
            sink(denied("evil.com"));
        }
        drop(log);
        let told: Vec<_> = heard.lock().unwrap().iter().map(|(_, told)| *told).collect();
        assert_eq!(told, [true, false, false]);
        let console = fs::read_to_string(home.path().join("vm.log")).unwrap();
        let line = "[matchlock] denied evil.com: host not in allowlist (--allow-host evil.com would allow it)\n";
        assert_eq!(console, line);
    }
}
