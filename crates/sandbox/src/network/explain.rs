//! `matchlock policy explain`, for a sandbox that runs and for one that might.

use matchlock_net::{
    guard::Guard,
    policy::{ExplainError, explain as decide},
};

use crate::control::Answer;

/// What would become of a URL or `host:port`, its name being resolved now. Nothing is done, and the guest does not notice.
///
/// # Errors
/// If the text is no destination.
pub async fn explain(guard: &Guard, text: &str) -> Result<Answer, ExplainError> {
    let resolved = guard.addresses(text).await?;
    let lines = decide(&guard.policy(), text, &resolved)?;
    // Which is what the last line says.
    let allowed = lines.last().is_some_and(|answer| answer.ends_with(" allowed"));
    Ok(Answer::Explained { allowed, lines })
}
