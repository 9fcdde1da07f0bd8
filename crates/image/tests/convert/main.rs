//! The converter against the kernel, `fsck.erofs` and a model of the layer rules written apart from it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test says what it skipped")]

mod debian;
mod extremes;
mod hostile;
mod image;
mod layer;
mod merge;
mod model;
mod semantics;
mod snapshot;
