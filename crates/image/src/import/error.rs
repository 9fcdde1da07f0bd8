//! What is wrong with an archive, each as one line.

use std::io;

use matchlock_model::Digest;
use thiserror::Error;

use crate::{ConvertError, manifest::ManifestError};

/// Why no image could be read from an archive.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
#[non_exhaustive]
pub enum ArchiveError {
    #[error("the input is empty")]
    Empty,
    #[error("the input is not a tar archive ({0})")]
    NotATar(&'static str),
    #[error("the archive ends early, {place}")]
    Truncated { place: String },
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("cannot keep the archive in {path}")]
    Spool { path: std::path::PathBuf, source: io::Error },
    #[error("the archive is damaged or hostile")]
    Tar(#[source] ConvertError),
    #[error("archive member {0:?} has a name that leaves the archive")]
    UnsafeName(String),
    #[error("archive member {0:?} is neither file, folder nor link")]
    UnsafeKind(String),
    #[error("archive member {0:?} is a link in a circle")]
    LinkLoop(String),
    #[error("the archive has more than {0} members")]
    TooManyMembers(usize),
    #[error("{0} is missing from the archive; it may be cut short")]
    Missing(String),
    #[error("{name} has {found} bytes, more than the limit of {limit}")]
    TooLarge { name: String, found: u64, limit: u64 },
    #[error("{name} has digest {found}, expected {expected}")]
    WrongDigest { name: String, found: Digest, expected: Digest },
    #[error("{name} has {found} bytes, expected {expected}")]
    WrongSize { name: String, found: u64, expected: u64 },
    #[error(
        "it has neither manifest.json nor index.json; it is cut short, or not from docker save or skopeo copy … oci-archive:FILE"
    )]
    NotAnImage,
    #[error("it was saved by a Docker older than 1.10; load it into a current Docker and save it again")]
    TooOld,
    #[error("it holds {} images ({}); save one of them alone", choices.len(), list(choices))]
    Several { choices: Vec<String> },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Most names that an error lists.
const LISTED: usize = 8;

fn list(choices: &[String]) -> String {
    let more = if choices.len() > LISTED { ", …" } else { "" };
    choices.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

impl From<ConvertError> for ArchiveError {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Truncated { place } => Self::Truncated { place },
            ConvertError::Header { offset: 0, .. } => Self::NotATar("its first block is no tar header"),
            ConvertError::Read(source) => Self::Read(source),
            other => Self::Tar(other),
        }
    }
}
