//! Changes of a running sandbox's allow-list.

use thiserror::Error;

use super::{Mode, Policy, Target};

/// An open network has no allow-list, and does not get one while it runs: connections that it made stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the sandbox's network is open: it has no allow-list")]
pub struct NotIntercepting;

impl Policy {
    /// Add to the allow-list; the answer is what was not there yet.
    ///
    /// # Errors
    /// If the network is open.
    pub fn add(&mut self, targets: impl IntoIterator<Item = Target>) -> Result<Vec<Target>, NotIntercepting> {
        self.is_changeable()?;
        let mut added = Vec::new();
        for target in targets {
            if !self.allowed.contains(&target) {
                self.allowed.push(target.clone());
                added.push(target);
            }
        }
        Ok(added)
    }

    /// Take from the allow-list; the answer is what was there. A target means itself only: `x.com` leaves `*.x.com` and
    /// `x.com:22`. An emptied list allows nothing.
    ///
    /// # Errors
    /// If the network is open.
    pub fn delete(&mut self, targets: impl IntoIterator<Item = Target>) -> Result<Vec<Target>, NotIntercepting> {
        self.is_changeable()?;
        let mut deleted = Vec::new();
        for target in targets {
            let before = self.allowed.len();
            self.allowed.retain(|own| *own != target);
            if self.allowed.len() != before {
                deleted.push(target);
            }
        }
        Ok(deleted)
    }

    fn is_changeable(&self) -> Result<(), NotIntercepting> {
        if self.mode == Mode::Intercept { Ok(()) } else { Err(NotIntercepting) }
    }
}
