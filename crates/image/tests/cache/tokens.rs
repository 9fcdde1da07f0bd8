//! Registries that send their users to a token server, as Docker Hub does.

use std::io::Write;

use matchlock_image::RegistryAccess;
use matchlock_testkit::{LoopbackRegistry, OciLayout, Options};

use crate::{
    servers::{forward, quick, server},
    support::{Home, pull, small, text},
};

/// Whether a token request is granted.
type Welcome = fn(&str) -> bool;

/// In front of `registry`: wants a password or, as it says in a second header, a token, which it gives to whom `welcome` says of a token request.
fn guarded(registry: &LoopbackRegistry, welcome: Welcome) -> String {
    let upstream = registry.host();
    server(move |_, request, mut client| {
        let host = client.local_addr().unwrap();
        let first = request.lines().next().unwrap_or_default();
        if first.contains("/token") {
            let scoped = request.contains("scope=repository%3Aapp%3Apull") && request.contains("service=guard");
            let (status, body) = if scoped && welcome(&request) {
                ("200 OK", r#"{"access_token": "open sesame", "expires_in": 60}"#)
            } else {
                ("401 Unauthorized", "{}")
            };
            write!(client, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .unwrap();
        } else if first.contains("/v2/ ") || request.contains("authorization: Bearer open sesame") {
            forward(&upstream, &request, client, u64::MAX);
        } else {
            let challenge =
                format!(r#"Bearer realm="http://{host}/token",service="guard",scope="repository:app:pull""#);
            write!(client, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"guard\"\r\n").unwrap();
            write!(client, "WWW-Authenticate: {challenge}\r\n").unwrap();
            write!(client, "Connection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    })
}

#[tokio::test]
async fn tokens_are_fetched_with_whatever_credentials_there_are() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&OciLayout::of(&small("behind a token")).unwrap(), "app:1").unwrap();
    // YW5uOndvcmQ= is "ann:word" in base64.
    let cases: [(&str, Welcome, &str); 5] = [
        ("anonymous", |request| !request.contains("authorization"), ""),
        ("password", |request| request.contains("authorization: Basic YW5uOndvcmQ="), r#""auth": "YW5uOndvcmQ=""#),
        (
            "identity token",
            |request| request.starts_with("POST") && request.contains("grant_type=refresh_token&refresh_token=a%2Fb"),
            r#""identitytoken": "a/b""#,
        ),
        ("refused", |_| false, r#""auth": "YW5uOndvcmQ=""#),
        ("refused stranger", |_| false, ""),
    ];
    let mut lines = Vec::new();
    for (what, welcome, credentials) in cases {
        let (home, host) = (Home::new(), guarded(&registry, welcome));
        let file = home.file("config.json");
        std::fs::write(&file, format!(r#"{{"auths": {{"{host}": {{{credentials}}}}}}}"#)).unwrap();
        let access = RegistryAccess { auth_files: vec![file], ..quick() };
        let outcome = match pull(&home.cache_with(access), &format!("{host}/app:1")).await {
            Ok(image) => text(&image, "file"),
            Err(line) => line.replace(&host, "HOST"),
        };
        lines.push(format!("{what}: {outcome}"));
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    anonymous: behind a token
    password: behind a token
    identity token: behind a token
    refused: pull image: HOST refuses app:1 with the stored credentials (UNAUTHORIZED); run: docker login HOST
    refused stranger: pull image: HOST has no image app:1, or hides it from strangers (UNAUTHORIZED); check the name, or run: docker login HOST
    ");
}
