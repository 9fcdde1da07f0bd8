//! What rules make of requests and of responses, as tables that can be read and as properties.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bodies;
mod documents;
mod edits;
mod errors;
mod explain;
mod paths;
mod requests;
mod responses;
mod rpc;

use http::{Request, request::Parts};
use matchlock_net::{
    policy::Host,
    rules::{Blocked, Matched, PolicyFile, Rules},
};

fn policy(text: &str) -> PolicyFile {
    PolicyFile::parse("policy.toml", text).unwrap()
}

fn rules(text: &str) -> Rules {
    policy(text).rules
}

fn host(text: &str) -> Host {
    text.parse().unwrap()
}

/// `GET /path`.
fn request(line: &str) -> Parts {
    let (method, target) = line.split_once(' ').unwrap();
    Request::builder().method(method).uri(target).body(()).unwrap().into_parts().0
}

/// To port 443 of a host.
fn asked(rules: &Rules, at: &str, line: &str) -> Result<(Matched, Parts), Blocked> {
    let mut parts = request(line);
    rules.request(&host(at), 443, &mut parts).map(|matched| (matched, parts))
}

/// What became of it, in a line.
fn told(rules: &Rules, at: &str, line: &str) -> String {
    match asked(rules, at, line) {
        Ok((_, parts)) => format!("{} {}", parts.method, parts.uri),
        Err(blocked) => format!("! {blocked}"),
    }
}

/// A line for every case: what was given, and what became of it.
fn table<'a>(cases: impl IntoIterator<Item = &'a str>, became: impl Fn(&str) -> String) -> String {
    let line = |given: &str| format!("{given:<36} {}", became(given)).trim_end().to_owned();
    cases.into_iter().map(line).collect::<Vec<_>>().join("\n")
}
