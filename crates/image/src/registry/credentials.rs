//! The user's credentials for a registry, from Docker's and Podman's files and credential helpers.
//!
//! Called once per pull. Invariant: what cannot be read never stops an anonymous pull; the reason is kept, and shown
//! if the registry then refuses.

use std::{fs::File, io::ErrorKind, io::Read, path::PathBuf, time::Duration};

use docker_credential::{CredentialRetrievalError, DockerCredential};

/// Longest wait for a credential helper, which may ask the user to unlock a key ring.
const HELPER: Duration = Duration::from_mins(2);
/// Largest credentials file that is read.
const MAX_FILE: u64 = 4 << 20;

/// Who the registry is told we are. Has no `Debug`: nothing may print it.
pub(super) enum Credentials {
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// Exchanged for an access token at the registry's token server (distribution project, "oauth2 token").
    IdentityToken(String),
}

/// What was found, and what stood in the way of finding more.
pub(super) struct Found {
    pub(super) credentials: Credentials,
    pub(super) hindrance: Option<String>,
}

/// Look `registry` up in `files`, asking helper programs where the files say so.
pub(super) async fn look_up(files: &[PathBuf], registry: &str) -> Found {
    let (files, registry) = (files.to_vec(), registry.to_owned());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own, not the runtime's: a helper that never answers must not hold up the end of the process.
    std::thread::spawn(move || sender.send(search(&files, &registry)));
    match tokio::time::timeout(HELPER, receiver).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) | Err(_) => Found {
            credentials: Credentials::Anonymous,
            hindrance: Some(format!("the credential helper gave no answer in {} s", HELPER.as_secs())),
        },
    }
}

fn search(files: &[PathBuf], registry: &str) -> Found {
    let mut hindrance = None;
    for file in files {
        let mut text = Vec::new();
        match File::open(file).and_then(|open| open.take(MAX_FILE).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                hindrance.get_or_insert_with(|| format!("{}: {error}", file.display()));
                continue;
            }
        }
        for server in server_names(registry) {
            match docker_credential::get_credential_from_reader(&text[..], server) {
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Found { credentials: Credentials::Password { user, password }, hindrance };
                }
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Found { credentials: Credentials::IdentityToken(token), hindrance };
                }
                Err(error) => {
                    if let Some(reason) = explain(&error) {
                        hindrance.get_or_insert_with(|| format!("{}: {reason}", file.display()));
                    }
                }
            }
        }
    }
    Found { credentials: Credentials::Anonymous, hindrance }
}

/// Docker keeps Docker Hub's credentials under a URL that nobody uses any more, Podman under the plain name.
fn server_names(registry: &str) -> Vec<&str> {
    if registry == "docker.io" { vec!["https://index.docker.io/v1/", "docker.io"] } else { vec![registry] }
}

/// One line, or `None` where there simply are no credentials.
fn explain(error: &CredentialRetrievalError) -> Option<String> {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => None,
        CredentialRetrievalError::HelperFailure { stdout, .. } if stdout.contains("credentials not found") => None,
        CredentialRetrievalError::HelperFailure { helper, stdout, stderr } => {
            let said = stderr.lines().chain(stdout.lines()).find(|line| !line.trim().is_empty()).unwrap_or("no reason");
            Some(format!("{helper} failed: {}", said.trim().chars().take(200).collect::<String>()))
        }
        CredentialRetrievalError::HelperCommunicationError => {
            Some("its credential helper (docker-credential-…) cannot be run".to_owned())
        }
        CredentialRetrievalError::ConfigReadError => Some("not valid JSON".to_owned()),
        other => Some(other.to_string().to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_is_found_under_both_names_and_trouble_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        // "u:p" in base64.
        let podman = write("podman.json", r#"{"auths":{"docker.io":{"auth":"dTpw"}}}"#);
        let docker = write("docker.json", r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#);
        let broken = write("broken.json", "{");
        let absent = dir.path().join("absent.json");
        for file in [podman, docker] {
            let found = search(&[absent.clone(), broken.clone(), file], "docker.io");
            assert!(
                matches!(&found.credentials, Credentials::Password { user, password } if user == "u" && password == "p")
            );
            assert!(found.hindrance.unwrap().ends_with("broken.json: not valid JSON"));
        }
        let helper = write("helper.json", r#"{"credHelpers":{"x.io":"matchlock-test-absent"}}"#);
        let found = search(&[helper], "x.io");
        assert!(matches!(found.credentials, Credentials::Anonymous));
        assert!(found.hindrance.unwrap().contains("cannot be run"));
    }
}
