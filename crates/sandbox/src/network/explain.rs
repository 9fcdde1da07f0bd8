//! `matchlock policy explain`, for a sandbox that runs and for one that might.

use http::Method;
use matchlock_net::{guard::Guard, policy::Outcome, rules};
use thiserror::Error;

use crate::control::Answer;

/// What was to be explained is no request.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ExplainError {
    #[error(transparent)]
    Request(#[from] rules::ExplainError),
    #[error("{0:?} is no method of HTTP")]
    Method(String),
}

/// What would become of a request for a URL, or a connection to `host:port`, its name being resolved now. Nothing is done, and the
/// guest does not notice.
///
/// # Errors
/// If the text is no destination, or the method none.
pub async fn explain(guard: &Guard, method: &str, text: &str) -> Result<Answer, ExplainError> {
    let method: Method = method.parse().map_err(|_| ExplainError::Method(method.to_owned()))?;
    let resolved = guard.addresses(text).await.map_err(rules::ExplainError::from)?;
    let explained = rules::explain(&guard.policy(), guard.rules(), &method, text, &resolved)?;
    Ok(Answer::Explained { allowed: explained.outcome == Outcome::Allowed, lines: explained.lines() })
}
