//! What was denied or blocked, for people: each once, and not many.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use matchlock_net::gateway::{End, Event, What};

use crate::exec::printable;

/// Refusals that are told of. Whoever wants to know of more reads the log.
pub const MAX_TOLD: usize = 20;

/// What was told already: destinations that were denied, and lines about what was blocked.
#[derive(Debug, Default)]
pub struct Refusals {
    told: Mutex<HashSet<String>>,
}

impl Refusals {
    /// The line about an event, if it is to be told.
    pub(crate) fn line(&self, event: &Event) -> Option<String> {
        let (which, line) = match &event.end {
            End::Denied(denied) => (denied.destination(), printable(&format!("denied {denied}"))),
            End::Blocked(why) => {
                let line = printable(&format!("blocked {}: {why}", destination(event)));
                (line.clone(), line)
            }
            End::Done | End::Failed(_) => return None,
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > MAX_TOLD || !told.insert(which) {
            return None;
        }
        Some(if told.len() > MAX_TOLD { "more was refused: see matchlock log --network".to_owned() } else { line })
    }
}

/// Whom it was for, as far as it has said so.
fn destination(event: &Event) -> String {
    let host = match &event.what {
        What::Request(request) => request.host.as_ref().map(ToString::to_string),
        _ => None,
    };
    let allowed = event.allowed.as_ref().and_then(|allowed| allowed.name.as_ref());
    host.or_else(|| allowed.map(ToString::to_string)).unwrap_or_else(|| match event.what {
        What::Echo => event.destination.get().ip().to_string(),
        _ => event.destination.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::events::{blocked, connection, denied, request},
        *,
    };

    #[test]
    fn a_guest_that_asks_for_everything_is_told_of_no_longer() {
        let refusals = Refusals::default();
        let lines: Vec<_> = (0..100).filter_map(|n| refusals.line(&denied(&format!("host-{n}.com")))).collect();
        assert_eq!(lines.len(), MAX_TOLD + 1);
        assert_eq!(lines[0], "denied host-0.com: host not in allowlist (--allow-host host-0.com would allow it)");
        assert_eq!(lines[MAX_TOLD], "more was refused: see matchlock log --network");
    }

    #[test]
    fn what_is_blocked_is_told_once_for_each_host_and_reason() {
        let without_tls = "secret placeholder sent without TLS (KEY)";
        let nameless =
            Event { end: End::Blocked("it is\n no \x1b[2JHTTP".to_owned()), ..connection(None, "192.0.2.1:80") };
        let named = Event { end: nameless.end.clone(), ..connection(Some("api.x.com"), "192.0.2.1:80") };
        let ping = Event { what: What::Echo, end: End::Blocked("no".to_owned()), ..connection(None, "192.0.2.1:0") };
        let events = [
            request("good.test", "192.0.2.1:80"),
            blocked("good.test", without_tls),
            blocked("good.test", without_tls),
            blocked("good.test", "rule \"read-only\""),
            blocked("api.x.com", without_tls),
            nameless,
            named,
            ping,
        ];
        let refusals = Refusals::default();
        let lines: Vec<_> = events.iter().filter_map(|event| refusals.line(event)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        blocked good.test: secret placeholder sent without TLS (KEY)
        blocked good.test: rule "read-only"
        blocked api.x.com: secret placeholder sent without TLS (KEY)
        blocked 192.0.2.1:80: it is no [2JHTTP
        blocked api.x.com: it is no [2JHTTP
        blocked 192.0.2.1: no
        "#);
    }

    #[test]
    fn a_guest_that_is_blocked_for_ever_new_reasons_is_told_of_no_longer() {
        let refusals = Refusals::default();
        let reason = |n| "x".repeat(9000) + &"y".repeat(n);
        assert!(refusals.line(&blocked("good.test", &reason(0))).unwrap().len() <= 1000);
        assert_eq!(refusals.line(&blocked("good.test", &reason(1))), None, "what is told of it is the same");
        let told = (0..100).filter_map(|n| refusals.line(&blocked("good.test", &format!("/{n}")))).count();
        assert_eq!(told, MAX_TOLD);
    }
}
