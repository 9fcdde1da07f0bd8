//! Secrets on their way from `run --detach` to the supervisor that it starts: over a pipe, for the child's arguments and
//! environment have none any more.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

use matchlock_model::SecretSpec;
use matchlock_sandbox::network::{SecretValue, SecretValues, keep_memory_private};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::detach::inherited_pipe;
use crate::{
    env::{Environment, SECRETS_FD},
    error::CliError,
};

/// What this process has of secrets, or is handed.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// Without values.
    pub(crate) secrets: BTreeMap<String, SecretSpec>,
    /// The values.
    pub(crate) values: SecretValues,
}

#[derive(Serialize, Deserialize)]
struct Entry<Value> {
    name: String,
    spec: SecretSpec,
    value: Value,
}

impl Handover {
    /// What our parent has for us, if it has something.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Option<Self>, CliError> {
        let Some(pipe) = inherited_pipe(SECRETS_FD, environment.secrets_fd.as_deref())? else { return Ok(None) };
        let failed = || CliError::io("take over secrets");
        keep_memory_private().map_err(failed())?;
        Self::read(File::from(pipe)).map(Some).map_err(failed())
    }

    fn read(mut pipe: impl Read) -> io::Result<Self> {
        let mut text = Zeroizing::new(Vec::new());
        pipe.read_to_end(&mut text)?;
        let entries: Vec<Entry<Vec<u8>>> = serde_json::from_slice(&text)?;
        let mut handover = Self::default();
        for Entry { name, spec, value } in entries {
            handover.values.insert(name.clone(), SecretValue::new(value).map_err(io::Error::other)?);
            handover.secrets.insert(name, spec);
        }
        Ok(handover)
    }

    /// Hand it over to whoever reads `pipe`, to the end.
    pub(crate) fn write(&self, pipe: OwnedFd) -> io::Result<()> {
        let entries = self.secrets.iter().filter_map(|(name, spec)| {
            let value = self.values.get(name)?.reveal();
            Some(Entry { name: name.clone(), spec: spec.clone(), value })
        });
        let text = Zeroizing::new(serde_json::to_vec(&entries.collect::<Vec<_>>())?);
        File::from(pipe).write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_arrives() {
        let spec = SecretSpec {
            placeholder: "pretend-0123".to_owned(),
            hosts: vec!["x.com".to_owned()],
            ..SecretSpec::default()
        };
        let odd = b"caf\xe9 \"quoted\"".to_vec();
        let given = Handover {
            secrets: [("KEY".to_owned(), spec)].into(),
            values: [("KEY".to_owned(), SecretValue::new(odd.clone()).unwrap())].into(),
        };
        let (read, write) = rustix::pipe::pipe().unwrap();
        given.write(write).unwrap();
        let taken = Handover::read(File::from(read)).unwrap();
        assert_eq!(taken.secrets, given.secrets);
        assert_eq!(taken.values["KEY"].reveal(), odd);
        assert!(!format!("{given:?}").contains("caf"));
    }
}
