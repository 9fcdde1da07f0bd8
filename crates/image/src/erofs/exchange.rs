//! May an image take the place of another one while that is mounted?
//!
//! Linux keeps of a mounted EROFS, as long as nothing in it was looked up, the superblock's fields and the root folder's
//! inode. An overlay above shows its own upper layer's attributes for the root. So what matters is where things begin, and
//! how long the root folder is.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{
    BLOCK,
    format::{FileType, INODE_BYTES, InodeRecord, Layout, SUPERBLOCK_OFFSET, Superblock},
    metadata::{ROOT_BLOCK, ROOT_DIRECTORY_BLOCK, ROOT_NID},
};

/// Fields that a mount does not keep, or that say only how much there is: checksum; numbers of inodes and blocks.
const SUPERBLOCK_BYTES: usize = 128;
const IGNORED_OF_SUPERBLOCK: [std::ops::Range<usize>; 2] = [4..8, 16..40];

/// Fields that an overlay does not show, or that nobody asks for: permissions, number, owner, time, links.
const IGNORED_OF_ROOT: [std::ops::Range<usize>; 2] = [4..6, 20..64];

/// Can the image in `file` take the place of any other for which this is true?
///
/// # Errors
/// It cannot be read.
pub fn is_exchangeable(file: &File) -> io::Result<bool> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    file.read_exact_at(&mut superblock, SUPERBLOCK_OFFSET as u64)?;
    let mut root = [0; INODE_BYTES];
    file.read_exact_at(&mut root, ROOT_BLOCK * BLOCK)?;
    let usual = Superblock { root: ROOT_NID, inodes: 0, blocks: 0 }.encode();
    Ok(same_but(&superblock, &usual[..SUPERBLOCK_BYTES], &IGNORED_OF_SUPERBLOCK)
        && same_but(&root, &usual_root().encode(), &IGNORED_OF_ROOT))
}

fn usual_root() -> InodeRecord {
    InodeRecord {
        file_type: FileType::Directory,
        layout: Layout::Plain,
        permissions: 0,
        size: BLOCK,
        block_or_device: ROOT_DIRECTORY_BLOCK,
        number: 0,
        uid: 0,
        gid: 0,
        mtime_seconds: 0,
        mtime_nanos: 0,
        links: 0,
        xattr_bytes: 0,
    }
}

fn same_but(one: &[u8], other: &[u8], ignored: &[std::ops::Range<usize>]) -> bool {
    let counts = |at: &usize| !ignored.iter().any(|range| range.contains(at));
    (0..one.len().max(other.len())).filter(counts).all(|at| one.get(at) == other.get(at))
}
