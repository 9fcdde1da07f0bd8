//! Running the distribution's programs.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// A command for `program`, which Debian's `package` has.
///
/// # Errors
/// It is not installed; the message says how to install it.
pub fn tool(program: &str, package: &str) -> Result<Command> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        bail!("{program} is not installed; run: apt-get install {package}");
    }
    Ok(Command::new(program))
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
