//! Where cargo puts things: the program under test, and what tests make once and keep.

use std::{
    fs::{File, create_dir, create_dir_all, remove_dir_all, rename},
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

/// A file or folder below the target folder that is made once, by one process, and kept: `name` names its recipe too,
/// so that another recipe is another file. `make` is given the path to make it at.
pub(crate) fn made_once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = profile_folder()?.parent().context("the target folder")?.join("test-images");
    create_dir_all(&folder)?;
    let finished = folder.join(name);
    let lock = File::create(folder.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if !finished.exists() {
        // What a killed test left is begun anew.
        let unfinished = folder.join(format!(".unfinished-{name}"));
        if unfinished.exists() {
            remove_dir_all(&unfinished)?;
        }
        create_dir(&unfinished)?;
        let new = unfinished.join(name);
        make(&new).with_context(|| format!("make {}", finished.display()))?;
        rename(&new, &finished)?;
        remove_dir_all(&unfinished)?;
    }
    Ok(finished)
}

/// `target/<profile>`: tests are in its `deps`, programs in itself.
fn profile_folder() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let folder =
        executable.ancestors().skip(1).find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"));
    Ok(folder.context("a test runs from a folder of cargo's")?.to_owned())
}
