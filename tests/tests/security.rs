//! `docs/security.md` publishes the bypass corpus; this keeps the page and the data the same.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use matchlock_tests::corpus::Corpus;

const BEGIN: &str = "<!-- tests/corpus/bypass.toml begins -->\n\n";
const END: &str = "\n<!-- tests/corpus/bypass.toml ends -->";

/// With `MATCHLOCK_PUBLISH` set, the page is written anew; without, it has to be so already.
#[test]
fn the_page_has_every_attempt() -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = fs::read_to_string(&page)?;
    let (head, rest) = text.split_once(BEGIN).context("where the corpus begins")?;
    let (published, tail) = rest.split_once(END).context("where the corpus ends")?;
    let tables = Corpus::read()?.tables();
    if std::env::var_os("MATCHLOCK_PUBLISH").is_some() {
        fs::write(&page, [head, BEGIN, &tables, END, tail].concat())?;
        return Ok(());
    }
    let differs = || published.lines().zip(tables.lines()).find(|(page, data)| page != data);
    ensure!(
        published == tables,
        "docs/security.md does not have what tests/corpus/bypass.toml has (first: {:?}); \
         write it with: MATCHLOCK_PUBLISH=1 cargo test -p matchlock-tests --test security",
        differs()
    );
    Ok(())
}

#[test]
fn every_attempt_says_where_it_is_made_and_what_must_become_of_it() -> Result<()> {
    let corpus = Corpus::read()?;
    ensure!(corpus.attempts.len() >= 60, "{} attempts", corpus.attempts.len());
    let ids: BTreeSet<_> = corpus.attempts.iter().map(|attempt| &attempt.id).collect();
    ensure!(ids.len() == corpus.attempts.len(), "two attempts have the same name");
    for attempt in &corpus.attempts {
        ensure!(corpus.sandboxes.iter().any(|sandbox| sandbox.name == attempt.sandbox), "{}", attempt.id);
        // A text of a table's cell.
        let texts = [Some(&attempt.tries), attempt.undefended.as_ref()];
        ensure!(texts.into_iter().flatten().all(|text| !text.contains(['|', '\n'])), "{}", attempt.id);
        // Where something may arrive, it is said what has to be seen, or must not be, or must not arrive.
        let silent = attempt.sees.is_empty() && attempt.lacks.is_empty() && attempt.never.is_empty();
        ensure!(!silent || !attempt.arrives || attempt.layer == "secret", "{}", attempt.id);
    }
    Ok(())
}
