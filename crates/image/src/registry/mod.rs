//! A client for the pull half of the OCI distribution specification 1.1, for one repository of one registry.
//!
//! Called by pull. Invariant: nothing from the wire is kept in memory beyond a stated bound, a document is returned
//! only after its digest was checked, and credentials reach nobody but the registry and the token server it names.

mod access;
mod auth;
mod credentials;
mod error;
mod tls;
mod wire;

use std::time::Duration;

use matchlock_model::Digest;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, RANGE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{
    manifest::{MAX_DOCUMENT, sha256},
    reference::Reference,
};
use auth::Authorization;
use credentials::{Credentials, Found};
use wire::Wire;

pub use access::RegistryAccess;
pub use error::RegistryError;

/// Tries of one small request, the first included.
const MAX_TRIES: u32 = 4;
/// Longest pause that a registry can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// Most bytes of an error page that are looked at.
const MAX_ERROR_PAGE: u64 = 16 << 10;

const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// One repository of one registry.
pub(crate) struct Registry {
    wire: Wire,
    /// `https://host/v2/name`.
    base: String,
    repository: String,
    image: String,
    pause: Duration,
    found: Found,
    authorization: Mutex<Option<Authorization>>,
}

/// A blob's body, from the beginning or from where it was asked to go on.
pub(crate) struct Body {
    response: Response,
    /// The registry skipped what was already here.
    pub(crate) resumed: bool,
}

#[derive(Deserialize)]
struct ErrorPage {
    errors: Vec<ErrorLine>,
}

#[derive(Deserialize)]
struct ErrorLine {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

impl Registry {
    /// Find out how to talk to the registry of `reference`. Sends nothing, except to this machine itself.
    pub(crate) async fn connect(access: &RegistryAccess, reference: &Reference) -> Result<Self, RegistryError> {
        let name = reference.registry();
        let wire = Wire::new(access, name)?;
        let host = if name == "docker.io" { "registry-1.docker.io" } else { name };
        let scheme = if is_loopback(name) && wire.speaks_plain_http(host).await { "http" } else { "https" };
        Ok(Self {
            wire,
            base: format!("{scheme}://{host}/v2/{}", reference.repository()),
            repository: reference.repository().to_owned(),
            image: reference.within_registry(),
            pause: access.pause,
            found: credentials::look_up(&access.auth_files, name).await,
            authorization: Mutex::new(None),
        })
    }

    /// A manifest or index by tag or digest, with its digest.
    pub(crate) async fn document(&self, version: &str) -> Result<(Vec<u8>, Digest), RegistryError> {
        let bytes = self.small(&format!("manifests/{version}"), "the manifest", MAX_DOCUMENT).await?;
        let found = sha256(&bytes);
        match version.parse::<Digest>() {
            Ok(expected) if expected != found => {
                Err(RegistryError::WrongDigest { what: "the manifest".to_owned(), found, expected })
            }
            _ => Ok((bytes, found)),
        }
    }

    /// A blob that is read as a whole, such as an image configuration.
    pub(crate) async fn configuration(&self, expected: Digest) -> Result<Vec<u8>, RegistryError> {
        let bytes = self.small(&format!("blobs/{expected}"), "the image configuration", MAX_DOCUMENT).await?;
        let found = sha256(&bytes);
        if found != expected {
            return Err(RegistryError::WrongDigest { what: "the image configuration".to_owned(), found, expected });
        }
        Ok(bytes)
    }

    /// The blob `digest` from byte `offset` on. Its digest is the caller's to check.
    pub(crate) async fn blob(&self, digest: Digest, offset: u64) -> Result<Body, RegistryError> {
        let response = self.get(&format!("blobs/{digest}"), "a layer", offset).await?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        Ok(Body { response, resumed })
    }

    /// Pause after `tries` tries in vain, each time for longer.
    pub(crate) async fn pause(&self, tries: u32) {
        pause(self.pause * 2u32.saturating_pow(tries.min(10))).await;
    }

