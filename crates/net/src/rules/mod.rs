//! What a policy says about single requests: which of them a host gets, and what is changed in them and in the answers.
//!
//! [`Rules`] is a value, made from a policy file ([`PolicyFile`]) or from the rules of the protocol ([`rpc`]), and asked by
//! whoever reads HTTP, after [`crate::policy`] has allowed the host:
//!
//! ```text
//! request  ─ Rules::request ─┬ Blocked
//!                            └ Matched ─ limits
//! response ─ Matched::response ─┬ Refused
//!                               └ headers changed, BodyRewriter ─ feed… finish
//! ```
//!
//! Pure: no I/O, no clock. Invariants: every rule is asked about the request as the guest sent it; blocking goes before
//! everything, wherever in the list it stands; edits are made in the order of the list. A request that is let through goes out
//! in the spelling in which it was judged ([`path`]). What cannot be carried out, on a body that is compressed, say, is an
//! error, never a rule that is passed over.
//!
//! # Which requests a host gets
//!
//! A host without rules that allow gets every request that none blocks. With one or more (for this host and port), a request has
//! to fit one of them. What allows is read narrowly and what blocks or changes broadly, wherever servers differ: an allowed path
//! has to be meant in every reading that a server may have of it, an allowed method to be written so; a path is blocked if one
//! of its readings is, in upper or lower case.

mod edit;
mod explain;
mod file;
mod glob;
mod path;
mod query;
mod request;
mod response;
mod rewrite;
pub mod rpc;
mod rule;

use std::sync::Arc;

use self::rule::Rule;
pub use self::{
    edit::EditError,
    explain::{ExplainError, explain},
    file::{MAX_FILE, MAX_RULE_NAME, PolicyFile, PolicyFileError, Wrong},
    glob::{MAX_PATTERN, PathPattern, PathPatternError},
    path::{MAX_PATH, Unreadable},
    request::{Blocked, Matched},
    response::Refused,
    rewrite::{BodyRewriter, MAX_FIND, MAX_GROWN, TooLarge},
};
use crate::policy::Host;

/// Most rules of one sandbox.
pub const MAX_RULES: usize = 1024;

/// Rules in their order. The default is none; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Arc<Rule>>);

impl Rules {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a rule is about this host on this port by name. What is not looked into, TLS that is passed through or a protocol
    /// that is not HTTP, goes past the rules, so it must not be let through there: [`Guard::decide`](crate::guard::Guard::decide) sees
    /// to the latter.
    #[must_use]
    pub fn concern(&self, host: &Host, port: u16) -> bool {
        self.0.iter().any(|rule| rule.names(host, port))
    }

    /// These, and those after them.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}
