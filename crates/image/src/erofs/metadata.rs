//! From the finished tree to inodes, directories and the superblock.
//!
//! Two passes over the same order: [`Plan`] gives every inode its place, since a directory needs the numbers of its
//! children; then everything is appended in that order. Inodes of one directory lie next to each other.

use std::{fs::File, os::unix::fs::FileExt};

use super::{
    BLOCK, BlockWriter,
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
    for (number, place) in (1..).zip(&plan.order) {
        plan.write_inode(tree, place, number, meta_block, &mut blocks)?;
    }
    // fsck.erofs looks for attributes behind every inode, those without and the last one included.
    blocks.append(&[0; SLOT_BYTES])?;
    blocks.align()?;
    let bytes = blocks.position();
    let inodes = plan.order.len() as u64;
    let superblock = Superblock { root: ROOT_NID, inodes, blocks: blocks.block()?, meta_block };
    let file = blocks.finish()?;
    file.write_all_at(&superblock.encode(), SUPERBLOCK_OFFSET as u64).map_err(ConvertError::Write)?;
    Ok(Written { file, bytes, inodes })
}

/// The root is the first inode, but not number 0, which readers of directories take for "no file".
const ROOT_NID: u16 = 2;

/// Where one inode goes.
struct Place {
    id: InodeId,
    parent: InodeId,
    /// Byte offset from the start of the metadata.
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
        let mut cursor = Cursor { offset: u64::from(ROOT_NID) * SLOT_BYTES as u64, block: first_block };
        plan.place(tree, Tree::ROOT, Tree::ROOT, &mut cursor)?;
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
        Ok(plan)
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

    fn write_inode(
        &self,
        tree: &Tree,
        place: &Place,
        number: u32,
        meta_block: u32,
        blocks: &mut BlockWriter,
    ) -> Result<(), ConvertError> {
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
        blocks.skip(u64::from(meta_block) * BLOCK + place.offset - blocks.position())?;
        blocks.append(&record.encode())?;
        blocks.append(metadata.xattrs.as_deref().unwrap_or_default())?;
        blocks.append(&tail)
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
