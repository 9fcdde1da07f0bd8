//! What was done when, for a host that wants to know.

use std::time::Instant;

use matchlock_wire::Milestone;

/// Times the steps of one request.
pub(crate) struct Stopwatch {
    began: Instant,
    milestones: Vec<Milestone>,
}

impl Stopwatch {
    /// Begins now.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), milestones: Vec::new() }
    }

    /// `what` is done.
    pub(crate) fn mark(&mut self, what: &str) {
        let after_us = u32::try_from(self.began.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.milestones.push(Milestone { what: what.to_owned(), after_us });
    }

    /// Everything that was marked, in order.
    pub(crate) fn milestones(self) -> Vec<Milestone> {
        self.milestones
    }
}