    async fn small(&self, path: &str, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let result = match self.get(path, what, 0).await {
                Ok(response) => self.wire.body(response, what, limit).await,
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.is_transient() && tries < MAX_TRIES => self.pause(tries - 1).await,
                other => return other,
            }
        }
    }

    /// One request, repeated once if the registry wants to be authorised (anew).
    async fn get(&self, path: &str, what: &str, offset: u64) -> Result<Response, RegistryError> {
        let response = self.send(path, offset).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.checked(response, what).await;
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let credentials = &self.found.credentials;
        let answer = auth::answer(&self.wire, &self.repository, challenges, credentials).await?;
        let Some(authorization) = answer else { return Err(self.refusal()) };
        *self.authorization.lock().await = Some(authorization);
        let response = self.send(path, offset).await?;
        self.checked(response, what).await
    }

    async fn send(&self, path: &str, offset: u64) -> Result<Response, RegistryError> {
        let mut request = self.wire.client.get(format!("{}/{path}", self.base));
        if path.starts_with("manifests/") {
            request = request.header(ACCEPT, DOCUMENTS);
        }
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        request = match self.authorization.lock().await.clone() {
            Some(Authorization::Basic { user, password }) => request.basic_auth(user, Some(password)),
            Some(Authorization::Bearer(token)) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.wire.error(&error))?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            if let Some(seconds) = seconds {
                pause(Duration::from_secs(seconds)).await;
            }
        }
        Ok(response)
    }

    /// Pass a good answer on, and turn any other into an error with the registry's own words.
    async fn checked(&self, response: Response, what: &str) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let registry = self.wire.registry.clone();
        let page = self.wire.body(response, "an error", MAX_ERROR_PAGE).await.unwrap_or_default();
        let line = serde_json::from_slice::<ErrorPage>(&page).ok().and_then(|page| page.errors.into_iter().next());
        let code = line.as_ref().map(|line| line.code.as_str()).unwrap_or_default();
        let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let message = line.as_ref().and_then(|line| line.message.as_deref().or(Some(&line.code)));
        Err(match status {
            _ if denied || matches!(code, "UNAUTHORIZED" | "DENIED") => self.refusal(),
            StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests { registry },
            StatusCode::NOT_FOUND if what == "the manifest" => {
                RegistryError::Unknown { registry, image: self.image.clone() }
            }
            _ => RegistryError::Status {
                registry,
                status: status.as_u16(),
                what: what.to_owned(),
                message: message.map(printable).filter(|text| !text.is_empty()),
            },
        })
    }

    fn refusal(&self) -> RegistryError {
        let (registry, image, hindrance) =
            (self.wire.registry.clone(), self.image.clone(), self.found.hindrance.clone());
        match self.found.credentials {
            Credentials::Anonymous => RegistryError::LoginNeeded { registry, image, hindrance },
            _ => RegistryError::LoginRefused { registry, image, hindrance },
        }
    }
}

impl Body {
    /// The next bytes, or `None` at the end.
    pub(crate) async fn chunk(&mut self, registry: &Registry) -> Result<Option<impl AsRef<[u8]>>, RegistryError> {
        self.response.chunk().await.map_err(|error| registry.wire.error(&error))
    }
}

/// Whether `registry` (a host with or without a port) is this machine.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Text from a server, fit for a terminal.
fn printable(text: &str) -> String {
    matchlock_model::printable(text, 200)
}

#[expect(clippy::disallowed_methods, reason = "a pause between tries; there is no event to wait for")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration.min(MAX_PAUSE)).await;
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for local in ["localhost", "localhost:5000", "reg.localhost:80", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(local), "{local}");
        }
        for remote in [
            "localhost.example.com",
            "evil-localhost",
            "192.168.1.1:5000",
            "docker.io",
            "[::2]:5000",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback(remote), "{remote}");
        }
    }
}
