//! One layer as a stream of entries: decompression, digest and the tar format.
//!
//! Called by [`convert`](crate::convert) only. Every byte here is the image author's choice, so lengths are bounded
//! before they allocate, and what is malformed ends in a [`ConvertError`](crate::ConvertError) that names the entry.

mod archive;
mod entry;
mod pax;
mod sparse;
mod stream;

pub(crate) use archive::Archive;
pub(crate) use entry::{Entry, EntryKind, Timestamp};
pub(crate) use sparse::Segment;
pub(crate) use stream::{Decoded, decode};
