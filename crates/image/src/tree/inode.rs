//! What the tree is made of. Kept small: an image may have two million of these.

use std::{collections::BTreeMap, sync::Arc};

use crate::layer::Timestamp;

/// An index into the tree's inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InodeId(u32);

impl InodeId {
    pub(super) const ROOT: Self = Self(0);

    pub(super) fn new(index: usize) -> Option<Self> {
        u32::try_from(index).ok().map(Self)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) metadata: Metadata,
    pub(crate) node: Node,
    /// Names that lead here.
    pub(crate) links: u32,
}

impl Inode {
    pub(super) fn new(metadata: Metadata, node: Node) -> Self {
        Self { metadata, node, links: 0 }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    /// Permission, set-id and sticky bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// All extended attributes as [`erofs::xattr`](crate::erofs) encodes them.
    pub(crate) xattrs: Option<Arc<[u8]>>,
}

impl Metadata {
    /// What a directory is like that no layer has an entry for.
    pub(super) fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: None }
    }
}

#[derive(Debug)]
pub(crate) enum Node {
    Directory(Directory),
    File(Extent),
    /// A file so small that its data waits here to be written beside its inode.
    SmallFile(Box<[u8]>),
    Symlink(Box<[u8]>),
    CharDevice(u32),
    BlockDevice(u32),
    Fifo,
    /// Its last name is gone.
    Removed,
}

impl Node {
    /// About how much memory an inode of this kind takes, without names and attributes.
    pub(super) fn memory(&self) -> u64 {
        // The first name in a map allocates room for eleven.
        let names = 11 * size_of::<(Box<[u8]>, Name)>();
        let own = match self {
            Self::Directory(_) => names,
            Self::Symlink(target) => target.len(),
            _ => 0,
        };
        (size_of::<Inode>() + own) as u64
    }
}

#[derive(Debug)]
pub(crate) struct Directory {
    /// In the byte order that EROFS wants them in.
    pub(crate) names: BTreeMap<Box<[u8]>, Name>,
    /// The last layer that is known to have no lower names anywhere below: it made the directory or emptied it. No
    /// whiteout of that layer needs to look here again.
    pub(super) cleared_by: u32,
}

impl Directory {
    pub(super) fn new(made_by: u32) -> Self {
        Self { names: BTreeMap::new(), cleared_by: made_by }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    pub(crate) inode: InodeId,
    /// The layer that brought the name last.
    pub(super) layer: u32,
}

/// Where a file's data is: whole blocks, the last one padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) block: u32,
    pub(crate) size: u64,
}
