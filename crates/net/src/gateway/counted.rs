//! Bytes of one of the guest's connections, counted by whoever carries them.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use super::Moved;

/// Bytes that have passed a guest's socket, TLS included. A gateway that is ended waits until nobody has one of its own any more: so
/// whoever still has something to tell of a connection keeps its.
#[derive(Debug, Default)]
pub struct Counted {
    from_guest: AtomicU64,
    to_guest: AtomicU64,
    _alive: Option<mpsc::Sender<Infallible>>,
}

impl Counted {
    pub(super) fn new(alive: mpsc::Sender<Infallible>) -> Self {
        Self { _alive: Some(alive), ..Self::default() }
    }

    /// So many more.
    pub fn add(&self, moved: Moved) {
        self.from_guest.fetch_add(moved.from_guest, Relaxed);
        self.to_guest.fetch_add(moved.to_guest, Relaxed);
    }

    /// So far.
    #[must_use]
    pub fn moved(&self) -> Moved {
        Moved { from_guest: self.from_guest.load(Relaxed), to_guest: self.to_guest.load(Relaxed) }
    }
}
