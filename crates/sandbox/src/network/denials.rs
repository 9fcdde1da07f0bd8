//! What was denied, for people: each destination once, and not many.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use matchlock_net::gateway::{End, Event};

use crate::exec::printable;

/// Destinations that are told of. Whoever wants to know of more reads the log.
pub const MAX_TOLD: usize = 20;

/// What was told already.
#[derive(Debug, Default)]
pub struct Denials {
    told: Mutex<HashSet<String>>,
}

impl Denials {
    /// The line about an event, if it is to be told.
    pub(crate) fn line(&self, event: &Event) -> Option<String> {
        let End::Denied(denied) = &event.end else { return None };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > MAX_TOLD || !told.insert(denied.destination()) {
            return None;
        }
        Some(if told.len() > MAX_TOLD {
            "more was denied: see matchlock log --network".to_owned()
        } else {
            printable(&format!("denied {denied}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::events::denied, *};

    #[test]
    fn a_guest_that_asks_for_everything_is_told_of_no_longer() {
        let denials = Denials::default();
        let lines: Vec<_> = (0..100).filter_map(|n| denials.line(&denied(&format!("host-{n}.com")))).collect();
        assert_eq!(lines.len(), MAX_TOLD + 1);
        assert_eq!(lines[0], "denied host-0.com: host not in allowlist (--allow-host host-0.com would allow it)");
        assert_eq!(lines[MAX_TOLD], "more was denied: see matchlock log --network");
    }
}
