//! Ways out: the bypass corpus (`tests/corpus/bypass.toml`) in real guests, on an internet where everything that arrives is
//! seen. A story for each sandbox of the corpus; it tells of every attempt that went another way than it must.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{
    Home, Running,
    internet::{Internet, Story, tell},
};
use matchlock_tests::{
    CLIENTS, Sandbox, clients,
    corpus::{Attempt, Confined, Corpus},
    fetch_for_clients,
};
use serde_json::{Value, json};

/// For all attempts of a sandbox. Each has its own within.
const DEADLINE: Duration = Duration::from_mins(20);

fn main() -> ExitCode {
    let corpus = match Corpus::read() {
        Ok(corpus) => corpus,
        Err(error) => panic!("{error:?}"),
    };
    let story = |sandbox: &Confined| {
        let (sandbox, attempts) = (sandbox.clone(), corpus.attempts_in(sandbox).cloned().collect::<Vec<_>>());
        Story::new(sandbox.name.clone(), move |internet| all_fail(internet, &sandbox, &attempts))
    };
    let stories = corpus.sandboxes.iter().map(story).collect();
    tell(fetch_for_clients, stories)
}

fn all_fail(internet: &Internet, confined: &Confined, attempts: &[Attempt]) -> Result<()> {
    let home = clients()?.env("SSL_CERT_FILE", internet.root());
    let flags: Vec<_> = confined.flags.iter().map(String::as_str).collect();
    let sandbox = Sandbox::idle(&home, CLIENTS, &flags)?;
    let program = ["-i", "--", "python3", "-u", "-c", include_str!("../corpus/guest.py")];
    let mut guest = sandbox.exec(&program).within(DEADLINE).stdin_open().spawn()?;
    let works = make(&mut guest, "it-works", &confined.works)?;
    ensure!(works.contains(&confined.sees), "nothing works there: {works}");
    let mut wrong = Vec::new();
    for attempt in attempts {
        prepare(&home, &sandbox, attempt)?;
        let _before = internet.arrived();
        let said = make(&mut guest, &attempt.id, &attempt.run).with_context(|| attempt.id.clone())?;
        let found = attempt.judge(confined, &said, &internet.arrived());
        if !found.is_empty() {
            wrong.push(format!("{}: {}\n  it saw:\n{said}", attempt.id, found.join("\n  ")));
        }
    }
    guest.close_stdin();
    guest.wait()?.success()?;
    ensure!(wrong.is_empty(), "{} of {} attempts:\n{}", wrong.len(), attempts.len(), wrong.join("\n"));
    Ok(())
}

fn prepare(home: &Home, sandbox: &Sandbox<'_>, attempt: &Attempt) -> Result<()> {
    for command in &attempt.before {
        let words = command.iter().map(|word| if word == "ID" { sandbox.id() } else { word });
        home.matchlock(words).run()?.success()?;
    }
    Ok(())
}

/// Have the guest do something; what it has seen.
fn make(guest: &mut Running, id: &str, run: &str) -> Result<String> {
    guest.write(format!("{}\n", json!({"id": id, "run": run})).as_bytes())?;
    let said = guest.expect_stdout(&format!("\"id\": \"{id}\"}}\n"))?;
    let answer: Value = serde_json::from_str(said.lines().next_back().context("a line")?)?;
    Ok(answer["said"].as_str().context("what was said")?.to_owned())
}
