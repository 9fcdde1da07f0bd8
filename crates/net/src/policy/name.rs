//! A DNS host name in its one spelling. Whatever compares names compares these: two spellings of one name cannot be judged
//! differently, and what only looks like a name never becomes one.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

/// Bytes of a name as text, without the last dot (RFC 1035, section 2.3.4: 255 octets on the wire).
pub const MAX_NAME: usize = 253;

/// Bytes of one label (RFC 1035, section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A host name: lower case, without a last dot, of letters, digits, `-` and `_`; never an address in any spelling.
///
/// Names beyond ASCII are taken in punycode only (RFC 5891). The rules are wider than RFC 1123 where names in use are: `_` is
/// allowed, and `-` at both ends of a label, but not at the beginning of the name, where a command would take it for a flag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing there, or nothing but a dot.
    #[error("a host name cannot be empty")]
    Empty,
    /// Over [`MAX_NAME`].
    #[error("a host name has at most {MAX_NAME} characters")]
    TooLong,
    /// Two dots in a row, or a label over [`MAX_LABEL`].
    #[error("the parts of a host name have 1 to {MAX_LABEL} characters")]
    Label,
    /// Beyond ASCII.
    #[error("a host name beyond ASCII is to be written in punycode (xn--…)")]
    NotAscii,
    /// Not a letter, digit, `-` or `_`.
    #[error("{0:?} cannot be part of a host name")]
    Character(char),
    /// A `-` at the beginning.
    #[error("a host name cannot begin with -")]
    Hyphen,
    /// The last part is a number, so that some would take the whole for an IPv4 address.
    #[error("a host name cannot end in a number; an IPv4 address has four decimal numbers (127.0.0.1)")]
    Number,
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, the leftmost first.
    #[must_use]
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it is `localhost` or below it: it means the machine that asks (RFC 6761, section 6.3).
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        self.labels().next_back() == Some("localhost")
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        check_length(text)?;
        for label in text.split('.') {
            check_label(label, |_| false)?;
        }
        if text.starts_with('-') {
            return Err(NameError::Hyphen);
        }
        if text.rsplit('.').next().is_some_and(is_number) {
            return Err(NameError::Number);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// The bounds of the whole, for names and for patterns of names.
pub(super) fn check_length(text: &str) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        // Before the length, which counts bytes: what is beyond ASCII should hear of that.
        _ if !text.is_ascii() => Err(NameError::NotAscii),
        length if length > MAX_NAME => Err(NameError::TooLong),
        _ => Ok(()),
    }
}

/// One label, in which `more` allows further characters.
pub(super) fn check_label(label: &str, more: impl Fn(char) -> bool) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || more(c);
    match label.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(NameError::Character(c)),
        None if label.is_empty() || label.len() > MAX_LABEL => Err(NameError::Label),
        None => Ok(()),
    }
}

/// Whether a last label makes readers of `inet_aton`'s numbers take the whole for an IPv4 address (URL Standard, "ends in a
/// number checker"): `0x7f.1`, `2130706433`, `0177.0.0.1`, and those that overflow as well.
pub(super) fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
