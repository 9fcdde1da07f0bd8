//! Which of an image's variants this machine can run.

use std::fmt;

/// An operating system and processor in the words of image manifests (Go's `GOOS` and `GOARCH`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The operating system; guests are always Linux.
    pub os: String,
    /// The processor.
    pub architecture: String,
}

impl Platform {
    /// Linux on this machine's processor: a guest is never emulated across architectures.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}
