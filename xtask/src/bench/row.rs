//! A line of the report: what was measured, what it was to be, and what it is.

use std::{
    fmt::{Display, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use matchlock_sandbox::bench::Samples;

/// One line.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) goal: String,
    pub(super) measured: String,
}

impl Row {
    /// A figure that matters, the details behind it, and whether it is as it was to be.
    pub(super) fn new(what: impl Into<String>, goal: &str, figure: impl Display, details: &str, met: bool) -> Self {
        let mut measured = format!("**{figure}**");
        if !details.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(measured, " ({details})");
        }
        if !met {
            measured.push_str("; **this misses the goal**");
        }
        Self { what: what.into(), goal: goal.to_owned(), measured }
    }

    /// A ratio that is to be at most `most`.
    pub(super) fn at_most(what: impl Into<String>, most: f64, ratio: f64, details: &str) -> Self {
        Self::new(what, &format!("≤ {most}×"), format_args!("{ratio:.2}×"), details, ratio <= most)
    }

    /// A ratio that is to be at least `least`.
    pub(super) fn at_least(what: impl Into<String>, least: f64, ratio: f64, details: &str) -> Self {
        Self::new(what, &format!("≥ {least}×"), format_args!("{ratio:.2}×"), details, ratio >= least)
    }

    /// What could not be measured.
    pub(super) fn absent(what: impl Into<String>, goal: &str, why: &str) -> Self {
        Self { what: what.into(), goal: goal.to_owned(), measured: format!("not measured: {why}") }
    }
}

/// Samples of times, of which there are some.
pub(super) fn samples(times: Vec<Duration>) -> Result<Samples<Duration>> {
    Samples::new(times).context("no samples")
}

/// One percentile against the same of another measure.
pub(super) fn ratio(percent: usize, of: &Samples<Duration>, to: &Samples<Duration>) -> f64 {
    of.percentile(percent).as_secs_f64() / to.percentile(percent).as_secs_f64()
}

/// `p50 … ms, p90 … ms, p99 … ms`.
pub(super) fn shown(samples: &Samples<Duration>) -> String {
    let one = |percent| format!("p{percent} {} ms", samples.percentile(percent).as_millis());
    [50, 90, 99].map(one).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_said_in_words() {
        assert_eq!(Row::at_most("start", 1.3, 1.3, "10 runs").measured, "**1.30×** (10 runs)");
        assert_eq!(Row::at_most("start", 1.3, 1.31, "").measured, "**1.31×**; **this misses the goal**");
        assert_eq!(Row::at_least("requests", 0.7, 0.7, "").measured, "**0.70×**");
        assert_eq!(Row::at_least("requests", 0.7, 0.69, "").measured, "**0.69×**; **this misses the goal**");
    }
}
