//! From the finished tree to inodes, directories and the superblock.
//!
//! Two passes over the same order: [`Plan`] gives every inode its place, since a directory needs the numbers of its
//! children; then everything is appended in that order. Inodes of one directory lie next to each other.

use std::{fs::File, os::unix::fs::FileExt};

use super::{
    BLOCK, BLOCK_BYTES, BlockWriter,
    directory::{self, Dirent},
    format::{FileType, INODE_BYTES, InodeRecord, Layout, SLOT_BYTES, SUPERBLOCK_OFFSET, Superblock},
};
use crate::{
    ConvertError,
    tree::{Directory, Extent, InodeId, Node, Tree},
};

/// What was written.
pub(crate) struct Written {
    pub(crate) file: File,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Appends the metadata to the data that `blocks` has taken so far, and writes the superblock.
pub(crate) fn write_metadata(tree: &Tree, mut blocks: BlockWriter) -> Result<Written, ConvertError> {
    blocks.align()?;
    let plan = Plan::new(tree, blocks.block()?)?;
    for place in &plan.order {
        plan.write_blocks(tree, place, &mut blocks)?;
    }
    let meta_block = blocks.block()?;
    let root = plan.root(tree)?;
    for (number, place) in (ROOT_NUMBER + 1..).zip(&plan.order[1..]) {
        let inode = plan.inode(tree, place, number);
        blocks.skip(u64::from(meta_block) * BLOCK + place.offset - blocks.position())?;
        inode.iter().try_for_each(|part| blocks.append(part))?;
    }
    // fsck.erofs looks for attributes behind every inode, those without and the last one included.
    blocks.append(&[0; SLOT_BYTES])?;
    blocks.align()?;
    let bytes = blocks.position();
    let inodes = plan.order.len() as u64;
    let superblock = Superblock { root: ROOT_NID, inodes, blocks: blocks.block()? };
    let file = blocks.finish()?;
    file.write_all_at(&root, ROOT_BLOCK * BLOCK).map_err(ConvertError::Write)?;
    file.write_all_at(&superblock.encode(), SUPERBLOCK_OFFSET as u64).map_err(ConvertError::Write)?;
    Ok(Written { file, bytes, inodes })
}

/// The root folder's inode begins the first block, and what it holds fills the second, if one is enough: so in all images
/// these two are at the same place, and of the same size (see [`super::is_exchangeable`]).
pub(super) const ROOT_BLOCK: u64 = 1;
pub(super) const ROOT_DIRECTORY_BLOCK: u32 = 2;
/// Where everything else begins.
pub(super) const FIRST_FREE_BLOCK: u64 = 3;
pub(super) const ROOT_NID: u16 = 128;
const ROOT_NUMBER: u32 = 1;

/// Where one inode goes.
struct Place {
    id: InodeId,
    parent: InodeId,
    /// Byte offset from the start of the metadata; not the root's.
    offset: u64,
    /// First block of what the tree holds of the data and is not beside the inode.
    block: u32,
    /// Length of the data.
    size: u64,
    layout: Layout,
}

struct Plan {
    order: Vec<Place>,
    /// Slot number by inode id; 0 for inodes that are not in the image.
    nids: Vec<u64>,
}

impl Plan {
    fn new(tree: &Tree, first_block: u32) -> Result<Self, ConvertError> {
        let mut plan = Self { order: Vec::new(), nids: vec![0; tree.id_count()] };
        // Slot 0 is never used: readers of directories take number 0 for "no file", and `place` for "not placed yet".
        let mut cursor = Cursor { offset: SLOT_BYTES as u64, block: first_block };
        plan.place_root(tree, &mut cursor)?;
        let mut next = 0;
        while let Some(&Place { id, .. }) = plan.order.get(next) {
            if let Node::Directory(directory) = &tree.inode(id).node {
                for child in directory.names.values() {
                    // A hard link's inode is placed where the first of its names is.
                    if plan.nids[child.inode.index()] == 0 {
                        plan.place(tree, child.inode, id, &mut cursor)?;
                    }
                }
            }
            next += 1;
        }
        // The metadata begins where the blocks end. Numbers count from the start of the image.
        let begin = u64::from(cursor.block) * BLOCK / SLOT_BYTES as u64;
        for place in &plan.order[1..] {
            plan.nids[place.id.index()] = begin + place.offset / SLOT_BYTES as u64;
        }
        Ok(plan)
    }

