//! From layers to one EROFS image, in one pass, without root and without a temporary tree.
//!
//! Called by import and pull for every image that is not converted yet. File data goes to the image file while a layer
//! streams in, the [`tree`](crate::tree) keeps the rest in memory, and [`Converter::finish`] writes it behind the data.
//! Invariant: a layer is taken as a whole or the conversion has failed; there is no way on after an error.
//!
//! Beyond what the OCI image-spec says about layers: overlayfs in the guest must not be steered by an image, so that
//! character devices 0/0 are refused and `trusted.overlay.*` and `user.overlay.*` attributes dropped, like those that
//! EROFS has no prefix for. Blocks of files that a later layer replaces become holes in the file.

mod error;
mod limits;

use std::{
    fs::File,
    io::{self, Read},
};

use matchlock_model::Digest;
use rustix::fs::{FallocateFlags, fallocate};

pub(crate) use error::printable;
pub use error::{ConvertError, EntryProblem};
pub use limits::Limits;
pub(crate) use limits::Quota;

use crate::{
    erofs::{self, BLOCK, BlockWriter},
    layer::{self, Archive, Decoded, Entry, EntryKind, Segment},
    tree::{EntryPath, Extent, Metadata, Node, Tree, Whiteout},
};

/// Files up to this size lie beside their inode, which saves them a block of their own: 6 % of a minimal Debian root,
/// 13 % of a large `/usr/share`. They wait in memory until the metadata is written, hence the second bound; what does
/// not fit into it gets blocks like every other file.
const SMALL_FILE_BYTES: u64 = 2048;
const SMALL_FILES_BYTES: u64 = 32 << 20;

/// Streams layers, base first, into one EROFS image.
pub struct Converter {
    limits: Limits,
    unpacked: Quota,
    tree: Tree,
    blocks: BlockWriter,
    room_for_small_files: u64,
}

/// What one layer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedLayer {
    /// sha256 of the uncompressed tar, as the image's configuration lists it.
    pub diff_id: Digest,
    /// Length of the uncompressed tar.
    pub uncompressed_bytes: u64,
    /// Its entries, whiteouts included.
    pub entries: u64,
}

/// What an image came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Length of the image file. It may occupy less: blocks of zeros are holes.
    pub bytes: u64,
    /// Files, directories and everything else in it; hard links count once.
    pub inodes: u64,
}

impl Converter {
    /// Starts an image in `out`, an empty file open for writing.
    ///
    /// # Errors
    /// [`ConvertError::Thread`] when no thread can be started.
    pub fn create(out: File, limits: Limits) -> Result<Self, ConvertError> {
        Ok(Self {
            unpacked: Quota::new("bytes of unpacked layers", limits.unpacked_bytes),
            tree: Tree::new(&limits),
            blocks: BlockWriter::new(out)?,
            room_for_small_files: SMALL_FILES_BYTES,
            limits,
        })
    }

    /// Lays the next layer over those before. `reader` yields it as stored: plain tar, gzip or zstd.
    ///
    /// # Errors
    /// What is wrong with the layer, or with reading or writing. The converter is of no use then.
    pub fn apply_layer(&mut self, reader: impl Read + Send) -> Result<AppliedLayer, ConvertError> {
        self.tree.begin_layer();
        let (entries, decoded) = layer::decode(reader, |tar| {
            let Self { limits, unpacked, tree, blocks, room_for_small_files } = self;
            let mut archive = Archive::new(tar, unpacked);
            let mut entries = 0;
            while let Some(entry) = archive.next_entry()? {
                Target { limits, tree, blocks, room_for_small_files }.apply(&mut archive, &entry)?;
                entries += 1;
            }
            archive.drain()?;
            Ok(entries)
        })?;
        let Decoded { diff_id, bytes } = decoded;
        Ok(AppliedLayer { diff_id, uncompressed_bytes: bytes, entries })
    }

    /// Adds the empty files and folders that a running image has anyway, where the layers have nothing of that name: what
    /// container engines mount on, and `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`. And a link by which a bundle of
    /// certificates that is made anew has the sandbox's authority, too.
    ///
    /// # Errors
    /// [`ConvertError::Limit`].
    pub fn add_mount_points(&mut self) -> Result<(), ConvertError> {
        self.tree.add_mount_points().map_err(|error| error.of(b"/"))
    }

    /// Writes the metadata and the superblock, and waits until the file is on disk.
    ///
    /// # Errors
    /// [`ConvertError::Write`], or [`ConvertError::Limit`] for an image beyond 16 TiB.
    pub fn finish(self) -> Result<ImageSummary, ConvertError> {
        let written = erofs::write_metadata(&self.tree, self.blocks)?;
        punch_holes(&written.file, self.tree.freed());
        written.file.sync_all().map_err(ConvertError::Write)?;
        Ok(ImageSummary { bytes: written.bytes, inodes: written.inodes })
    }
}

