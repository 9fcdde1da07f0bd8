//! What one image may cost the host, whatever its layers claim.

use super::ConvertError;

/// Bounds on one conversion, over all layers of the image together unless a field says otherwise.
///
/// The defaults let every image in ordinary use through (the largest of them have about a million files and some
/// tens of GiB) and stop a decompression bomb before it fills a disk or the memory.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Files, directories (also those that only a path implies) and hard links that the layers create: 2,000,000.
    pub entries: u64,
    /// Bytes of all uncompressed layer tars, plus the holes of sparse files: 128 GiB.
    pub unpacked_bytes: u64,
    /// Bytes of all layers as a registry sends them: 64 GiB.
    pub packed_bytes: u64,
    /// Bytes of one path or symbolic-link target, and the most components that resolving a path may take: 4096, as
    /// Linux has it.
    pub path_len: usize,
    /// Bytes of one path component: 255, as Linux has it.
    pub name_len: usize,
    /// Bytes of all extended attributes of one entry, encoded: 64 KiB.
    pub xattr_bytes: usize,
    /// Symbolic links followed while one path is resolved: 40, as Linux has it.
    pub link_depth: u32,
    /// Bytes of memory that inodes, names, link targets and distinct sets of extended attributes take: 384 MiB, which
    /// is two million files with names of 60 bytes, or half as many directories.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            unpacked_bytes: 128 << 30,
            packed_bytes: 64 << 30,
            path_len: 4096,
            name_len: 255,
            xattr_bytes: 64 << 10,
            link_depth: 40,
            metadata_bytes: 384 << 20,
        }
    }
}

/// How much of one limit is used up.
#[derive(Debug)]
pub(crate) struct Quota {
    what: &'static str,
    limit: u64,
    used: u64,
}

impl Quota {
    pub(crate) fn new(what: &'static str, limit: u64) -> Self {
        Self { what, limit, used: 0 }
    }

    /// Uses up `amount`.
    pub(crate) fn charge(&mut self, amount: u64) -> Result<(), ConvertError> {
        self.check(amount)?;
        self.used += amount;
        Ok(())
    }

    /// Whether `amount` is left, without using it up.
    pub(crate) fn check(&self, amount: u64) -> Result<(), ConvertError> {
        if amount > self.limit - self.used {
            return Err(ConvertError::Limit { what: self.what, limit: self.limit });
        }
        Ok(())
    }
}
