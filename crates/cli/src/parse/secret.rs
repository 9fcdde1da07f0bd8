//! `--secret`, `--secret-file` and `--secret-placeholder`. No message has a value in it, nor what may be one.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::File,
    io::Read,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::Path,
};

use matchlock_model::SecretSpec;
use matchlock_sandbox::network::SecretValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{error::CliError, output};

/// The largest file of secrets, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What the file is to look like.
const SHAPE: &str =
    r#"{"NAME": {"value": "…", "hosts": ["api.example.com"], "placeholder"?, "body"?, "without_tls"?}}"#;

/// A word of `--secret`. It may have a value in it, so it is neither shown nor left in memory.
#[derive(Clone, PartialEq)]
pub(crate) struct SecretWord(Zeroizing<String>);

/// A secret as it was given. Its placeholder is empty where none was chosen.
pub(crate) struct GivenSecret {
    pub(crate) name: String,
    pub(crate) value: SecretValue,
    pub(crate) spec: SecretSpec,
}

/// Where the value of a [`SecretWord`] comes from.
pub(crate) enum Source<'a> {
    /// It is in the word.
    Inline(&'a str),
    /// The variable of that name has it.
    Variable(&'a str),
}

impl From<&str> for SecretWord {
    fn from(word: &str) -> Self {
        Self(Zeroizing::new(word.to_owned()))
    }
}

impl SecretWord {
    /// Whether this is it.
    pub(crate) fn is(&self, word: &str) -> bool {
        *self.0 == word
    }

    /// Where its value comes from. The last `@` begins the hosts, the first `=` the value.
    pub(crate) fn source(&self) -> Option<Source<'_>> {
        let (secret, _) = self.0.rsplit_once('@')?;
        Some(match secret.split_once('=') {
            Some((_, value)) => Source::Inline(value),
            None => Source::Variable(secret.trim()),
        })
    }

    /// `NAME=VALUE@HOST[,HOST…]`, or `NAME@HOST[,HOST…]` for the value of the caller's variable.
    pub(crate) fn parse(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<GivenSecret, CliError> {
        let wrong = |why: &str| CliError::failure(format!("invalid secret \"{}\": {why}", self.shown()));
        let missing = "missing @hosts (format: NAME=VALUE@host1,host2 or NAME@host1,host2)";
        let (secret, hosts) = self.0.rsplit_once('@').ok_or_else(|| wrong(missing))?;
        let hosts: Vec<_> =
            hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(ToOwned::to_owned).collect();
        if hosts.is_empty() {
            return Err(wrong("no hosts specified after @"));
        }
        let name = secret.split_once('=').map_or(secret, |(name, _)| name).trim();
        if name.is_empty() {
            return Err(wrong("secret name cannot be empty"));
        }
        let value = match self.source() {
            Some(Source::Inline(value)) => value.as_bytes().to_vec(),
            _ => variable(name).filter(|value| !value.is_empty()).map(OsString::into_vec).ok_or_else(|| {
                let name = shown_name(name);
                wrong(&format!(
                    "environment variable ${name} is not set (hint: use 'sudo -E' to preserve env vars, or pass inline: \
                     {name}=VALUE@{})",
                    hosts.join(",")
                ))
            })?,
        };
        let value = SecretValue::new(value).map_err(|why| wrong(&why.to_string()))?;
        Ok(GivenSecret { name: name.to_owned(), value, spec: SecretSpec { hosts, ..SecretSpec::default() } })
    }

    /// The word without what is its value, or may have been meant as one.
    fn shown(&self) -> String {
        let (secret, hosts) =
            self.0.rsplit_once('@').map_or((&**self.0, ""), |(secret, _)| (secret, &self.0[secret.len()..]));
        match secret.split_once('=') {
            Some((name, _)) => format!("{name}=…{hosts}"),
            None => format!("{}{hosts}", shown_name(secret)),
        }
    }
}

/// A name, if it looks like a variable's. It may be a value whose name was forgotten.
fn shown_name(name: &str) -> &str {
    let usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if name.bytes().all(usual) { name } else { "…" }
}

impl fmt::Debug for SecretWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    value: String,
    hosts: Vec<String>,
    #[serde(default)]
    placeholder: String,
    #[serde(default)]
    body: bool,
    #[serde(default)]
    without_tls: bool,
}

