//! Deleting what no image needs: images and layers without a row, and what killed processes left.
//!
//! Called after everything that may leave something behind, and by `image gc`. Invariant: it works under the cache's
//! lock, exclusively, so no pull or import is between making a file and naming it; a file that a running sandbox has
//! open stays readable to it.

use std::{collections::BTreeSet, ffi::OsString, io, path::Path};

use matchlock_model::CacheLayout;
use matchlock_store::Referenced;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Image files deleted.
    pub images: u64,
    /// Compressed layers deleted.
    pub layers: u64,
    /// Bytes that all deleted files had.
    pub bytes: u64,
    /// Somebody else was adding to the cache, so nothing was done; the end of that sweeps, too.
    pub busy: bool,
}

/// Delete everything in the cache's folders that `referenced` does not keep. The caller holds the lock.
pub(crate) fn sweep(layout: &CacheLayout, referenced: &Referenced) -> io::Result<Swept> {
    let mut swept = Swept::default();
    // By name, not by path: the cache may have been moved since.
    let images: BTreeSet<OsString> =
        referenced.rootfs.iter().filter_map(|path| path.file_name().map(Into::into)).collect();
    let layers: BTreeSet<OsString> = referenced.layers.iter().map(|digest| digest.file_stem().into()).collect();
    let deleted = delete_others(&layout.blobs(), &images, &mut swept.bytes)?;
    swept.images = count(&deleted, |name| name.ends_with(".erofs"));
    let deleted = delete_others(&layout.layers(), &layers, &mut swept.bytes)?;
    swept.layers = count(&deleted, |name| !name.ends_with(".tmp"));
    Ok(swept)
}

fn count(names: &[OsString], wanted: impl Fn(&str) -> bool) -> u64 {
    names.iter().filter(|name| wanted(&name.to_string_lossy())).count() as u64
}

fn delete_others(dir: &Path, keep: &BTreeSet<OsString>, bytes: &mut u64) -> io::Result<Vec<OsString>> {
    let mut deleted = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // The folders hold files only; anything else is somebody else's.
        if keep.contains(&entry.file_name()) || !metadata.is_file() {
            continue;
        }
        std::fs::remove_file(entry.path())?;
        *bytes += metadata.len();
        deleted.push(entry.file_name());
    }
    Ok(deleted)
}
