//! The phases of a sandbox's life and which may follow which.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where a sandbox is in its life. The names are those of the `vm_lifecycle.phase` column, all of them: `stopped` and
/// `stop_failed` are entered by no verb, but belong to what readers of that column know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; their order is the story in `may_become`")]
pub enum Phase {
    Creating,
    Created,
    CreateFailed,
    Starting,
    StartFailed,
    Running,
    Stopping,
    StopFailed,
    Stopped,
    Cleaning,
    CleanupFailed,
    Cleaned,
}

/// A step that the life of a sandbox does not have, or a word that is no phase.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PhaseError {
    #[error("invalid lifecycle phase transition \"{from}\" -> \"{to}\"")]
    Transition { from: Phase, to: Phase },
    #[error("unknown lifecycle phase {0:?}")]
    Unknown(String),
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 12] = [
        Self::Creating,
        Self::Created,
        Self::CreateFailed,
        Self::Starting,
        Self::StartFailed,
        Self::Running,
        Self::Stopping,
        Self::StopFailed,
        Self::Stopped,
        Self::Cleaning,
        Self::CleanupFailed,
        Self::Cleaned,
    ];

    /// The phase's name in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::CreateFailed => "create_failed",
            Self::Starting => "starting",
            Self::StartFailed => "start_failed",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::StopFailed => "stop_failed",
            Self::Stopped => "stopped",
            Self::Cleaning => "cleaning",
            Self::CleanupFailed => "cleanup_failed",
            Self::Cleaned => "cleaned",
        }
    }

    /// May a sandbox in this phase enter `next`? Staying is always allowed.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use Phase::{
            Cleaned, Cleaning, CleanupFailed, CreateFailed, Created, Creating, Running, StartFailed, Starting,
            StopFailed, Stopped, Stopping,
        };
        matches!(
            (self, next),
            (Creating, Creating | Created | CreateFailed | Cleaning)
                | (Created, Created | Starting | Stopping | Cleaning)
                | (Starting, Starting | Running | StartFailed | Stopping | Cleaning)
                | (Running, Running | Stopping | Cleaning)
                | (Stopping, Stopping | Stopped | StopFailed | Cleaning)
                | (Stopped, Stopped | Cleaning | Cleaned)
                | (CreateFailed, CreateFailed | Cleaning | CleanupFailed)
                | (StartFailed, StartFailed | Stopping | Cleaning | CleanupFailed)
                | (StopFailed, StopFailed | Cleaning | CleanupFailed)
                | (Cleaning | CleanupFailed, Cleaning | Cleaned | CleanupFailed)
                | (Cleaned, Cleaned)
        )
    }

    /// Enter `next`.
    ///
    /// # Errors
    /// [`PhaseError::Transition`] if the life of a sandbox has no such step.
    pub const fn enter(self, next: Self) -> Result<Self, PhaseError> {
        if self.may_become(next) { Ok(next) } else { Err(PhaseError::Transition { from: self, to: next }) }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Phase {
    type Err = PhaseError;

    fn from_str(text: &str) -> Result<Self, PhaseError> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| PhaseError::Unknown(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_can_reach_cleaned_and_cleaned_is_final() {
        for start in Phase::ALL {
            let mut reached = vec![start];
            let mut next = 0;
            while next < reached.len() {
                let here = reached[next];
                reached.extend(
                    Phase::ALL.into_iter().filter(|p| here.may_become(*p) && !reached.contains(p)).collect::<Vec<_>>(),
                );
                next += 1;
            }
            assert!(reached.contains(&Phase::Cleaned), "{start}");
            assert!(start != Phase::Cleaned || reached.len() == 1);
        }
    }

    #[test]
    fn a_refused_step_names_both_phases() {
        let error = Phase::Running.enter(Phase::Created).unwrap_err();
        assert_eq!(error.to_string(), r#"invalid lifecycle phase transition "running" -> "created""#);
    }
}
