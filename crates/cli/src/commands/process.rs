//! Flags that say how a program is run; `run` and `exec` share them.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use matchlock_sandbox::{Exec, Stdio};

use crate::{
    env::Environment,
    error::CliError,
    parse::{self, Toggle as _},
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
    #[arg(short, long, toggle = false)]
    pub(crate) interactive: bool,
    /// With -i: give the program this terminal
    #[arg(short, long, toggle = false)]
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
    command: Vec<OsString>,
    mut env: Vec<(String, String)>,
    connection: &Connection,
    caller: &Environment,
) -> Exec {
    if let (Stdio::Terminal(_), Some(term)) = (connection.stdio, &caller.term) {
        // The type of the terminal that the program gets; first, so that the user's own word wins.
        env.insert(0, ("TERM".to_owned(), term.clone()));
    }
    let argv = command.into_iter().map(OsString::into_vec).collect();
    Exec { argv, env, stdio: connection.stdio, ..Exec::default() }
}
