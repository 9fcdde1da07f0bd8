//! What can be wrong with a policy file, and where.

use std::ops::Range;

use thiserror::Error;
use toml::Spanned;

use super::MAX_FILE;
use crate::{
    policy::{PatternError, TargetError},
    rules::{EditError, MAX_RULES, PathPatternError},
};

/// A policy file that is none: `FILE:LINE: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}:{line}: {wrong}")]
pub struct PolicyFileError {
    /// As it was called.
    pub file: String,
    /// The first is 1.
    pub line: usize,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Wrong {
    /// Over [`MAX_FILE`].
    #[error("a policy file has at most {MAX_FILE} bytes")]
    TooLong,
    /// It is not TOML, or has other keys or kinds of values.
    #[error("{0}")]
    Toml(String),
    /// A target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A pattern of names.
    #[error("{text:?}: {why}")]
    Pattern {
        /// As written.
        text: String,
        /// Why.
        why: PatternError,
    },
    /// `tls_passthrough` with addresses.
    #[error(
        "{0:?}: TLS is passed through by name; connections to an address that is allowed are not looked into anyway"
    )]
    PassthroughAddress(String),
    /// A name whose requests rules are about.
    #[error("{host}: rule {rule:?} goes by its requests, which cannot be seen in TLS that is passed through")]
    PassthroughRule {
        /// The pattern.
        host: String,
        /// The rule's name.
        rule: String,
    },
    /// A method.
    #[error("{0:?} is no method; methods are written as in requests (GET, POST)")]
    Method(String),
    /// A pattern of paths.
    #[error("{text:?}: {why}")]
    Path {
        /// As written.
        text: String,
        /// Why.
        why: PathPatternError,
    },
    /// A change.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A list with nothing in it.
    #[error("`{0}` is empty, so the rule never fits; without it the rule fits every one")]
    Empty(&'static str),
    /// No `action`.
    #[error("a rule needs an `action`: \"allow\", \"block\", or \"mutate\", which only changes requests and responses")]
    NoAction,
    /// It allows, without `hosts`.
    #[error("a rule that allows needs `hosts`: whom the requests may go to")]
    NoHosts,
    /// It would allow addresses.
    #[error("* means addresses, too, and connections to these are not looked into; *.* is every name with a dot in it")]
    EveryHost,
    /// It is about requests to an address.
    #[error("{0} is no name, and connections to an address are not looked into: the rule would have no effect on them")]
    Address(String),
    /// It blocks and changes.
    #[error("a rule that blocks has nothing to change: without limits, edits and `replace`")]
    BlockEdits,
    /// It changes nothing.
    #[error("the rule changes nothing: a rule with action \"mutate\" has limits, edits or `replace`")]
    Nothing,
    /// A name that cannot be shown in one line.
    #[error("the name of a rule has 1 to {max} characters and no control characters", max = MAX_RULE_NAME)]
    Name,
    /// Another has it.
    #[error("another rule is called {0:?}, too")]
    SameName(String),
    /// Over [`MAX_RULES`].
    #[error("a policy has at most {MAX_RULES} rules")]
    TooMany,
}

/// Characters of a rule's name.
pub const MAX_RULE_NAME: usize = 100;

/// Words of serde's that are not TOML's.
const WORDS: &[(&str, &str)] = &[
    ("unknown field", "unknown key"),
    ("missing field", "missing key"),
    (
        "invalid type: map, expected a sequence",
        "a table stands where a list is wanted: one of a list is written [[rule]], or [{ … }]",
    ),
    ("expected a sequence", "expected a list ([\"…\", \"…\"])"),
];

/// What is wrong, and at which byte.
#[derive(Debug)]
pub(super) struct At {
    at: usize,
    wrong: Wrong,
}

impl At {
    pub(super) fn start(wrong: Wrong) -> Self {
        Self { at: 0, wrong }
    }

    pub(super) fn span(span: &Range<usize>, wrong: impl Into<Wrong>) -> Self {
        Self { at: span.start, wrong: wrong.into() }
    }

    pub(super) fn toml(error: &toml::de::Error) -> Self {
        let at = error.span().map_or(0, |span| span.start);
        let mut message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        for (word, told) in WORDS {
            message = message.replace(word, told);
        }
        Self { at, wrong: Wrong::Toml(message) }
    }

    pub(super) fn in_file(self, file: &str, text: &str) -> PolicyFileError {
        let line = 1 + text.get(..self.at).unwrap_or(text).matches('\n').count();
        PolicyFileError { file: file.to_owned(), line, wrong: self.wrong }
    }
}

/// Read a value of the document, or say where it is wrong.
pub(super) trait Read<T> {
    fn read<U, E: Into<Wrong>>(&self, read: impl FnOnce(&T) -> Result<U, E>) -> Result<U, At>;
}

impl<T> Read<T> for Spanned<T> {
    fn read<U, E: Into<Wrong>>(&self, read: impl FnOnce(&T) -> Result<U, E>) -> Result<U, At> {
        read(self.get_ref()).map_err(|wrong| At::span(&self.span(), wrong))
    }
}
