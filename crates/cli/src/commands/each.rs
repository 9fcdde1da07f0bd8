//! What verbs for several sandboxes have in common: each sandbox gets its line, and one that fails keeps the verb from no other.

use matchlock_model::{ExitStatus, SandboxId};

use super::get;
use crate::{error::CliError, output};

/// How it went so far.
pub(crate) struct Each {
    /// Nobody reading what is printed is no reason to stop half-way.
    printed: Result<(), CliError>,
    status: ExitStatus,
}

impl Each {
    pub(crate) const fn new() -> Self {
        Self { printed: Ok(()), status: ExitStatus::SUCCESS }
    }

    /// The sandboxes that were typed, other than what cannot be one.
    pub(crate) fn typed(&mut self, ids: &[String]) -> Vec<SandboxId> {
        let parsed = ids.iter().map(|id| get::parse(id));
        parsed.filter_map(|id| id.inspect_err(|error| self.failed(&error.to_string())).ok()).collect()
    }

    pub(crate) fn done(&mut self, line: &str) {
        if self.printed.is_ok() {
            self.printed = output::line(line);
        }
    }

    pub(crate) fn failed(&mut self, line: &str) {
        output::note(line);
        self.status = ExitStatus::Failure;
    }

    /// The verb's end.
    pub(crate) fn finish(self) -> Result<ExitStatus, CliError> {
        self.printed.map(|()| self.status)
    }
}