    /// The root's inode has its place; what it holds has, too, if it fits into one block.
    fn place_root(&mut self, tree: &Tree, cursor: &mut Cursor) -> Result<(), ConvertError> {
        let id = Tree::ROOT;
        let (full, tail) = match &tree.inode(id).node {
            Node::Directory(directory) => directory::measure(sorted_names(directory).into_iter()),
            _ => (0, 0),
        };
        let (block, size) = match full {
            0 => (ROOT_DIRECTORY_BLOCK, BLOCK),
            full => (cursor.take_blocks(full + 1)?, u64::from(full) * BLOCK + tail),
        };
        self.nids[id.index()] = ROOT_NID.into();
        self.order.push(Place { id, parent: id, offset: 0, block, size, layout: Layout::Plain });
        Ok(())
    }

    fn place(&mut self, tree: &Tree, id: InodeId, parent: InodeId, cursor: &mut Cursor) -> Result<(), ConvertError> {
        let inode = tree.inode(id);
        let head = INODE_BYTES as u64 + xattr_bytes(inode.metadata.xattrs.as_deref());
        let (size, full_blocks, tail) = match &inode.node {
            Node::Directory(directory) => {
                let (full, tail) = directory::measure(sorted_names(directory).into_iter());
                (u64::from(full) * BLOCK + tail, full, tail)
            }
            Node::Symlink(data) | Node::SmallFile(data) => (data.len() as u64, 0, data.len() as u64),
            Node::File(extent) => (extent.size, 0, 0),
            _ => (0, 0, 0),
        };
        // The tail is beside the inode where inode, attributes and tail fit into one block together.
        let (layout, inline, extra_block) = match tail {
            0 => (Layout::Plain, 0, 0),
            _ if head + tail <= BLOCK => (Layout::Inline, tail, 0),
            _ => (Layout::Plain, 0, 1),
        };
        let block = cursor.take_blocks(full_blocks + extra_block)?;
        let offset = cursor.take_bytes(head + inline);
        self.nids[id.index()] = offset / SLOT_BYTES as u64;
        self.order.push(Place { id, parent, offset, block, size, layout });
        Ok(())
    }

    fn dirents<'a>(&self, tree: &'a Tree, place: &Place, directory: &'a Directory) -> Vec<Dirent<'a>> {
        sorted(directory, |name, child| {
            let dots = if name == b"." { place.id } else { place.parent };
            let id = child.unwrap_or(dots);
            Dirent { name, nid: self.nids[id.index()], file_type: file_type(&tree.inode(id).node) }
        })
    }

    /// Appends what is not beside the inode.
    fn write_blocks(&self, tree: &Tree, place: &Place, blocks: &mut BlockWriter) -> Result<(), ConvertError> {
        let all = place.size.div_ceil(BLOCK);
        let outside = match place.layout {
            Layout::Plain => all,
            Layout::Inline => all - 1,
        };
        match &tree.inode(place.id).node {
            Node::Directory(_) if place.block == ROOT_DIRECTORY_BLOCK => Ok(()), // see `root`
            Node::Directory(directory) if outside > 0 => {
                let outside = usize::try_from(outside).unwrap_or(usize::MAX);
                for block in directory::blocks(&self.dirents(tree, place, directory)).take(outside) {
                    blocks.append(&block)?;
                    blocks.align()?;
                }
                Ok(())
            }
            Node::Symlink(data) | Node::SmallFile(data) if outside > 0 => {
                blocks.append(data)?;
                blocks.align()
            }
            _ => Ok(()),
        }
    }

    /// The root's blocks.
    fn root(&self, tree: &Tree) -> Result<Vec<u8>, ConvertError> {
        let Some(place) = self.order.first() else { return Ok(Vec::new()) };
        let mut bytes = self.inode(tree, place, ROOT_NUMBER).concat();
        let limit = BLOCK - INODE_BYTES as u64;
        if bytes.len() > BLOCK_BYTES {
            return Err(ConvertError::Limit { what: "bytes of extended attributes of the root folder", limit });
        }
        if place.block == ROOT_DIRECTORY_BLOCK
            && let Node::Directory(directory) = &tree.inode(place.id).node
        {
            bytes.resize(BLOCK_BYTES, 0);
            bytes.extend(directory::blocks(&self.dirents(tree, place, directory)).next().unwrap_or_default());
            bytes.resize(2 * BLOCK_BYTES, 0);
        }
        Ok(bytes)
    }

