//! Images from archives: the tars of `docker save` and `podman save`, and OCI image layouts packed as a tar.
//!
//! Called by [`ImageCache::import`](crate::ImageCache::import). The archive is read once, front to back, and may come
//! from a pipe. Invariant: names and links are resolved among the archive's own members and never touch a file
//! system; whatever names its content by digest is checked against it.

mod archive;
mod docker;
mod error;
mod oci;

use matchlock_model::Digest;

use crate::{manifest::Configuration, platform::Platform};

pub(crate) use archive::{Archive, Span};
pub use error::ArchiveError;

/// The one image of an archive that this machine can run.
#[derive(Debug)]
pub(crate) struct Contained {
    /// The manifest's digest, or the image ID where the archive has no manifest.
    pub(crate) digest: Digest,
    pub(crate) configuration: Configuration,
    /// Base first, one for each diff id.
    pub(crate) layers: Vec<Span>,
}

/// Find the image for `platform`.
pub(crate) fn find(archive: &Archive, platform: &Platform) -> Result<Contained, ArchiveError> {
    // Docker 25 and later writes both; its manifest.json is the one that names images as the user does.
    if archive.contains(docker::MANIFEST) {
        docker::find(archive, platform)
    } else if archive.contains(oci::INDEX) {
        oci::find(archive, platform)
    } else if archive.contains("repositories") {
        Err(ArchiveError::TooOld)
    } else {
        Err(ArchiveError::NotAnImage)
    }
}

/// Do with `tar` all that an import does before it unpacks layers. For the fuzz target `docker_manifest`.
#[doc(hidden)]
pub fn fuzz_archive(tar: &[u8], spool: &std::path::Path) {
    if let Ok(archive) = Archive::read(tar, spool, &crate::Limits::default(), &()) {
        let _ = find(&archive, &Platform::host());
    }
}
