//! The secrets of a running sandbox, which can be exchanged.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Secrets, Value};

/// The secrets as they are now. Clones share them.
#[derive(Clone, Default)]
pub struct Current(Arc<Mutex<Arc<Secrets>>>);

impl Current {
    /// With these to begin with.
    #[must_use]
    pub fn new(secrets: Secrets) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(secrets))))
    }

    /// Those of this moment.
    #[must_use]
    pub fn get(&self) -> Arc<Secrets> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Give one of them another value, from the next request on; false if there is none of this name.
    #[must_use]
    pub fn rotate(&self, name: &str, value: Value) -> bool {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rotated = current.rotated(name, value);
        rotated.map(|secrets| *current = Arc::new(secrets)).is_some()
    }
}
