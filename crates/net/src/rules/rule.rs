//! One rule: which requests it is about, and what becomes of them.

use std::sync::Arc;

use super::{
    edit::{RequestEdits, ResponseEdits},
    glob::PathPattern,
    path::Reading,
};
use crate::policy::{Host, HostPattern, Target};

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    /// `None`: every host. None of them: it never fits.
    pub(super) hosts: Option<Vec<Target>>,
    /// `None`: every method.
    pub(super) methods: Option<Vec<String>>,
    /// `None`: every path.
    pub(super) paths: Option<Vec<PathPattern>>,
    pub(super) action: Action,
    /// Bytes of a request's body, at most.
    pub(super) max_request_bytes: Option<u64>,
    /// Bytes of a response's body, at most.
    pub(super) max_response_bytes: Option<u64>,
    pub(super) request: RequestEdits,
    pub(super) response: ResponseEdits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The request is one of those that the host gets; and is changed.
    Allow,
    /// It is refused.
    Block,
    /// It is changed, if it is let through.
    Mutate,
}

/// What a rule is asked about.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) host: &'a Host,
    pub(super) port: u16,
    /// The method, and those that the server is asked to take it for. At least one.
    pub(super) methods: Vec<&'a str>,
    /// All that the path may be to the server. At least one, unless no rule for the host is about paths.
    pub(super) paths: &'a [Reading],
}

impl Rule {
    /// Whether it is about this host and port.
    pub(super) fn concerns(&self, host: &Host, port: u16) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|target| target.has(host, port)))
    }

    /// Whether it is about requests to this host and port, and not just about all hosts.
    pub(super) fn names(&self, host: &Host, port: u16) -> bool {
        let by_name = |target: &Target| *target.hosts() != HostPattern::Any && target.has(host, port);
        self.looks_at_requests() && self.hosts.iter().flatten().any(by_name)
    }

    /// Whether it does more than to allow hosts.
    pub(super) fn looks_at_requests(&self) -> bool {
        self.action != Action::Allow || self.methods.is_some() || self.paths.is_some() || self.changes()
    }

    /// Whether it bounds or edits what goes through.
    pub(super) fn changes(&self) -> bool {
        let bounds = self.max_request_bytes.is_some() || self.max_response_bytes.is_some();
        bounds || !self.request.is_empty() || !self.response.is_empty()
    }

    /// Whether it is about this request: surely, if it allows, and else possibly.
    pub(super) fn fits(&self, asked: &Asked<'_>) -> bool {
        let surely = self.action == Action::Allow;
        let method = |method: &str, own: &String| if surely { own == method } else { own.eq_ignore_ascii_case(method) };
        self.concerns(asked.host, asked.port)
            && every_or_any(surely, &asked.methods, self.methods.as_deref(), |asked, own| method(asked, own))
            && every_or_any(surely, asked.paths, self.paths.as_deref(), |asked, own| own.matches(asked, !surely))
    }
}

/// Whether every one, or any, of the asked fits one of the rule's own; a rule without fits whatever is asked.
fn every_or_any<A, O>(every: bool, asked: &[A], own: Option<&[O]>, fits: impl Fn(&A, &O) -> bool) -> bool {
    let Some(own) = own else { return true };
    let one = |asked: &A| own.iter().any(|own| fits(asked, own));
    if every { !asked.is_empty() && asked.iter().all(one) } else { asked.iter().any(one) }
}
