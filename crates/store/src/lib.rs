//! SQLite: what exists, who owns it, how to undo it.
//!
//! Called by `matchlock-image` (images) and `matchlock-sandbox` (everything else); both wrap its blocking calls.
//! Read `database` first, then `images`.

mod columns;
mod database;
mod error;
mod images;
mod liveness;
mod lock;
mod migration;
mod words;

pub use database::move_aside;
pub use error::StoreError;
pub use images::{Image, ImageStore, Layer, LayerFormat, Referenced, SavedImage, Scope, Source};
pub use liveness::{ProcessError, end, identity_of, is_alive, own_identity, signal};
pub use words::UnknownWord;
