//! The answer to a registry's `WWW-Authenticate`: Basic, or a bearer token from its token server.
//!
//! Follows the distribution project's "token" and "oauth2" pages. Invariant: credentials go to the token server
//! named by the registry over https only, or in plain text if both are on this machine.

use http_auth::{ChallengeParser, ChallengeRef};
use reqwest::{StatusCode, Url, header::CONTENT_TYPE, header::HeaderValue};
use serde::Deserialize;

use super::{RegistryError, credentials::Credentials, is_loopback, wire::Wire};

/// Largest answer of a token server.
const MAX_TOKEN: u64 = 256 << 10;
/// What the token server is told we are.
const CLIENT_ID: &str = "matchlock";

/// How requests are signed. Has no `Debug`: nothing may print it.
#[derive(Clone)]
pub(super) enum Authorization {
    Basic { user: String, password: String },
    Bearer(String),
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a bearer challenge asks for.
struct Bearer {
    realm: String,
    service: Option<String>,
    scope: String,
}

/// Do what one of the challenges in `headers` asks for; `None` if we have nothing that any accepts. There may be several
/// in one header, and several headers (RFC 9110, section 11.6.1).
pub(super) async fn answer(
    wire: &Wire,
    repository: &str,
    headers: impl IntoIterator<Item = &HeaderValue>,
    credentials: &Credentials,
) -> Result<Option<Authorization>, RegistryError> {
    let texts = headers.into_iter().filter_map(|header| header.to_str().ok());
    let challenges: Vec<ChallengeRef<'_>> =
        texts.flat_map(|text| ChallengeParser::new(text).map_while(Result::ok)).collect();
    if let Some(bearer) = challenges.iter().find(|offer| offer.scheme.eq_ignore_ascii_case("bearer")) {
        let parameter = |name: &str| {
            let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let scope = parameter("scope").unwrap_or_else(|| format!("repository:{repository}:pull"));
        let bearer = Bearer { realm: parameter("realm").unwrap_or_default(), service: parameter("service"), scope };
        return fetch_token(wire, &bearer, credentials).await.map(|token| token.map(Authorization::Bearer));
    }
    let basic = challenges.iter().any(|offer| offer.scheme.eq_ignore_ascii_case("basic"));
    Ok(match credentials {
        Credentials::Password { user, password } if basic => {
            Some(Authorization::Basic { user: user.clone(), password: password.clone() })
        }
        _ => None,
    })
}

/// `None` if the token server refuses these credentials.
async fn fetch_token(wire: &Wire, bearer: &Bearer, credentials: &Credentials) -> Result<Option<String>, RegistryError> {
    let failed = |reason: String| RegistryError::NoToken { registry: wire.registry.clone(), reason };
    let mut url: Url = bearer.realm.parse().map_err(|_| failed("it names no token server".to_owned()))?;
    let both_local = is_loopback(&wire.registry) && url.host_str().is_some_and(is_loopback);
    if url.scheme() != "https" && !both_local {
        return Err(RegistryError::InsecureTokens {
            registry: wire.registry.clone(),
            realm: url.host_str().unwrap_or_default().to_owned(),
        });
    }
    let service = bearer.service.iter().map(|service| ("service", service.as_str()));
    let request = match credentials {
        Credentials::IdentityToken(token) => {
            // The form's encoding is a query's.
            let mut form = url.clone();
            let grant = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", CLIENT_ID)];
            form.query_pairs_mut()
                .clear()
                .extend_pairs(service)
                .extend_pairs(grant)
                .append_pair("scope", &bearer.scope);
            let form = form.query().unwrap_or_default().to_owned();
            wire.client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
        }
        Credentials::Password { user, password } => {
            url.query_pairs_mut()
                .extend_pairs(service)
                .append_pair("scope", &bearer.scope)
                .append_pair("account", user);
            wire.client.get(url).basic_auth(user, Some(password))
        }
        Credentials::Anonymous => {
            url.query_pairs_mut().extend_pairs(service).append_pair("scope", &bearer.scope);
            wire.client.get(url)
        }
    };
    let response = request.send().await.map_err(|error| failed(RegistryError::reason(&error)))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => return Ok(None),
        other => return Err(failed(format!("it answered {}", other.as_u16()))),
    }
    let answer = wire.body(response, "the token", MAX_TOKEN).await?;
    let answer: TokenAnswer = serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
    Ok(Some(answer.token.or(answer.access_token).ok_or_else(|| failed("its answer holds none".to_owned()))?))
}