/// Where entries go.
struct Target<'a> {
    limits: &'a Limits,
    tree: &'a mut Tree,
    blocks: &'a mut BlockWriter,
    room_for_small_files: &'a mut u64,
}

impl Target<'_> {
    fn apply(&mut self, archive: &mut Archive<'_, impl io::BufRead>, entry: &Entry) -> Result<(), ConvertError> {
        let name = entry.path.as_slice();
        let of_entry = |problem: EntryProblem| problem.of(name);
        let path = EntryPath::parse(name, self.limits).map_err(of_entry)?;
        match Whiteout::of(&path).map_err(of_entry)? {
            Whiteout::None => {}
            whiteout => return self.tree.hide(&path, &whiteout).map_err(|error| error.of(name)),
        }
        let node = match &entry.kind {
            EntryKind::HardLink(target) => {
                return self.tree.add_hard_link(&path, target).map_err(|error| error.of(name));
            }
            EntryKind::Directory => {
                let metadata = self.metadata(entry, name)?;
                return self.tree.add_directory(&path, metadata).map_err(|error| error.of(name));
            }
            EntryKind::File { size, segments } => self.store(archive, *size, segments.as_deref())?,
            EntryKind::Symlink(target) => {
                self.check_target(target).map_err(of_entry)?;
                Node::Symlink(target.as_slice().into())
            }
            EntryKind::CharDevice(0, 0) => return Err(of_entry(EntryProblem::WhiteoutDevice)),
            EntryKind::CharDevice(major, minor) => {
                Node::CharDevice(erofs::device_number(*major, *minor).map_err(of_entry)?)
            }
            EntryKind::BlockDevice(major, minor) => {
                Node::BlockDevice(erofs::device_number(*major, *minor).map_err(of_entry)?)
            }
            EntryKind::Fifo => Node::Fifo,
        };
        let metadata = self.metadata(entry, name)?;
        self.tree.add(&path, metadata, node).map_err(|error| error.of(name))
    }

    fn metadata(&mut self, entry: &Entry, name: &[u8]) -> Result<Metadata, ConvertError> {
        let encoded =
            erofs::encode_xattrs(&entry.xattrs, self.limits.xattr_bytes).map_err(|problem| problem.of(name))?;
        let xattrs = match encoded {
            Some(encoded) => Some(self.tree.share_xattrs(encoded).map_err(|error| error.of(name))?),
            None => None,
        };
        Ok(Metadata { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs })
    }

    fn check_target(&self, target: &[u8]) -> Result<(), EntryProblem> {
        match target {
            [] => Err(EntryProblem::EmptyTarget),
            _ if target.contains(&0) => Err(EntryProblem::Nul),
            _ if target.len() >= self.limits.path_len => Err(EntryProblem::PathTooLong(self.limits.path_len)),
            _ => Ok(()),
        }
    }

    /// Appends a file's data, holes as zeros, or keeps it where it is small.
    fn store(
        &mut self,
        archive: &mut Archive<'_, impl io::BufRead>,
        size: u64,
        segments: Option<&[Segment]>,
    ) -> Result<Node, ConvertError> {
        if segments.is_none() && (1..=SMALL_FILE_BYTES.min(*self.room_for_small_files)).contains(&size) {
            *self.room_for_small_files -= size;
            let mut data = Vec::new();
            archive.read_data(size, |bytes| {
                data.extend_from_slice(bytes);
                Ok(())
            })?;
            return Ok(Node::SmallFile(data.into()));
        }
        let blocks = &mut *self.blocks;
        let extent = Extent { block: blocks.block()?, size };
        let mut at = 0;
        for segment in segments.unwrap_or(&[Segment::whole(size)]) {
            blocks.skip(segment.offset - at)?;
            archive.read_data(segment.len, |bytes| blocks.append(bytes))?;
            at = segment.offset + segment.len;
        }
        blocks.skip(size - at)?;
        blocks.align()?;
        Ok(Node::File(extent))
    }
}

/// Gives back the blocks of files that no longer exist. A file system that cannot do that keeps them.
fn punch_holes(file: &File, freed: &[Extent]) {
    let range = |extent: &Extent| (u64::from(extent.block) * BLOCK, extent.size.next_multiple_of(BLOCK));
    let mut ranges: Vec<_> = freed.iter().map(range).filter(|(_, len)| *len > 0).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let adjacent = last.0 + last.1 == next.0;
        last.1 += if adjacent { next.1 } else { 0 };
        adjacent
    });
    for (offset, len) in ranges {
        if fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len).is_err() {
            return;
        }
    }
}
