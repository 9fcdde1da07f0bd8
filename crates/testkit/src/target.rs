//! Where cargo puts things: the program under test, and what tests make once and keep.

use std::{
    fs::{File, create_dir, create_dir_all, read_dir, remove_dir_all, remove_file, rename},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// The `matchlock` under test: `MATCHLOCK_TEST_BIN`, or the one that cargo built beside this test.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn matchlock_binary() -> Result<PathBuf> {
    let binary = match std::env::var_os("MATCHLOCK_TEST_BIN") {
        Some(path) => PathBuf::from(path),
        None => profile_folder()?.join("matchlock"),
    };
    if !binary.is_file() {
        bail!("{} is not there; run: cargo build -p matchlock-cli", binary.display());
    }
    Ok(binary)
}

/// The file or folder `<name>.<version>` below the target folder: made by one process, kept for all, and replaced when
/// another version is made. `make` is given the path to make it at.
pub(crate) fn made_once(name: &str, version: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = profile_folder()?.parent().context("the target folder")?.join("test-images");
    create_dir_all(&folder)?;
    let finished = folder.join(format!("{name}.{version}"));
    let lock = File::create(folder.join(format!(".lock-{name}")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if finished.exists() {
        return Ok(finished);
    }
    // What a killed test left, and older versions, make room.
    let unfinished = folder.join(format!(".unfinished-{name}"));
    for entry in read_dir(&folder)? {
        let entry = entry?;
        if entry.path() == unfinished || entry.file_name().to_string_lossy().starts_with(&format!("{name}.")) {
            if entry.file_type()?.is_dir() { remove_dir_all(entry.path())? } else { remove_file(entry.path())? }
        }
    }
    create_dir(&unfinished)?;
    let new = unfinished.join(name);
    make(&new).with_context(|| format!("make {}", finished.display()))?;
    rename(&new, &finished)?;
    remove_dir_all(&unfinished)?;
    Ok(finished)
}

/// `target/<profile>`: tests are in its `deps`, programs in itself.
fn profile_folder() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let folder =
        executable.ancestors().skip(1).find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"));
    Ok(folder.context("a test runs from a folder of cargo's")?.to_owned())
}
