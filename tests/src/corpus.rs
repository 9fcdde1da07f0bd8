//! The bypass corpus, `tests/corpus/bypass.toml`: attempts to get out of a sandbox, as data, and how one is judged.

use anyhow::{Context, Result};
use matchlock_testkit::internet::{Arrival, Arrived};
use serde::Deserialize;

/// The value of the corpus's one secret.
const SECRET: &str = "v4lue-of-the-t0ken";
/// The only host that may be told it.
const SECRET_HOST: &str = "api.good.test";

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corpus {
    /// The sandboxes that attempts are made in.
    #[serde(rename = "sandbox")]
    pub sandboxes: Vec<Confined>,
    /// The attempts, in the order that they are made in.
    #[serde(rename = "attempt")]
    pub attempts: Vec<Attempt>,
}

/// A sandbox, and what may leave it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confined {
    /// Its name in the corpus.
    pub name: String,
    /// The flags of `run`.
    pub flags: Vec<String>,
    /// Where packets may go.
    pub reach: Vec<String>,
    /// The names that may be asked for.
    pub names: Vec<String>,
    /// What works there, in Python: an attempt that fails where everything does says nothing.
    pub works: String,
    /// What the guest sees of that.
    pub sees: String,
}

/// Something that somebody tries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// What it is called.
    pub id: String,
    /// In which sandbox.
    pub sandbox: String,
    /// At which layer.
    pub layer: String,
    /// What is tried, in words.
    pub tries: String,
    /// The same, in Python.
    pub run: String,
    /// What the guest has to see.
    #[serde(default)]
    pub sees: Vec<String>,
    /// What it must not.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// Whether anything may arrive where the sandbox may reach.
    #[serde(default)]
    pub arrives: bool,
    /// What must not arrive even then.
    #[serde(default)]
    pub never: Vec<String>,
    /// What is done on the host before.
    #[serde(default)]
    pub before: Vec<Vec<String>>,
    /// Why it works, if it does.
    pub undefended: Option<String>,
}

impl Corpus {
    /// As the file has it.
    ///
    /// # Errors
    /// It says something that nobody understands.
    pub fn read() -> Result<Self> {
        toml::from_str(include_str!("../corpus/bypass.toml")).context("tests/corpus/bypass.toml")
    }

    /// The attempts that are made in a sandbox.
    pub fn attempts_in(&self, sandbox: &Confined) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.sandbox == sandbox.name)
    }

    /// What `docs/security.md` says of it: a table of what is tried in vain, and one of what is not defended.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut lines = vec!["| attempt | layer | what is tried |\n|---|---|---|\n".to_owned()];
        for attempt in self.attempts.iter().filter(|attempt| attempt.undefended.is_none()) {
            let Attempt { id, layer, tries, .. } = attempt;
            lines.push(format!("| `{id}` | {layer} | {tries} |\n"));
        }
        lines.push("\nWhat works, and why:\n\n| attempt | what is tried | why it works |\n|---|---|---|\n".to_owned());
        for attempt in &self.attempts {
            if let Attempt { id, tries, undefended: Some(why), .. } = attempt {
                lines.push(format!("| `{id}` | {tries} | {why} |\n"));
            }
        }
        lines.concat()
    }
}

impl Attempt {
    /// What went another way than it must, one line each: by what the guest has seen, and by what has arrived.
    #[must_use]
    pub fn judge(&self, sandbox: &Confined, said: &str, arrived: &Arrived) -> Vec<String> {
        let mut wrong = Vec::new();
        let missing =
            self.sees.iter().filter(|text| !said.contains(*text)).map(|text| format!("it did not see {text:?}"));
        wrong.extend(missing);
        wrong.extend(self.lacks.iter().filter(|text| said.contains(*text)).map(|text| format!("it saw {text:?}")));
        if said.contains(SECRET) {
            wrong.push("it saw the secret's value".to_owned());
        }
        let packets = arrived.packets.iter().chain(&arrived.to_the_host).map(ToString::to_string);
        let astray = packets.filter(|packet| !fits_any(&sandbox.reach, packet));
        wrong.extend(astray.map(|packet| format!("a packet went to {packet}")));
        let asked = arrived.questions().filter(|name| !fits_any(&sandbox.names, &name.to_ascii_lowercase()));
        wrong.extend(asked.map(|name| format!("{name} was asked for outside")));
        let never = self.never.iter().filter(|text| arrived.mentions(text)).map(|text| format!("{text:?} arrived"));
        wrong.extend(never);
        for arrival in &arrived.told {
            let question = matches!(arrival, Arrival::Question { .. });
            if !question && !self.arrives {
                wrong.push(format!("something arrived: {arrival}"));
            }
            if arrival.mentions(SECRET) && !is_for_the_secret(arrival) {
                wrong.push(format!("the secret's value arrived: {arrival}"));
            }
        }
        wrong
    }
}

/// Whether it came, in TLS, to the host that the secret is for.
fn is_for_the_secret(arrival: &Arrival) -> bool {
    match arrival {
        Arrival::Bytes { sni, .. } => sni.as_deref() == Some(SECRET_HOST),
        Arrival::Request(request) => request.sni.as_deref() == Some(SECRET_HOST) && request.host == SECRET_HOST,
        Arrival::Question { .. } | Arrival::Datagram { .. } => false,
    }
}

/// Whether one of these patterns is this text; `*` in it is any text.
fn fits_any(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.split_once('*') {
        Some((head, tail)) => text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail),
        None => pattern == text,
    })
}
