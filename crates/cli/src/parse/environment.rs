//! `-e/--env` and `--env-file`.

use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use crate::{env::Environment, error::CliError};

/// The longest line of an environment file, in bytes.
const MAX_LINE: u64 = 1024 * 1024;

/// The variables of `files` in order, then those of `specs`; of two with the same name the later one counts.
pub(crate) fn environment(files: &[PathBuf], specs: &[String]) -> Result<Vec<(String, String)>, CliError> {
    let mut variables = Vec::new();
    for file in files {
        read_file(file, &mut variables)?;
    }
    for spec in specs {
        let variable = variable(spec, Environment::named);
        variables.push(variable.map_err(|why| CliError::failure(format!("invalid environment variable: {why}")))?);
    }
    Ok(variables)
}

fn read_file(path: &Path, variables: &mut Vec<(String, String)>) -> Result<(), CliError> {
    let operation = format!("read env file: {}", path.display());
    let mut lines = BufReader::new(File::open(path).map_err(CliError::io(&operation))?);
    for number in 1.. {
        let mut line = String::new();
        let count = lines.by_ref().take(MAX_LINE).read_line(&mut line).map_err(CliError::io(&operation))?;
        if count == 0 {
            break;
        }
        let spec = line.trim();
        let bad = |why: &str| CliError::failure(format!("parse env file line {}:{number}: {why}", path.display()));
        if count as u64 == MAX_LINE && !line.ends_with('\n') {
            return Err(bad("longer than 1 MiB"));
        }
        if !spec.is_empty() && !spec.starts_with('#') {
            variables.push(variable(spec, Environment::named).map_err(|why| bad(&why))?);
        }
    }
    Ok(())
}

/// `NAME=VALUE`, or `NAME` for the caller's own value.
fn variable(spec: &str, host: impl Fn(&str) -> Option<OsString>) -> Result<(String, String), String> {
    let (name, value) = match spec.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.to_owned())),
        None => (spec.trim(), None),
    };
    if name.is_empty() {
        return Err("environment variable name cannot be empty".to_owned());
    }
    if spec.contains('\0') {
        return Err(format!("{name} contains a NUL byte"));
    }
    let value = if let Some(value) = value {
        value
    } else {
        let own = host(name).ok_or_else(|| format!("environment variable is not set ${name}"))?;
        own.into_string().map_err(|_| format!("environment variable is not UTF-8 ${name}"))?
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn both_forms_and_what_is_wrong_with_others() {
        let host = |name: &str| match name {
            "SET" => Some(OsString::from("host")),
            "ODD" => Some(OsString::from_vec(b"caf\xe9".to_vec())),
            _ => None,
        };
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(variable("A=b=c", host), pair("A", "b=c"));
        assert_eq!(variable(" A =", host), pair("A", ""));
        assert_eq!(variable("SET", host), pair("SET", "host"));
        assert_eq!(variable("UNSET", host), Err("environment variable is not set $UNSET".to_owned()));
        assert_eq!(variable("ODD", host), Err("environment variable is not UTF-8 $ODD".to_owned()));
        assert_eq!(variable("=x", host), Err("environment variable name cannot be empty".to_owned()));
    }
}
