//! The HTTP client for one registry with what its errors and bounds need to know.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};

use super::{RegistryAccess, RegistryError, tls};

/// How one registry is reached.
pub(super) struct Wire {
    pub(super) client: Client,
    /// The registry as references name it.
    pub(super) registry: String,
    silence: Duration,
}

impl Wire {
    pub(super) fn new(access: &RegistryAccess, registry: &str) -> Result<Self, RegistryError> {
        let client = tls::client(access, registry)?;
        Ok(Self { client, registry: registry.to_owned(), silence: access.silence })
    }

    /// What a failed transfer is called.
    pub(super) fn error(&self, error: &reqwest::Error) -> RegistryError {
        RegistryError::from_transport(&self.registry, self.silence, error)
    }

    /// All of a body that is not larger than `limit`.
    pub(super) async fn body(&self, mut response: Response, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::TooLarge { registry: self.registry.clone(), what: what.to_owned(), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.error(&error))? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Whether `host` answers plain HTTP. A server that wants TLS answers a plain request with an error (400), or
    /// with something that is no HTTP.
    pub(super) async fn speaks_plain_http(&self, host: &str) -> bool {
        match self.client.get(format!("http://{host}/v2/")).send().await {
            Ok(response) => response.status() != StatusCode::BAD_REQUEST,
            // Nobody is there at all, or says anything: the real request will tell.
            Err(error) => error.is_connect() || error.is_timeout(),
        }
    }
}
