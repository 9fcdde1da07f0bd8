//! The image file: uncompressed EROFS that Linux 5.4 and later mount (kernel: `fs/erofs/erofs_fs.h`).
//!
//! Called by [`convert`](crate::convert): file data is appended while the layers stream, and when the tree is complete
//! the metadata follows, then the superblock, so that a file without one was never finished.
//!
//! ```text
//! block 0     │ superblock at byte 1024
//! block 1     │ inode of the root folder, and its extended attributes
//! block 2     │ what the root folder holds, if that is not more
//! block 3 …   │ data of regular files, each from a block boundary; blocks of zeros are holes in the file
//! then        │ full blocks of directories and of links too long to lie beside their inode
//! then        │ inodes, each followed by its extended attributes and what of its data shares the block
//! ```
//!
//! The first three blocks tell a kernel that mounts an image all that it keeps in mind of it. They are laid out so that this
//! is the same for nearly every image: under a mount of one, another can be put in its place.

mod blocks;
mod directory;
mod exchange;
mod format;
mod metadata;
mod xattr;

pub(crate) use blocks::BlockWriter;
pub use exchange::is_exchangeable;
pub(crate) use format::device_number;
pub(crate) use metadata::write_metadata;
pub(crate) use xattr::encode as encode_xattrs;

/// Size of a block; the only one that kernels before 6.4 take on x86.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;
const BLOCK_BYTES: usize = 4096;
