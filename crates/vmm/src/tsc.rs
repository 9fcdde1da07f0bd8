//! The rate of this host's time-stamp counter, for guests that run under emulation.
//!
//! An emulated guest sees the host's counter. Left alone its kernel measures the rate against an emulated timer, which
//! fails now and then for want of timely interrupts, and the kernel then hangs for ever. So it is told the rate instead.
//! The guest's clock is this number: it is measured against `CLOCK_MONOTONIC_RAW` (`/proc/cpuinfo` shows the current
//! core clock on many hosts, which is another thing), and remembered until the host boots again.

#![expect(unsafe_code, reason = "the counter is read by an instruction")]

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{accel, cache};

/// Distance of the two samples. A sample is known to some 50 ns, so the rate to about one part in a million.
const BASELINE: Duration = Duration::from_millis(60);

/// Attempts at a sample; the one that took the least time is kept.
const TRIES: usize = 32;

/// Rates that a real counter can have, in kHz; anything else is a broken measurement.
const PLAUSIBLE: std::ops::RangeInclusive<u64> = 100_000..=20_000_000;

/// A guest's clock may be off by one part in so many: 200 in a million, four times what a quartz may be.
const MAX_DRIFT: u64 = 5_000;

#[derive(Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    khz: u64,
}

/// The counter's rate in kHz, or `None` where it is not the same in every state and on every core of the processor.
///
/// `cache_dir` is the folder that remembers it. The first call after the host's boot blocks for about 60 ms.
pub(crate) fn khz(cache_dir: &Path) -> Option<u64> {
    let flags = accel::cpu_flags(Path::new("/proc/cpuinfo")).ok()?;
    if !["constant_tsc", "nonstop_tsc"].iter().all(|wanted| flags.iter().any(|flag| flag == wanted)) {
        return None;
    }
    let boot_id = boot_id().ok()?;
    let path = cache_dir.join("tsc.json");
    let remembered = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = remembered.filter(|known| known.boot_id == boot_id && PLAUSIBLE.contains(&known.khz)) {
        return Some(known.khz);
    }
    let khz = measure().filter(|khz| PLAUSIBLE.contains(khz))?;
    if let Err(e) = remember(cache_dir, &Remembered { boot_id, khz }) {
        tracing::debug!("cannot remember the counter's rate: {e}");
    }
    Some(khz)
}

/// Can a guest that was told the one rate go on where the other one holds? Measuring twice gives results that differ by
/// some parts in a million; another processor's is another number.
pub(crate) fn same_rate(told: Option<u64>, now: Option<u64>) -> bool {
    match (told, now) {
        (None, None) => true,
        (Some(told), Some(now)) => told.abs_diff(now) * MAX_DRIFT <= told,
        _ => false,
    }
}

/// This boot of the host (random(4)).
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn remember(cache_dir: &Path, value: &Remembered) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    cache::Folder::lock(cache_dir)?.publish("tsc.json", |file| io::Write::write_all(file, &text)).map(drop)
}

#[derive(Clone, Copy)]
struct Sample {
    ticks: u64,
    nanos: u64,
}

fn measure() -> Option<u64> {
    let first = sample();
    let since = Instant::now();
    while since.elapsed() < BASELINE {
        rest(BASELINE.saturating_sub(since.elapsed()));
    }
    let last = sample();
    let ticks = u128::from(last.ticks.checked_sub(first.ticks)?);
    let nanos = u128::from(last.nanos.checked_sub(first.nanos)?);
    u64::try_from((ticks * 1_000_000 + nanos / 2) / nanos.max(1)).ok()
}

#[expect(clippy::disallowed_methods, reason = "waits for no event: the passing of time is what is measured")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// Counter and clock at the same instant, as nearly as can be.
fn sample() -> Sample {
    let one = || {
        let before = ticks();
        let now = clock_gettime(ClockId::MonotonicRaw);
        let after = ticks();
        let nanos = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
        (after.wrapping_sub(before), Sample { ticks: before + after.wrapping_sub(before) / 2, nanos })
    };
    let first = one();
    (0..TRIES).map(|_| one()).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
}

fn ticks() -> u64 {
    // SAFETY: reading the counter has no effect on memory; every x86-64 processor has the instruction, and Linux leaves
    // it open to user space.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts to measure undisturbed, on a host whose processor others use as well.
    const ATTEMPTS: usize = 20;

    #[test]
    fn two_measurements_give_rates_that_a_guest_takes_for_the_same() {
        let agree = || same_rate(measure(), measure());
        assert!((0..ATTEMPTS).any(|_| agree()), "{:?} kHz, then {:?} kHz", measure(), measure());
        let khz = measure().unwrap();
        assert!(!same_rate(Some(khz), Some(khz + khz / 1_000)));
    }

    #[test]
    fn the_rate_is_remembered_for_this_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let Some(khz) = khz(dir.path()) else { return }; // this processor's counter is not invariant
        let path = dir.path().join("tsc.json");
        let mut known: Remembered = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(known.khz, khz);
        known.khz = khz + 1;
        fs::write(&path, serde_json::to_vec(&known).unwrap()).unwrap();
        assert_eq!(super::khz(dir.path()), Some(khz + 1), "read back, not measured");
        known.boot_id = "another".into();
        known.khz = 1_000_000_000;
        fs::write(&path, serde_json::to_vec(&known).unwrap()).unwrap();
        assert!(super::khz(dir.path()).unwrap() < known.khz, "measured, not read back");
    }
}
