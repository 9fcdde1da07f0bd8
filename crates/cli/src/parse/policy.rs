//! `--policy`.

use std::{fs::File, io::Read, path::Path};

use matchlock_sandbox::network::{MAX_POLICY_FILE, PolicyFile};

use crate::error::CliError;

/// What the file says. What is wrong with it is told with its line.
pub(crate) fn policy_file(path: &Path) -> Result<PolicyFile, CliError> {
    let operation = format!("read policy file {}", path.display());
    let mut text = String::new();
    let file = File::open(path).map_err(CliError::io(&operation))?;
    // One byte more than it may have, so that what is longer is seen to be.
    file.take(MAX_POLICY_FILE as u64 + 1).read_to_string(&mut text).map_err(CliError::io(&operation))?;
    PolicyFile::parse(&path.display().to_string(), &text).map_err(CliError::plain)
}
