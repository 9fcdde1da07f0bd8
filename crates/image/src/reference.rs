//! Image references as people type them, and the one form in which two spellings of the same image are equal.
//!
//! Called by everything that looks an image up. Invariant: a [`Reference`] is well-formed (grammar of the
//! distribution project's `reference` package) and its parts are safe in URLs; nothing else reaches a registry.

use std::{fmt, str::FromStr};

use matchlock_model::Digest;
use thiserror::Error;

/// The registry of references that name none.
const DOCKER_HUB: &str = "docker.io";
/// Longest registry and repository together, as registries enforce it.
const MAX_NAME: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;

/// A parsed image reference: `[registry/]repository[:tag][@sha256:…]`.
#[derive(Clone, Debug)]
pub struct Reference {
    typed: String,
    registry: String,
    repository: String,
    tag: String,
    digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?}: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// The text that was parsed.
    #[must_use]
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// The registry's host with its port, `docker.io` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, `library/` filled in.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, where the reference pins one; it then decides, and the tag is decoration.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest if there is one, the tag otherwise.
    #[must_use]
    pub fn version(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone(), |digest| digest.to_string())
    }

    /// The form that is equal for all spellings of one image: `alpine` is `docker.io/library/alpine:latest`.
    #[must_use]
    pub fn canonical(&self) -> String {
        format!("{}/{}", self.registry, self.within_registry())
    }

    /// The canonical form without the registry.
    pub(crate) fn within_registry(&self) -> String {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        format!("{}{separator}{}", self.repository, self.version())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError { text: text.chars().take(200).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains("://") {
        return Err("write it without a scheme, as registry/name:tag");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse::<Digest>().map_err(|_| "its digest must be sha256: and 64 hex digits")?))
        }
        None => (text, None),
    };
    let (registry, rest) = split_registry(rest)?;
    let (path, tag) = rest.split_once(':').map_or((rest, "latest"), |(path, tag)| (path, tag));
    check_tag(tag)?;
    check_path(path)?;
    let repository =
        if registry == DOCKER_HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err("the name is longer than 255 characters");
    }
    Ok(Reference { typed: text.to_owned(), registry, repository, tag: tag.to_owned(), digest })
}

/// The first component is a registry if it looks like a host: a dot, a port, brackets or `localhost`.
fn split_registry(text: &str) -> Result<(String, &str), &'static str> {
    let Some((first, rest)) = text.split_once('/') else { return Ok((DOCKER_HUB.to_owned(), text)) };
    if !first.contains(['.', ':']) && first != "localhost" && first == first.to_lowercase() {
        return Ok((DOCKER_HUB.to_owned(), text));
    }
    check_host(first)?;
    let registry = match first.to_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    };
    Ok((registry, rest))
}

fn check_host(text: &str) -> Result<(), &'static str> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the registry in brackets is not an IPv6 address")?;
            ("v6", port.strip_prefix(':').or_else(|| port.is_empty().then_some("443")).unwrap_or(""))
        }
        None => text.split_once(':').unwrap_or((text, "443")),
    };
    if port.parse::<u16>().is_err() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the registry's port is not a number");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.split('.').all(label) { Ok(()) } else { Err("the registry is not a host name") }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower-case");
    }
    let component = |component: &str| {
        let (first, last) = (component.bytes().next(), component.bytes().next_back());
        let alphanumeric = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
        alphanumeric(first)
            && alphanumeric(last)
            && component.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && separators_are_legal(component)
    };
    if path.split('/').all(component) {
        Ok(())
    } else {
        Err("the repository name may hold lower-case letters, digits and single separators . _ __ - only")
    }
}

/// Between alphanumeric runs: one dot, one or two underscores, or any number of hyphens.
fn separators_are_legal(component: &str) -> bool {
    component
        .split(|c: char| c.is_ascii_alphanumeric())
        .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    if tag.len() <= MAX_TAG && bytes.next().is_some_and(legal) && bytes.all(|b| legal(b) || b == b'.' || b == b'-') {
        Ok(())
    } else {
        Err("a tag is up to 128 letters, digits and . _ - and starts with none of . -")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Reference>().map_or_else(|error| error.to_string(), |reference| reference.canonical())
    }

    #[test]
    fn all_spellings_of_one_image_are_equal() {
        for spelling in
            ["alpine", "alpine:latest", "library/alpine", "docker.io/library/alpine", "index.docker.io/alpine:latest"]
        {
            assert_eq!(canonical(spelling), "docker.io/library/alpine:latest", "{spelling}");
        }
        assert_eq!(canonical("me/app:1.0"), "docker.io/me/app:1.0");
        assert_eq!(canonical("localhost/app"), "localhost/app:latest");
        assert_eq!(canonical("localhost:5000/a/b__c-d.e:x_1"), "localhost:5000/a/b__c-d.e:x_1");
        assert_eq!(canonical("[::1]:5000/app"), "[::1]:5000/app:latest");
        assert_eq!(canonical("GHCR.io/me/app"), "ghcr.io/me/app:latest");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(canonical(&format!("alpine:3@{digest}")), format!("docker.io/library/alpine@{digest}"));
    }

    #[test]
    fn what_is_no_reference_says_why() {
        let bad = [
            "",
            "Alpine",
            "a b",
            "-a",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:-x",
            "a@sha256:12",
            "https://x.io/a",
            "x.io:port/a",
            "[::g]/a",
            "a..b",
            "a._b",
            "x.io:99999/a",
            "../../etc/passwd",
            "a\n",
            "é",
        ];
        let lines: String = bad.iter().map(|text| canonical(text) + "\n").collect();
        insta::assert_snapshot!(lines, @r#"
        "": it is empty
        "Alpine": the repository name must be lower-case
        "a b": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "-a": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "a//b": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "a/": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "/a": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "a:": a tag is up to 128 letters, digits and . _ - and starts with none of . -
        "a:-x": a tag is up to 128 letters, digits and . _ - and starts with none of . -
        "a@sha256:12": its digest must be sha256: and 64 hex digits
        "https://x.io/a": write it without a scheme, as registry/name:tag
        "x.io:port/a": the registry's port is not a number
        "[::g]/a": the registry in brackets is not an IPv6 address
        "a..b": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "a._b": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "x.io:99999/a": the registry's port is not a number
        "../../etc/passwd": the registry is not a host name
        "a\n": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "é": the repository name may hold lower-case letters, digits and single separators . _ __ - only
        "#);
        assert!(format!("{}/x", "a".repeat(300)).parse::<Reference>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_canonical_forms_are_fixed_points(text in "\\PC{0,40}|[a-z0-9.:/@_-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let canonical = reference.canonical();
                proptest::prop_assert_eq!(canonical.parse::<Reference>().unwrap().canonical(), canonical);
            }
        }
    }
}
