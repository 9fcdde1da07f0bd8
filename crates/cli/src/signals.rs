//! Signals that ask `matchlock` to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Takes `SIGINT`, `SIGTERM`, `SIGHUP` and `SIGQUIT` from the moment it is made.
#[derive(Debug)]
pub(crate) struct Signals {
    taken: [(u8, Signal); 4],
}

impl Signals {
    /// Take them.
    pub(crate) fn take() -> io::Result<Self> {
        let one = |number: u8, kind| Ok::<_, io::Error>((number, signal(kind)?));
        Ok(Self {
            taken: [
                one(2, SignalKind::interrupt())?,
                one(15, SignalKind::terminate())?,
                one(1, SignalKind::hangup())?,
                one(3, SignalKind::quit())?,
            ],
        })
    }

    /// The number of the next one from somebody at the keyboard who does not want to wait for an end in order. The
    /// others only ask for the end that is under way already.
    pub(crate) async fn impatience(&mut self) -> u8 {
        loop {
            if let number @ (2 | 3) = self.next().await {
                return number;
            }
        }
    }

    /// The number of the next one.
    pub(crate) async fn next(&mut self) -> u8 {
        let [a, b, c, d] = &mut self.taken;
        tokio::select! {
            _ = a.1.recv() => a.0,
            _ = b.1.recv() => b.0,
            _ = c.1.recv() => c.0,
            _ = d.1.recv() => d.0,
        }
    }
}
