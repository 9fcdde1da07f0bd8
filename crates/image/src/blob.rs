//! The EROFS images, `images/blobs/sha256_<hex>.erofs`, named by what they are made of.
//!
//! Called by pull and import, which differ in where layers come from only. Invariant: a file under its final name was
//! complete and on the disk before it got that name, and every layer in it had the digest that the image's
//! configuration promised.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use matchlock_model::{CacheLayout, Digest};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{
    ConvertError, Converter, Limits,
    progress::{Event, Progress},
};

/// First line of what an image's name is the digest of. It changes with the converter's output.
const FORMAT: &str = "matchlock-erofs-v3\n";

/// Why an image file could not be made.
#[derive(Debug, Error)]
pub(crate) enum BlobError {
    #[error("layer {number}")]
    Convert { number: usize, source: ConvertError },
    #[error("layer {number} has digest {found} unpacked, expected {expected}")]
    WrongLayer { number: usize, found: Digest, expected: Digest },
    #[error("write image")]
    Finish(#[source] ConvertError),
    #[error("write image {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// One layer to put into an image.
pub(crate) struct LayerInput<R> {
    /// The tar, compressed or not.
    pub(crate) reader: R,
    /// What it must be uncompressed.
    pub(crate) diff_id: Digest,
}

/// The name of the image with these layers, base first.
pub(crate) fn content_digest(diff_ids: &[Digest]) -> Digest {
    let mut sha256 = Sha256::new_with_prefix(FORMAT);
    for diff_id in diff_ids {
        sha256.update(format!("{diff_id}\n"));
    }
    Digest::from_bytes(sha256.finalize().into())
}

/// An image file and its size, if it is one: present, whole, and its superblock undamaged.
///
/// Two reads, since every start comes through here. What went to the disk later than the superblock cannot be
/// missing: the name was given after the sync.
pub(crate) fn check(path: &Path) -> Option<(File, u64)> {
    const SUPERBLOCK: usize = 1024;
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut block = [0; 4096];
    file.read_exact_at(&mut block, 0).ok()?;
    let superblock = &mut block[SUPERBLOCK..];
    // Offsets in `struct erofs_super_block`: magic 0, checksum 4, block size (log2) 12, blocks 36.
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let (magic, checksum, blocks) = (word(superblock, 0)?, word(superblock, 4)?, word(superblock, 36)?);
    superblock[4..8].fill(0);
    // The checksum leaves out the final inversion of CRC-32C.
    let sound = magic == 0xe0f5_e1e2
        && checksum == !crc32c::crc32c(superblock)
        && u64::from(blocks).checked_shl(superblock[12].into()) == Some(length);
    sound.then_some((file, length))
}

/// Make the image `content` from its layers. The caller holds its lock.
pub(crate) fn build<R: Read + Send>(
    layout: &CacheLayout,
    limits: &Limits,
    content: &Digest,
    layers: Vec<LayerInput<R>>,
    progress: &dyn Progress,
) -> Result<u64, BlobError> {
    let path = layout.blob(content);
    let failed = |source| BlobError::Write { path: path.clone(), source };
    // Deleted when dropped, and by the sweep if it never came to that.
    let unfinished = tempfile::Builder::new()
        .prefix(&format!("{}.erofs.", content.file_stem()))
        .suffix(".tmp")
        .tempfile_in(layout.blobs())
        .map_err(failed)?;
    let file = unfinished.as_file().try_clone().map_err(failed)?;
    let mut converter = Converter::create(file, limits.clone()).map_err(BlobError::Finish)?;
    let count = layers.len();
    for (number, layer) in (1..).zip(layers) {
        progress.event(Event::Unpacking { number, count });
        let applied = converter.apply_layer(layer.reader).map_err(|source| BlobError::Convert { number, source })?;
        if applied.diff_id != layer.diff_id {
            return Err(BlobError::WrongLayer { number, found: applied.diff_id, expected: layer.diff_id });
        }
    }
    progress.event(Event::Finishing);
    converter.add_mount_points().map_err(BlobError::Finish)?;
    let summary = converter.finish().map_err(BlobError::Finish)?;
    unfinished.persist(&path).map_err(|error| failed(error.error))?;
    // The content is on the disk; this sees to it that its name lasts, too.
    File::open(layout.blobs()).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(summary.bytes)
}
