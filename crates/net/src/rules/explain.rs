//! `matchlock policy explain` with rules: what would become of one request.

use std::fmt;

use http::{Method, Request};
use thiserror::Error;

use super::{
    Rules,
    rule::{Action, Rule},
};
use crate::policy::{self, Explained, Outcome, Policy, Resolved};

/// What was to be explained is no request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// Its destination is none.
    #[error(transparent)]
    Destination(#[from] policy::ExplainError),
    /// Its path, or its query.
    #[error("{0:?} cannot be the path of a URL: characters of no URL are escaped (a space is %20)")]
    Path(String),
}

/// The decision about a request, step by step: what [`policy::explain`] says to its destination, and then, if it would be
/// connected to, the rules that the request fits.
///
/// # Errors
/// If the text is no destination with a path.
pub fn explain(
    policy: &Policy,
    rules: &Rules,
    method: &Method,
    text: &str,
    resolved: &Resolved,
) -> Result<Explained, ExplainError> {
    let mut explained = policy::explain(policy, text, resolved)?;
    let (host, port) = policy::destination(text)?;
    let denied = matches!(explained.outcome, Outcome::Denied(_));
    if denied || !rules.0.iter().any(|rule| rule.concerns(&host, port)) {
        return Ok(explained);
    }
    let target = target(text);
    let request = Request::builder().method(method).uri(&target).body(());
    let (parts, ()) = request.map_err(|_| ExplainError::Path(target))?.into_parts();
    let judged = rules.judge(&host, port, &parts);
    explained.steps.push(format!("request      {method} {}", parts.uri.path()));
    explained.steps.extend(judged.rules.iter().map(|rule| format!("rule         {rule}")));
    if let Err(blocked) = judged.verdict {
        explained.outcome = Outcome::Denied(Some(blocked.reason));
    }
    Ok(explained)
}

/// Path and query of a URL (RFC 3986, section 3).
fn target(text: &str) -> String {
    let rest = text.trim().split_once("://").map_or(text.trim(), |(_, rest)| rest);
    let rest = rest.split('#').next().unwrap_or_default();
    match rest.find(['/', '?']).map(|at| &rest[at..]) {
        None => "/".to_owned(),
        Some(query) if query.starts_with('?') => format!("/{query}"),
        Some(path) => path.to_owned(),
    }
}

/// What it does, to stand after "rule".
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = match self.action {
            Action::Allow => "allows it",
            Action::Block => "blocks it",
            Action::Mutate => "changes it",
        };
        write!(f, "{:?} {does}", self.name)?;
        let changes = self.told_changes();
        if changes.is_empty() { Ok(()) } else { write!(f, ": {}", changes.join("; ")) }
    }
}

impl Rule {
    /// Names only: values may be anybody's.
    fn told_changes(&self) -> Vec<String> {
        let (request, response) = (&self.request, &self.response);
        let bound = |of: &str, max: u64| format!("{of} has at most {max} bytes");
        let mut told = Vec::new();
        told.extend(self.max_request_bytes.map(|max| bound("its body", max)));
        told.extend(self.max_response_bytes.map(|max| bound("the response's body", max)));
        told.extend(Some(request.headers.to_string()).filter(|told| !told.is_empty()));
        told.extend(request.set_query.iter().map(|(key, _)| format!("sets {key} in the query")));
        told.extend(request.delete_query.iter().map(|key| format!("deletes {key} from the query")));
        told.extend(request.rewrite_path.as_ref().map(|path| format!("goes to {path}")));
        let headers = response.headers.to_string();
        told.extend(Some(headers).filter(|told| !told.is_empty()).map(|told| format!("in the response, {told}")));
        match response.replace.len() {
            0 => {}
            1 => told.push("replaces a text of the response".to_owned()),
            texts => told.push(format!("replaces {texts} texts of the response")),
        }
        told
    }
}
