//! A request and its rules.

use std::{fmt, sync::Arc};

use http::{Method, Uri, header, request::Parts, uri::PathAndQuery};
use matchlock_model::printable;

use super::{
    Rules,
    path::{Path, Unreadable},
    query,
    rule::{Action, Asked, Rule},
};
use crate::{MAX_TOLD, percent, policy::Host, readable};

/// Headers by which clients ask servers to take another method than that of the request.
const METHOD_OVERRIDES: &[&str] = &["x-http-method-override", "x-http-method", "x-method-override"];

/// The same in a query; some look there for a POST.
const METHOD_OVERRIDE_KEY: &str = "_method";

/// The rules that a request fits, and that its response will be changed by.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    pub(super) rules: Vec<Arc<Rule>>,
    /// Whether the response has no body, whatever its headers say.
    pub(super) head: bool,
    /// Bytes of the request's body, at most; what announces more was blocked.
    pub max_request_bytes: Option<u64>,
    /// Bytes of the response's body, at most; what announces more is refused.
    pub max_response_bytes: Option<u64>,
}

/// A request that rules refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The rule that does, if it is one alone.
    pub rule: Option<Arc<str>>,
    /// Why, in a fragment that stands alone; without the query, which may hold secrets.
    pub reason: String,
}

/// What rules say to a request, before anything is done about it.
pub(super) struct Judged {
    /// Those that it fits.
    pub(super) rules: Vec<Arc<Rule>>,
    /// Its path, if any rule went by it.
    canonical: Option<String>,
    /// Whether it may go on.
    pub(super) verdict: Result<(), Blocked>,
}

impl Rules {
    /// May the request be sent to this host? If so, it is changed in place: its path is in canonical form if it was judged, and
    /// all edits are made. The host is the one that policy has allowed, not what `parts` say.
    ///
    /// # Errors
    /// If a rule blocks it, or none of those that allow requests to this host allows this one.
    pub fn request(&self, host: &Host, port: u16, parts: &mut Parts) -> Result<Matched, Blocked> {
        let Judged { rules, canonical, verdict } = self.judge(host, port, parts);
        verdict?;
        let matched = Matched::of(rules, parts)?;
        matched.change(parts, canonical)?;
        Ok(matched)
    }

    pub(super) fn judge(&self, host: &Host, port: u16, parts: &Parts) -> Judged {
        let concerned: Vec<_> = self.0.iter().filter(|rule| rule.concerns(host, port)).collect();
        let judged = concerned.iter().any(|rule| rule.paths.is_some());
        let path = match judged.then(|| Path::read(parts.uri.path())).transpose() {
            Ok(path) => path,
            Err(why) => return Judged { rules: Vec::new(), canonical: None, verdict: Err(why.into()) },
        };
        let methods = if concerned.is_empty() { Vec::new() } else { methods(parts) };
        let asked = Asked {
            host,
            port,
            methods: methods.iter().map(String::as_str).collect(),
            paths: path.as_ref().map_or(&[], |path| &path.readings),
        };
        let rules: Vec<_> = concerned.iter().filter(|rule| rule.fits(&asked)).map(|rule| Arc::clone(rule)).collect();
        let allows = |rule: &Rule| rule.action == Action::Allow;
        let unmatched = concerned.iter().any(|rule| allows(rule)) && !rules.iter().any(|rule| allows(rule));
        let verdict = match rules.iter().find(|rule| rule.action == Action::Block) {
            Some(rule) => Err(Blocked::by(rule, "blocked by a rule")),
            None if unmatched => Err(Blocked::unmatched(host, parts, methods.len() > 1)),
            None => Ok(()),
        };
        Judged { rules, canonical: path.map(|path| path.canonical), verdict }
    }
}

impl Matched {
    /// The names of the rules, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.name)
    }

    fn of(rules: Vec<Arc<Rule>>, parts: &Parts) -> Result<Self, Blocked> {
        let announced = announced(&parts.headers);
        let too_large =
            |rule: &&Arc<Rule>| matches!((rule.max_request_bytes, announced), (Some(max), Some(n)) if n > max);
        if let (Some(rule), Some(announced)) = (rules.iter().find(too_large), announced) {
            return Err(Blocked::by(rule, &format!("a body of {announced} bytes is more than the rule lets through")));
        }
        let least = |limit: fn(&Rule) -> Option<u64>| rules.iter().filter_map(|rule| limit(rule)).min();
        let max_request_bytes = least(|rule| rule.max_request_bytes);
        let max_response_bytes = least(|rule| rule.max_response_bytes);
        Ok(Self { head: parts.method == Method::HEAD, max_request_bytes, max_response_bytes, rules })
    }

    fn change(&self, parts: &mut Parts, canonical: Option<String>) -> Result<(), Blocked> {
        let mut path = canonical.filter(|canonical| canonical != parts.uri.path());
        let mut query = None;
        for rule in &self.rules {
            rule.request.headers.apply(&mut parts.headers);
            let now = query.as_deref().or(parts.uri.query());
            query = rule.request.query(now).or(query);
            path = rule.request.rewrite_path.clone().or(path);
        }
        if self.rewrites() {
            readable::ask_for(&mut parts.headers);
        }
        if path.is_none() && query.is_none() {
            return Ok(());
        }
        let path = path.as_deref().unwrap_or(parts.uri.path());
        let query = query.as_deref().or(parts.uri.query()).filter(|query| !query.is_empty());
        let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        parts.uri = with_target(&parts.uri, &target).ok_or_else(|| Blocked {
            rule: None,
            reason: "path and query are too long after the rules' changes".into(),
        })?;
        Ok(())
    }

    /// Whether texts of the response may be replaced.
    pub(super) fn rewrites(&self) -> bool {
        self.rules.iter().any(|rule| !rule.response.replace.is_empty())
    }
}

impl Blocked {
    fn by(rule: &Rule, reason: &str) -> Self {
        Self { rule: Some(Arc::clone(&rule.name)), reason: reason.to_owned() }
    }

    /// Which method it is to be taken for is not said: that can stand in the query.
    fn unmatched(host: &Host, parts: &Parts, overridden: bool) -> Self {
        let method = printable(parts.method.as_str(), MAX_TOLD);
        let path = percent::told(parts.uri.path(), MAX_TOLD);
        let overridden = if overridden { ", which asks to be taken for another method" } else { "" };
        Self { rule: None, reason: format!("no rule allows {method} {path} of {host}{overridden}") }
    }
}

impl From<Unreadable> for Blocked {
    fn from(why: Unreadable) -> Self {
        Self { rule: None, reason: format!("{why}, and rules go by the path") }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match &self.rule {
            Some(rule) => write!(f, " ({rule})"),
            None => Ok(()),
        }
    }
}

/// The method, and those that servers may take it for.
fn methods(parts: &Parts) -> Vec<String> {
    let of_headers = METHOD_OVERRIDES.iter().flat_map(|name| parts.headers.get_all(*name));
    let of_headers = of_headers.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    let of_query = query::values(parts.uri.query().unwrap_or_default(), METHOD_OVERRIDE_KEY);
    std::iter::once(parts.method.to_string()).chain(of_headers).chain(of_query).collect()
}

/// What `Content-Length` says.
pub(super) fn announced(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The same with another path and query; `None` if they are too long for one.
fn with_target(uri: &Uri, target: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}