    /// An inode, its attributes, and what of its data is beside it.
    fn inode(&self, tree: &Tree, place: &Place, number: u32) -> [Vec<u8>; 3] {
        let inode = tree.inode(place.id);
        let metadata = &inode.metadata;
        let (block_or_device, links, tail) = match &inode.node {
            Node::Directory(directory) => {
                let is_directory = |id: InodeId| matches!(tree.inode(id).node, Node::Directory(_));
                let below = directory.names.values().filter(|name| is_directory(name.inode)).count();
                let tail = match place.layout {
                    Layout::Inline => directory::blocks(&self.dirents(tree, place, directory)).last(),
                    Layout::Plain => None,
                };
                (place.block, u32::try_from(below + 2).unwrap_or(u32::MAX), tail.unwrap_or_default())
            }
            Node::Symlink(data) | Node::SmallFile(data) => {
                let tail = if place.layout == Layout::Inline { data.to_vec() } else { Vec::new() };
                (place.block, inode.links, tail)
            }
            Node::File(Extent { block, .. }) => (*block, inode.links, Vec::new()),
            Node::CharDevice(device) | Node::BlockDevice(device) => (*device, inode.links, Vec::new()),
            Node::Fifo | Node::Removed => (0, inode.links, Vec::new()),
        };
        let record = InodeRecord {
            file_type: file_type(&inode.node),
            layout: place.layout,
            permissions: metadata.mode,
            size: place.size,
            block_or_device,
            number,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime_seconds: metadata.mtime.seconds,
            mtime_nanos: metadata.mtime.nanos,
            links,
            xattr_bytes: metadata.xattrs.as_ref().map_or(0, |xattrs| xattrs.len()),
        };
        [record.encode().to_vec(), metadata.xattrs.as_deref().unwrap_or_default().to_vec(), tail]
    }
}

/// The next free places while the plan is made.
struct Cursor {
    offset: u64,
    block: u32,
}

impl Cursor {
    fn take_blocks(&mut self, count: u32) -> Result<u32, ConvertError> {
        let block = self.block;
        self.block =
            block.checked_add(count).ok_or(ConvertError::Limit { what: "blocks of 4 KiB", limit: u32::MAX.into() })?;
        Ok(block)
    }

    /// Room for an inode and what is beside it, all in one block if one can hold it.
    fn take_bytes(&mut self, len: u64) -> u64 {
        let room = BLOCK - self.offset % BLOCK;
        let offset = if len > room { self.offset.next_multiple_of(BLOCK) } else { self.offset };
        self.offset = (offset + len).next_multiple_of(SLOT_BYTES as u64);
        offset
    }
}

fn xattr_bytes(xattrs: Option<&[u8]>) -> u64 {
    xattrs.map_or(0, |xattrs| xattrs.len() as u64)
}

fn file_type(node: &Node) -> FileType {
    match node {
        Node::Directory(_) => FileType::Directory,
        Node::Symlink(_) => FileType::Symlink,
        Node::CharDevice(_) => FileType::CharDevice,
        Node::BlockDevice(_) => FileType::BlockDevice,
        Node::Fifo => FileType::Fifo,
        Node::File(_) | Node::SmallFile(_) | Node::Removed => FileType::Regular,
    }
}

/// What `of` makes of all names of a directory in byte order, `.` and `..` (which have no inode here) among them.
fn sorted<'a, T>(directory: &'a Directory, mut of: impl FnMut(&'a [u8], Option<InodeId>) -> T) -> Vec<T> {
    let before = |name: &[u8]| name < b".".as_slice();
    let between = |name: &[u8]| name < b"..".as_slice();
    let mut all = Vec::with_capacity(directory.names.len() + 2);
    let mut names = directory.names.iter().peekable();
    while let Some((name, child)) = names.next_if(|(name, _)| before(name)) {
        all.push(of(name, Some(child.inode)));
    }
    all.push(of(b".", None));
    while let Some((name, child)) = names.next_if(|(name, _)| between(name)) {
        all.push(of(name, Some(child.inode)));
    }
    all.push(of(b"..", None));
    all.extend(names.map(|(name, child)| of(name, Some(child.inode))));
    all
}

fn sorted_names(directory: &Directory) -> Vec<&[u8]> {
    sorted(directory, |name, _| name)
}
