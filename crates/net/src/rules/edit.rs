//! What a rule changes: plain data, checked when it is made, so that carrying it out cannot fail.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

use super::{
    path::{Path, Unreadable},
    query,
    rewrite::Replacement,
};

/// Headers that are about the connection, or about where the body ends and whom the request is for: whoever changes one makes
/// another message of it (RFC 9110, sections 7.2 and 7.6.1; RFC 9112, section 6).
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Changes of headers: first set, then deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeaderEdits {
    set: Vec<(HeaderName, HeaderValue)>,
    delete: Vec<HeaderName>,
}

/// Changes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestEdits {
    pub(super) headers: HeaderEdits,
    /// Keys and values, decoded.
    pub(super) set_query: Vec<(String, String)>,
    pub(super) delete_query: Vec<String>,
    /// In canonical form.
    pub(super) rewrite_path: Option<String>,
}

/// Changes of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseEdits {
    pub(super) headers: HeaderEdits,
    /// In the body, each in what the one before it has left.
    pub(super) replace: Vec<Replacement>,
}

/// Why a change cannot be made by a rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EditError {
    /// One of the connection's, or of the body's bounds.
    #[error("{0} says whom a message is for or where it ends, so no rule can set or delete it")]
    Framing(String),
    /// Not a token.
    #[error("{0:?} is no name of a header")]
    Name(String),
    /// Line ends and what is beyond ASCII.
    #[error("the value of {0} is to be of visible ASCII characters, spaces and tabs")]
    Value(String),
    /// In different cases.
    #[error("{0} is set twice: upper and lower case are the same")]
    Twice(String),
    /// As a path.
    #[error(transparent)]
    Path(#[from] Unreadable),
    /// It has a query or a fragment.
    #[error("a rewritten path has no ? or #; `set_query` sets the query")]
    Query,
    /// Nothing to look for.
    #[error("a text to be replaced cannot be empty")]
    EmptyFind,
    /// Over the bound.
    #[error("a text to be replaced has at most {max} bytes, and so has what replaces it", max = super::MAX_FIND)]
    LongFind,
}

impl HeaderEdits {
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        let name = header(name)?;
        let value = HeaderValue::from_str(value).map_err(|_| EditError::Value(name.to_string()))?;
        if self.set.iter().any(|(other, _)| *other == name) {
            return Err(EditError::Twice(name.to_string()));
        }
        self.set.push((name, value));
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<(), EditError> {
        self.delete.push(header(name)?);
        Ok(())
    }

    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for name in &self.delete {
            headers.remove(name);
        }
    }
}

/// What is changed, without the values.
impl fmt::Display for HeaderEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.set.iter().map(|(name, _)| format!("sets {name}"));
        let delete = self.delete.iter().map(|name| format!("deletes {name}"));
        f.write_str(&set.chain(delete).collect::<Vec<_>>().join(", "))
    }
}

impl RequestEdits {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Where a request goes instead, as it stands in a URL; what cannot stand there is encoded.
    pub(super) fn rewrite(&mut self, path: &str) -> Result<(), EditError> {
        if path.contains(['?', '#']) {
            return Err(EditError::Query);
        }
        self.rewrite_path = Some(Path::read(path)?.canonical);
        Ok(())
    }

    /// The edited query; `None` if nothing changes.
    pub(super) fn query(&self, query: Option<&str>) -> Option<String> {
        if self.set_query.is_empty() && self.delete_query.is_empty() {
            return None;
        }
        let given = query.unwrap_or_default().to_owned();
        let set = self.set_query.iter().fold(given, |query, (key, value)| query::set(&query, key, value));
        Some(self.delete_query.iter().fold(set, |query, key| query::delete(&query, key)))
    }
}

impl ResponseEdits {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn header(name: &str) -> Result<HeaderName, EditError> {
    let lower = name.to_ascii_lowercase();
    if FRAMING.contains(&lower.as_str()) || lower.starts_with(':') {
        return Err(EditError::Framing(lower));
    }
    lower.parse().map_err(|_| EditError::Name(name.to_owned()))
}
