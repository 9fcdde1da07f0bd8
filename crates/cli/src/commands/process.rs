//! Flags that say how a program is run; `run` and `exec` share them.

use std::path::PathBuf;

use matchlock_sandbox::{Exec, Stdio};

use crate::{
    env::Environment,
    error::CliError,
    parse,
    stdio::{Connection, Mode},
};

/// How a program is run.
#[derive(Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Set an environment variable: KEY=VALUE, or KEY to pass the caller's own value
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file, one KEY=VALUE or KEY a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Pass standard input on; with -t give the program this terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(crate) interactive: bool,
    /// With -i: give the program this terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(crate) tty: bool,
    /// Run as this user: uid, uid:gid, name or name:group
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) user: String,
    /// Run in this folder
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "DIR")]
    pub(crate) workdir: String,
}

impl ProcessArgs {
    /// How the program is connected to the caller.
    pub(crate) const fn mode(&self) -> Mode {
        Mode::from_flags(self.interactive, self.tty)
    }

    /// The variables asked for.
    pub(crate) fn environment(&self) -> Result<Vec<(String, String)>, CliError> {
        parse::environment(&self.env_file, &self.env)
    }
}

/// A program and the environment that its own flags gave it, on this connection.
pub(crate) fn request(
    argv: Vec<String>,
    mut env: Vec<(String, String)>,
    connection: &Connection,
    caller: &Environment,
) -> Exec {
    if let (Stdio::Terminal(_), Some(term)) = (connection.stdio, &caller.term) {
        // The type of the terminal that the program gets; first, so that the user's own word wins.
        env.insert(0, ("TERM".to_owned(), term.clone()));
    }
    Exec { argv, env, stdio: connection.stdio, ..Exec::default() }
}

/// The words that GNU-style boolean flags take.
pub(crate) fn boolean(word: &str) -> Result<bool, String> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}
