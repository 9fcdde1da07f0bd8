//! Durations such as `500ms`, `5s` and `1m30s`.

use std::time::Duration;

use jiff::SignedDuration;

/// The longest time that a clean end may take.
const MAX: Duration = Duration::from_hours(1);

/// A duration with units; zero needs none.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let bad = || "use a duration such as 500ms, 5s or 1m30s, at most 1h".to_owned();
    let duration: SignedDuration = text.parse().map_err(|_| bad())?;
    Duration::try_from(duration).ok().filter(|duration| *duration <= MAX).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_and_time_runs_forward() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "-5s", "2h", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
