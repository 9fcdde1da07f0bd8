//! A response, and the rules that its request has matched.

use http::{StatusCode, header, response::Parts};
use thiserror::Error;

use super::{BodyRewriter, Matched, request::announced};
use crate::readable;

/// Sums of a body that will be another (RFC 9530; RFC 3230; RFC 2616, section 14.15).
const DIGESTS: &[&str] = &["content-digest", "repr-digest", "digest", "content-md5"];

/// A response that the guest must not get: what its rules ask for cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Over the limit of a rule.
    #[error("the response's body of {announced} bytes is more than the {max} that a rule lets through")]
    TooLarge {
        /// What `Content-Length` says.
        announced: u64,
        /// The limit.
        max: u64,
    },
    /// The server was asked not to, and did so all the same.
    #[error("texts of the response are to be replaced, but it came compressed ({0})")]
    Compressed(String),
    /// Part of a body only.
    #[error("texts of the response are to be replaced, but only a part of it came")]
    Partial,
    /// What follows is no body.
    #[error("texts of the response are to be replaced, but the connection becomes another protocol's")]
    Upgraded,
}

impl Matched {
    /// Change a response in place, interim ones (1xx) excepted, which are not to be given here but for 101. The answer is what
    /// its body has to go through; then its length is not known beforehand, and is no longer said.
    ///
    /// # Errors
    /// If something of what the rules ask for cannot be done. The response is as it was.
    pub fn response(&self, parts: &mut Parts) -> Result<Option<BodyRewriter>, Refused> {
        if let (Some(max), Some(announced)) = (self.max_response_bytes, announced(&parts.headers))
            && announced > max
            && !self.is_bodiless(parts)
        {
            return Err(Refused::TooLarge { announced, max });
        }
        // Before anything is changed: a rule must not hide from another that the body is compressed.
        let rewriter = if self.rewrites() { self.rewriter(parts)? } else { None };
        for rule in &self.rules {
            rule.response.headers.apply(&mut parts.headers);
        }
        if rewriter.is_some() {
            parts.headers.remove(header::CONTENT_LENGTH);
            parts.headers.remove(header::ACCEPT_RANGES);
            for name in DIGESTS {
                parts.headers.remove(*name);
            }
        }
        Ok(rewriter)
    }

    fn rewriter(&self, parts: &Parts) -> Result<Option<BodyRewriter>, Refused> {
        match parts.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(Refused::Upgraded),
            StatusCode::PARTIAL_CONTENT => return Err(Refused::Partial),
            _ if self.is_bodiless(parts) => return Ok(None),
            _ => {}
        }
        if let Some(codings) = readable::codings(&parts.headers) {
            return Err(Refused::Compressed(codings));
        }
        let replace = self.rules.iter().flat_map(|rule| &rule.response.replace);
        Ok(Some(BodyRewriter::new(replace, is_events(parts))))
    }

    /// Whether there is no body, though headers may tell of one (RFC 9110, section 6.4.1).
    fn is_bodiless(&self, parts: &Parts) -> bool {
        self.head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

/// Whether the body is a stream of events (HTML Standard, section 9.2).
fn is_events(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
    let kind = kind.unwrap_or_default();
    kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii() == b"text/event-stream"
}
