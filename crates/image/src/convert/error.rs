//! Everything that can be wrong with a layer, or go wrong while an image is written.

use std::io;

use thiserror::Error;

/// Why a conversion failed. The [`Converter`](crate::Converter) is of no use afterwards.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The layer's bytes could not be had: the source failed, or its compression is damaged or cut short.
    #[error("cannot read layer")]
    Read(#[source] io::Error),
    /// The tar ends in the middle of an entry.
    #[error("layer tar ends early, {place}")]
    Truncated {
        /// Where: within which entry, or at which offset.
        place: String,
    },
    /// A block that should be a tar header is none.
    #[error("not a tar header at byte {offset} of the layer: {reason}")]
    Header {
        /// Offset in the uncompressed tar.
        offset: u64,
        /// What is wrong with the block.
        reason: &'static str,
    },
    /// An entry that must not, or cannot, become part of an image.
    #[error("layer entry \"{name}\": {problem}")]
    Entry {
        /// The entry's path as the tar has it, escaped and shortened to be fit for one line.
        name: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// One of [`Limits`](crate::Limits) is exceeded.
    #[error("image exceeds the limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit in force.
        limit: u64,
    },
    /// The image file could not be written.
    #[error("cannot write image")]
    Write(#[source] io::Error),
    /// A thread for the pipeline could not be had.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What is wrong with one entry of a layer.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EntryProblem {
    /// A `..` component, in the path or in a hard link's target.
    #[error("path with a .. component")]
    DotDot,
    /// A NUL byte in a path or link target.
    #[error("path with a NUL byte")]
    Nul,
    /// No path at all, or the root where only a directory can be.
    #[error("empty path")]
    EmptyPath,
    /// A component longer than Linux takes.
    #[error("name longer than {0} bytes")]
    NameTooLong(usize),
    /// A path or symbolic-link target longer than Linux takes.
    #[error("path longer than {0} bytes")]
    PathTooLong(usize),
    /// More symbolic links on the way than the limit.
    #[error("more than {0} symbolic links on the way")]
    LinkLoop(u32),
    /// A whiteout that names nothing, or a dot component.
    #[error("whiteout of nothing")]
    BadWhiteout,
    /// A symbolic link without a target.
    #[error("symbolic link without a target")]
    EmptyTarget,
    /// The hard link's target has a `..` component.
    #[error("hard link to {0}, which leads out of the image")]
    LinkOutside(String),
    /// The hard link's target is not in the image at this point.
    #[error("hard link to {0}, which does not exist")]
    LinkToNothing(String),
    /// The hard link's target is a directory.
    #[error("hard link to {0}, which is a directory")]
    LinkToDirectory(String),
    /// A character device 0/0: overlayfs in the guest would take it for a whiteout.
    #[error("character device 0/0, which overlayfs takes for a deleted file")]
    WhiteoutDevice,
    /// A device number beyond Linux's 12 and 20 bits.
    #[error("device number {0}:{1} out of range")]
    DeviceNumber(u64, u64),
    /// A number in the header or the PAX records that does not parse or does not fit.
    #[error("invalid {0}")]
    Field(&'static str),
    /// A PAX or GNU extension record larger than any sane one.
    #[error("extension header larger than {0} bytes")]
    ExtensionTooLarge(u64),
    /// Extended attributes beyond the limit, or one that EROFS cannot hold.
    #[error("extended attributes larger than {0} bytes")]
    XattrTooLarge(usize),
    /// A map of a sparse file that contradicts itself.
    #[error("invalid map of a sparse file")]
    SparseMap,
    /// A type of entry that no layer has.
    #[error("unsupported entry type {0:?}")]
    Type(char),
}

impl EntryProblem {
    /// The error for the entry called `name`.
    pub(crate) fn of(self, name: &[u8]) -> ConvertError {
        ConvertError::Entry { name: printable(name), problem: self }
    }
}

/// Bytes of a name that an error message shows at most.
const SHOWN_BYTES: usize = 100;

/// `name` on one line: control characters and bytes outside ASCII escaped, and not longer than fits.
pub(crate) fn printable(name: &[u8]) -> String {
    let shown = &name[..name.len().min(SHOWN_BYTES)];
    let ellipsis = if shown.len() < name.len() { "…" } else { "" };
    match std::str::from_utf8(shown) {
        Ok(text) if !text.contains(char::is_control) => format!("{text}{ellipsis}"),
        _ => format!("{}{ellipsis}", shown.escape_ascii()),
    }
}
