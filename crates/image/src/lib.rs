//! From an image reference to one EROFS file: pull, import, convert.
//!
//! Called by `sandbox` when something starts, and by the image verbs. [`ImageCache`] is the way in; a [`Reference`] is
//! what people type, and [`Progress`] is told what is going on. Everything here reads what strangers wrote: documents,
//! archives and layers are bounded before they are kept and checked against their digests before they are used.
//!
//! ```text
//! Reference ─ resolve ─> registry ─> layers (compressed, cached) ─┐
//!                                                                 ├─> convert ─> blobs/sha256_<hex>.erofs
//! archive ─── import ──> spool (anonymous file) ──────────────────┘
//! ```
//!
//! What starts with `sha256_` in the cache is complete by construction: it got its name after it was written,
//! verified and synced (`blob`, `layers`). Locks and the sweep are described in `lock` and `cache`.

mod blob;
mod cache;
mod convert;
mod erofs;
mod error;
mod follow;
mod import;
mod layer;
mod layers;
mod lock;
mod manifest;
mod platform;
mod progress;
mod pull;
mod reference;
mod registry;
mod sweep;
mod tree;

pub use cache::{Image, ImageCache, Rootfs};
pub use convert::{AppliedLayer, ConvertError, Converter, EntryProblem, ImageSummary, Limits};
pub use erofs::is_exchangeable;
pub use error::ImageError;
pub use import::{ArchiveError, fuzz_archive};
pub use manifest::ManifestError;
pub use matchlock_store::{SavedImage, Scope, Source};
pub use platform::Platform;
pub use progress::{Event, Progress};
pub use reference::{Reference, ReferenceError};
pub use registry::{RegistryAccess, RegistryError};
pub use sweep::Swept;
