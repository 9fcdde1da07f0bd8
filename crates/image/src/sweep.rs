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

/// Deletes what `referenced` does not keep, under the lock.
pub(crate) type Sweep = fn(&CacheLayout, &Referenced) -> io::Result<Swept>;

/// Delete everything in the cache's folders that `referenced` does not keep. The caller holds the lock.
///
/// Locks, and what was never finished, are deleted and not counted.
pub(crate) fn all(layout: &CacheLayout, referenced: &Referenced) -> io::Result<Swept> {
    let mut swept = images(layout, referenced)?;
    let layers = referenced.layers.iter().map(|digest| digest.file_stem().into()).collect();
    delete_others(&layout.layers(), &layers, |path, length| {
        swept.bytes += length;
        swept.layers += u64::from(path.extension().is_none());
    })?;
    Ok(swept)
}

/// [`all`], but for compressed layers.
pub(crate) fn images(layout: &CacheLayout, referenced: &Referenced) -> io::Result<Swept> {
    // By name, not by path: the cache may have been moved since.
    let images = referenced.rootfs.iter().filter_map(|path| path.file_name().map(Into::into)).collect();
    let mut swept = Swept::default();
    delete_others(&layout.blobs(), &images, |path, length| {
        swept.bytes += length;
        swept.images += u64::from(path.extension().is_some_and(|extension| extension == "erofs"));
    })?;
    Ok(swept)
}

fn delete_others(dir: &Path, keep: &BTreeSet<OsString>, mut deleted: impl FnMut(&Path, u64)) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // The folders hold files only; anything else is somebody else's.
        if metadata.is_file() && !keep.contains(&entry.file_name()) {
            std::fs::remove_file(entry.path())?;
            deleted(&entry.path(), metadata.len());
        }
    }
    Ok(())
}
