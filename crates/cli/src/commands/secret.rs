//! `matchlock secret`: rotation while the sandbox runs.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
};

use matchlock_model::ExitStatus;
use matchlock_sandbox::{
    control::{self, Request},
    network::{MAX_SECRET, keep_memory_private},
};
use zeroize::Zeroizing;

use super::get;
use crate::{env::Environment, error::CliError, output};

/// Verbs of `secret`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Give a secret another value, which is read from standard input without the line's end
    Set(Args),
}

/// Of which sandbox, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The sandbox
    id: String,
    /// The secret
    name: String,
    /// Take the value from this variable
    #[arg(long, value_name = "VARIABLE")]
    from_env: Option<String>,
}

pub(crate) async fn secret(verb: Verb, environment: &Environment) -> Result<ExitStatus, CliError> {
    let Verb::Set(Args { id, name, from_env }) = verb;
    keep_memory_private().map_err(CliError::io("set secret"))?;
    let sandbox = get::find(&id, environment)?;
    let value = match from_env {
        Some(variable) => Environment::named(&variable)
            .filter(|value| !value.is_empty())
            .map(OsString::into_vec)
            .ok_or_else(|| CliError::failure(format!("environment variable ${variable} is not set")))?,
        None => read_value().map_err(CliError::io("read the secret from standard input"))?,
    };
    let value = String::from_utf8(value).map_err(|_| CliError::failure("set secret: the value is not UTF-8"))?;
    let request = Request::SecretSet { name: name.clone(), value };
    control::ask(&environment.host()?, &sandbox, &request).await.map_err(CliError::during("set secret"))?;
    output::line(&format!("Set {name} of {}", sandbox.id))?;
    Ok(ExitStatus::SUCCESS)
}

/// All of standard input, without the line's end that shells and editors leave.
fn read_value() -> io::Result<Vec<u8>> {
    let room = MAX_SECRET + "\r\n".len() + 1;
    // It never grows, so it is never moved.
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    io::stdin().lock().take(room as u64).read_to_end(&mut text)?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}
