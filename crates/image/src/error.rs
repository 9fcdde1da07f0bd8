//! Everything that can go wrong with an image. The messages begin as the command line's error lines do.

use std::{io, path::PathBuf};

use matchlock_model::Digest;
use matchlock_store::StoreError;
use thiserror::Error;

use crate::{ArchiveError, ConvertError, ManifestError, RegistryError, blob::BlobError, layers::LayerError};

/// Why an image could not be had, kept or found.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
#[non_exhaustive]
pub enum ImageError {
    #[error("pull image")]
    Registry(#[from] RegistryError),
    #[error("pull image")]
    Manifest(#[from] ManifestError),
    #[error("tarball")]
    Archive(#[from] ArchiveError),
    #[error("extract image: layer {number}")]
    Convert { number: usize, source: ConvertError },
    #[error("extract image: layer {number} has digest {found} unpacked, expected {expected}")]
    WrongLayer { number: usize, found: Digest, expected: Digest },
    #[error("extract image")]
    Finish(#[source] ConvertError),
    #[error("image not found: {0:?}")]
    NotFound(String),
    #[error(
        "image {0:?} is damaged: its file is missing or not whole; import or tag it again, or run: matchlock image rm {0}"
    )]
    Damaged(String),
    #[error("a local name has no digest: {0:?}")]
    DigestAsTag(String),
    #[error("metadata")]
    Store(#[from] StoreError),
    #[error("write image cache {path}")]
    Cache { path: PathBuf, source: io::Error },
    #[error("the image's file was not made: its thread ended")]
    Interrupted,
}

impl ImageError {
    /// For `map_err`: an input or output error at `path` in the cache.
    pub(crate) fn cache(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Cache { path, source }
    }
}

impl From<BlobError> for ImageError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Convert { number, source } => Self::Convert { number, source },
            BlobError::WrongLayer { number, found, expected } => Self::WrongLayer { number, found, expected },
            BlobError::Finish(source) => Self::Finish(source),
            BlobError::Write { path, source } => Self::Cache { path, source },
        }
    }
}

impl From<LayerError> for ImageError {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Registry(error) | LayerError::Leftover(error) => Self::Registry(error),
            LayerError::Write { path, source } => Self::Cache { path, source },
        }
    }
}
