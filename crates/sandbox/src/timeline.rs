//! Where the time of a start goes: what had been reached when.
//!
//! Kept for every start, because it costs nothing; shown where somebody asks.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use matchlock_wire::Milestone;

use crate::exec::printable;

/// A start's milestones.
#[derive(Debug)]
pub struct Timeline {
    began: Instant,
    asks_guest: bool,
    marks: Mutex<Vec<(String, Duration)>>,
}

impl Timeline {
    /// A timeline that begins at `began`. Whoever wants to see it also asks the guest, which is not for nothing.
    #[must_use]
    pub const fn new(began: Instant, asks_guest: bool) -> Self {
        Self { began, asks_guest, marks: Mutex::new(Vec::new()) }
    }

    /// `what` has been reached.
    pub fn mark(&self, what: &str) {
        self.put(what.to_owned(), self.began.elapsed());
    }

    pub(crate) const fn asks_guest(&self) -> bool {
        self.asks_guest
    }

    /// What the guest said, which has just arrived. Its clock is another; its last milestone is taken to be now.
    pub(crate) fn guest(&self, milestones: &[Milestone]) {
        let now = self.began.elapsed();
        let last = milestones.last().map_or(0, |milestone| milestone.after_us);
        for Milestone { what, after_us } in milestones {
            let before = Duration::from_micros(last.saturating_sub(*after_us).into());
            self.put(format!("  guest: {}", printable(what)), now.saturating_sub(before));
        }
    }

    fn put(&self, what: String, at: Duration) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push((what, at));
    }

    /// One line for each milestone: when it was reached, and how long after the one before, in milliseconds.
    #[must_use]
    pub fn table(&self) -> String {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = Duration::ZERO;
        marks.iter().fold(String::new(), |mut table, (what, at)| {
            let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
            // A String takes everything.
            let _ =
                writeln!(table, "{:9.1} ms {:+9.1}  {what}", milliseconds(*at), milliseconds(at.saturating_sub(last)));
            last = *at;
            table
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_are_listed_in_order_with_their_distances() {
        let timeline = Timeline::new(Instant::now(), false);
        *timeline.marks.lock().unwrap() = vec![
            ("image found".to_owned(), Duration::from_micros(1_260)),
            ("guest ready".to_owned(), Duration::from_millis(200)),
            ("command ended".to_owned(), Duration::from_millis(1_234)),
        ];
        insta::assert_snapshot!(timeline.table(), @r"
              1.3 ms      +1.3  image found
            200.0 ms    +198.7  guest ready
           1234.0 ms   +1034.0  command ended
        ");
    }
}
