//! The structures on disk, all little-endian.

use super::BLOCK_BYTES;
use crate::EntryProblem;

/// Where the superblock is.
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
const SUPERBLOCK_MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum.
const COMPAT_CHECKSUM: u32 = 1;
/// Inodes carry the modification time, not the time of change.
const COMPAT_MTIME: u32 = 2;

/// Size of an extended inode.
pub(super) const INODE_BYTES: usize = 64;
/// Inodes are numbered by their place in units of this many bytes.
pub(super) const SLOT_BYTES: usize = 32;
/// Size of a directory entry, its name not included.
pub(super) const DIRENT_BYTES: usize = 12;

/// How an inode's data is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// All of it in consecutive blocks.
    Plain = 0,
    /// Full blocks likewise, the rest right behind the inode.
    Inline = 2,
}

/// File types as directory entries have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

impl FileType {
    /// The type bits of `st_mode`.
    fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// What an extended inode says (`struct erofs_inode_extended`).
pub(super) struct InodeRecord {
    pub(super) file_type: FileType,
    pub(super) layout: Layout,
    pub(super) permissions: u16,
    pub(super) size: u64,
    /// First block of the data, or the device number.
    pub(super) block_or_device: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_seconds: i64,
    pub(super) mtime_nanos: u32,
    pub(super) links: u32,
    pub(super) xattr_bytes: usize,
}

impl InodeRecord {
    pub(super) fn encode(&self) -> [u8; INODE_BYTES] {
        let extended = 1;
        let mut record = Record::new();
        record.put(0, &(extended | (self.layout as u16) << 1).to_le_bytes());
        record.put(2, &xattr_count(self.xattr_bytes).to_le_bytes());
        record.put(4, &(self.file_type.mode_bits() | self.permissions).to_le_bytes());
        record.put(8, &self.size.to_le_bytes());
        record.put(16, &self.block_or_device.to_le_bytes());
        record.put(20, &self.number.to_le_bytes());
        record.put(24, &self.uid.to_le_bytes());
        record.put(28, &self.gid.to_le_bytes());
        record.put(32, &self.mtime_seconds.to_le_bytes());
        record.put(40, &self.mtime_nanos.to_le_bytes());
        record.put(44, &self.links.to_le_bytes());
        record.0
    }
}

/// `i_xattr_icount`: the header of 12 bytes counts as one, every four bytes after it as one more.
fn xattr_count(bytes: usize) -> u16 {
    match bytes.checked_sub(12) {
        None => 0,
        Some(entries) => u16::try_from(entries / 4 + 1).unwrap_or(u16::MAX),
    }
}

/// What the superblock says (`struct erofs_super_block`).
pub(super) struct Superblock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
}

impl Superblock {
    /// Everything of block 0 from [`SUPERBLOCK_OFFSET`] on, which is what the checksum is over.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_BYTES - SUPERBLOCK_OFFSET];
        let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, &SUPERBLOCK_MAGIC.to_le_bytes());
        put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BYTES.trailing_zeros().to_le_bytes()[0]]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        // `meta_blkaddr` stays 0: inodes are numbered from the start of the image, wherever they begin.
        // The kernel's crc32c leaves out the final inversion.
        let checksum = !crc32c::crc32c(&bytes);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// A directory entry without its name (`struct erofs_dirent`).
pub(super) fn dirent(nid: u64, name_offset: u16, file_type: FileType) -> [u8; DIRENT_BYTES] {
    let mut record = Record::<DIRENT_BYTES>::new();
    record.put(0, &nid.to_le_bytes());
    record.put(8, &name_offset.to_le_bytes());
    record.put(10, &[file_type as u8]);
    record.0
}

/// A device number as the kernel decodes it (`new_decode_dev`): 12 bits major, 20 bits minor.
pub(crate) fn device_number(major: u64, minor: u64) -> Result<u32, EntryProblem> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major @ ..0x1000), Ok(minor @ ..0x10_0000)) => Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12),
        _ => Err(EntryProblem::DeviceNumber(major, minor)),
    }
}

/// Bytes filled in field by field.
struct Record<const N: usize>([u8; N]);

impl<const N: usize> Record<N> {
    fn new() -> Self {
        Self([0; N])
    }

    fn put(&mut self, offset: usize, value: &[u8]) {
        self.0[offset..offset + value.len()].copy_from_slice(value);
    }
}