/// The secrets of a file: a JSON object with one member for each.
pub(crate) fn secret_file(path: &Path) -> Result<Vec<GivenSecret>, CliError> {
    let operation = format!("read secret file {}", path.display());
    let file = File::open(path).map_err(CliError::io(&operation))?;
    let metadata = file.metadata().map_err(CliError::io(&operation))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o044 != 0 {
        output::note(&format!("others can read the secrets in {0}: chmod 600 {0}", path.display()));
    }
    // It is never moved while it grows.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or_default() + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(CliError::io(&operation))?;
    let wrong = |why: &str| CliError::failure(format!("{operation}: {why}"));
    if text.len() as u64 > MAX_FILE {
        return Err(wrong("larger than 1 MiB"));
    }
    // What serde says of a value that is not as expected has the value in it.
    let entries: BTreeMap<String, Entry> = serde_json::from_slice(&text).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        wrong(&if error.is_data() { format!("{place}: expected {SHAPE}") } else { format!("{place}: not JSON") })
    })?;
    let given = entries.into_iter().map(|(name, entry)| {
        let Entry { value, hosts, placeholder, body, without_tls } = entry;
        let value = SecretValue::new(value.into_bytes()).map_err(|why| wrong(&format!("{name}: {why}")))?;
        Ok(GivenSecret { name, value, spec: SecretSpec { placeholder, hosts, body, without_tls } })
    });
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(word: &str) -> Result<GivenSecret, String> {
        let set = |name: &str| match name {
            "SET" => Some(OsString::from("from-outside")),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        };
        SecretWord::from(word).parse(set).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms() {
        let of = |word| parse(word).map(|given| (given.name, given.value.reveal().to_vec(), given.spec.hosts)).unwrap();
        let hosts = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        assert_eq!(of("A=b=c@d@x.com"), ("A".to_owned(), b"b=c@d".to_vec(), hosts(&["x.com"])));
        assert_eq!(
            of("SET@x.com, *.y.com,"),
            ("SET".to_owned(), b"from-outside".to_vec(), hosts(&["x.com", "*.y.com"]))
        );
    }

    #[test]
    fn no_mistake_shows_a_value() {
        let words = [
            "NAME",
            "hunter2",
            "NAME=hunter2",
            "NAME@",
            "NAME=hunter2@,",
            "@x.com",
            "=hunter2@x.com",
            "UNSET@x.com",
            "EMPTY@x.com",
            "NAME=@x.com",
            "NAME=hunter2\n@x.com",
            "hunter2@x.com",
        ];
        let told: Vec<_> = words.iter().map(|word| parse(word).err().unwrap()).collect();
        assert!(!told.iter().any(|line| line.contains("hunter2")), "{told:?}");
        insta::assert_snapshot!(told.join("\n"), @r#"
        invalid secret "NAME": missing @hosts (format: NAME=VALUE@host1,host2 or NAME@host1,host2)
        invalid secret "…": missing @hosts (format: NAME=VALUE@host1,host2 or NAME@host1,host2)
        invalid secret "NAME=…": missing @hosts (format: NAME=VALUE@host1,host2 or NAME@host1,host2)
        invalid secret "NAME@": no hosts specified after @
        invalid secret "NAME=…@,": no hosts specified after @
        invalid secret "@x.com": secret name cannot be empty
        invalid secret "=…@x.com": secret name cannot be empty
        invalid secret "UNSET@x.com": environment variable $UNSET is not set (hint: use 'sudo -E' to preserve env vars, or pass inline: UNSET=VALUE@x.com)
        invalid secret "EMPTY@x.com": environment variable $EMPTY is not set (hint: use 'sudo -E' to preserve env vars, or pass inline: EMPTY=VALUE@x.com)
        invalid secret "NAME=…@x.com": the value of a secret has 1 to 16384 bytes and no line breaks or other control characters
        invalid secret "NAME=…@x.com": the value of a secret has 1 to 16384 bytes and no line breaks or other control characters
        invalid secret "…@x.com": environment variable $… is not set (hint: use 'sudo -E' to preserve env vars, or pass inline: …=VALUE@x.com)
        "#);
        assert!(!format!("{:?}", SecretWord::from("NAME=hunter2@x.com")).contains("hunter2"));
    }

    #[test]
    fn a_file_that_is_not_as_it_should_be_is_told_where() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("secrets.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            secret_file(&path).map_err(|error| error.to_string().replace(&home.path().display().to_string(), "~"))
        };
        let good = read(r#"{"KEY": {"value": "hunter2", "hosts": ["x.com"], "body": true}}"#).ok().unwrap();
        let [GivenSecret { name, value, spec }] = &good[..] else { panic!("{}", good.len()) };
        assert_eq!((&name[..], value.reveal(), &spec.hosts[..]), ("KEY", &b"hunter2"[..], &["x.com".to_owned()][..]));
        assert!(spec.body && !spec.without_tls && spec.placeholder.is_empty());
        let bad = [
            "",
            "{",
            r#"{"KEY": "hunter2"}"#,
            r#"{"KEY": {"value": "hunter2"}}"#,
            r#"{"KEY": {"valu": "hunter2"}}"#,
            r#"{"KEY": {"value": "", "hosts": []}}"#,
        ];
        let told: Vec<_> = bad.iter().map(|text| read(text).err().unwrap()).collect();
        assert!(!told.iter().any(|line| line.contains("hunter2")), "{told:?}");
        insta::assert_snapshot!(told.join("\n"), @r#"
        read secret file ~/secrets.json: line 1 column 0: not JSON
        read secret file ~/secrets.json: line 1 column 1: not JSON
        read secret file ~/secrets.json: line 1 column 17: expected {"NAME": {"value": "…", "hosts": ["api.example.com"], "placeholder"?, "body"?, "without_tls"?}}
        read secret file ~/secrets.json: line 1 column 28: expected {"NAME": {"value": "…", "hosts": ["api.example.com"], "placeholder"?, "body"?, "without_tls"?}}
        read secret file ~/secrets.json: line 1 column 15: expected {"NAME": {"value": "…", "hosts": ["api.example.com"], "placeholder"?, "body"?, "without_tls"?}}
        read secret file ~/secrets.json: KEY: the value of a secret has 1 to 16384 bytes and no line breaks or other control characters
        "#);
    }
}
