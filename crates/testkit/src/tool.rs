//! Running the distribution's programs.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

/// A command for `program`, which Debian's `package` has.
///
/// # Errors
/// It is not installed; the message says how to install it.
pub fn tool(program: &str, package: &str) -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Ordinary users often lack the folders for administrators' programs in their `PATH`.
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(program)).find(|file| file.is_file());
    match found {
        Some(file) => Ok(Command::new(file)),
        None => bail!("{program} is not installed; run: apt-get install {package}"),
    }
}

/// Run `command` to its end and return what it printed.
///
/// # Errors
/// It cannot be started or fails; the message holds what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
