//! A home's templates from outside, for stories about them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use matchlock_testkit::{Home, Matchlock};

use crate::{BUSYBOX, busybox, complaints};

/// A home with the busybox image whose templates are its own, and none is there.
///
/// # Errors
/// It cannot be made.
pub fn without_templates() -> Result<Home> {
    let home = busybox()?;
    // Other stories share theirs.
    fs::remove_file(home.cache().templates())?;
    Ok(home)
}

/// A command in a sandbox of the busybox image.
#[must_use]
pub fn run_in_busybox(home: &Home, command: &[&str]) -> Matchlock {
    home.matchlock([&["run", "--image", BUSYBOX, "--"], command].concat())
}

/// Run something in a sandbox, which says nothing else.
///
/// # Errors
/// It fails, or says more.
pub fn runs_quietly(home: &Home) -> Result<()> {
    let output = run_in_busybox(home, &["echo", "hello"]).run()?.success()?;
    ensure!(output.stdout() == "hello\n" && complaints(&output).is_empty(), "{output}");
    Ok(())
}

/// Run something in a sandbox, which says one more line; that line.
///
/// # Errors
/// It fails, or says more or less.
pub fn runs_with_one_line(home: &Home) -> Result<String> {
    let output = run_in_busybox(home, &["echo", "hello"]).run()?.success()?;
    let line = complaints(&output);
    ensure!(output.stdout() == "hello\n" && line.lines().count() == 1, "{output}");
    Ok(line)
}

/// What a command says on standard output, if it succeeds.
///
/// # Errors
/// It fails.
pub fn says(home: &Home, arguments: &[&str]) -> Result<String> {
    Ok(home.matchlock(arguments).run()?.success()?.stdout())
}

/// Everything in the folder of templates but its lock.
#[must_use]
pub fn entries(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.cache().templates()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.ends_with(".lock")).collect()
}

/// The one template, and nothing unfinished beside it.
///
/// # Errors
/// It is another number.
pub fn template(home: &Home) -> Result<PathBuf> {
    let entries = entries(home);
    let [template] = &entries[..] else { bail!("one template was expected: {entries:?}") };
    ensure!(template.extension().is_none(), "{entries:?}");
    Ok(template.clone())
}

/// A file, for reading and writing.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    File::options().read(true).write(true).open(path).with_context(|| path.display().to_string())
}
