//! `docs/benchmarks.md`: one section for each bench, so that each writes its own and leaves the others as they are.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use super::row::Row;

const TITLE: &str = "# Benchmarks\n\nWritten by `cargo xtask bench` and `cargo xtask bench net`, each its own section. Compare the ratios; the \
                     times are one machine's.\n";

/// A section, printed as it grows.
pub(super) struct Section {
    title: &'static str,
    text: String,
    /// What could not be measured.
    failed: Vec<&'static str>,
}

impl Section {
    /// One that says what it was measured with before its table.
    pub(super) fn begin(title: &'static str, with: &str) -> Self {
        let mut section = Self { title, text: String::new(), failed: Vec::new() };
        section.line(&format!("## {title}\n\n{with}\n\n| what | goal | measured |\n|---|---|---|"));
        section
    }

    /// Make a measure of `samples` samples. One that fails is said in a line of its own, and the others go on.
    pub(super) fn add(&mut self, samples: usize, what: &'static str, measure: impl FnOnce() -> Result<Vec<Row>>) {
        if samples == 0 {
            return;
        }
        let rows = measure().unwrap_or_else(|error| {
            self.failed.push(what);
            vec![Row::absent(what, "", &format!("{error:#}").replace('\n', " "))]
        });
        for Row { what, goal, measured } in rows {
            self.line(&format!("| {what} | {goal} | {measured} |"));
        }
    }

    /// Put it into the document, unless this is `dry`, in place of what it said before.
    pub(super) fn end(self, root: &Path, dry: bool) -> Result<()> {
        let path = root.join("docs/benchmarks.md");
        if !dry {
            let old = fs::read_to_string(&path).context("read docs/benchmarks.md")?;
            fs::write(&path, with_section(&old, self.title, &self.text)).context("write docs/benchmarks.md")?;
        }
        if self.failed.is_empty() { Ok(()) } else { bail!("not measured: {}", self.failed.join(", ")) }
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// The document with this section, where it was or at the end.
fn with_section(document: &str, title: &str, section: &str) -> String {
    let heading = format!("{title}\n");
    let mut sections: Vec<_> =
        document.split("\n## ").skip(1).map(|section| format!("## {}\n", section.trim_end())).collect();
    match sections.iter_mut().find(|old| old[3..].starts_with(&heading)) {
        Some(old) => section.clone_into(old),
        None => sections.push(section.to_owned()),
    }
    format!("{TITLE}\n{}", sections.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_section_is_written_without_the_others() {
        let one = with_section("# Old title\n\nOld words.\n", "One", "## One\n\n1\n");
        assert_eq!(one, format!("{TITLE}\n## One\n\n1\n"));
        let both = with_section(&one, "Two", "## Two\n\n2\n");
        assert_eq!(both, format!("{TITLE}\n## One\n\n1\n\n## Two\n\n2\n"));
        assert_eq!(with_section(&both, "Two", "## Two\n\n2\n"), both);
        let again = with_section(&both, "One", "## One\n\n3\n");
        assert_eq!(again, format!("{TITLE}\n## One\n\n3\n\n## Two\n\n2\n"));
    }
}
