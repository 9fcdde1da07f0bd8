//! SQLite: what exists, who owns it, how to undo it.
//!
//! Called by `matchlock-image` ([`ImageStore`]) and `matchlock-sandbox` ([`SandboxStore`]). Its calls block the caller's
//! thread, mostly for less than a millisecond and at most until another process's transaction is over. To read it, begin
//! with `database`; then `sandboxes`, `lifecycle` and `undo` are the tables, `liveness` and `folder` say who is alive, and
//! `reconcile` puts them together.

mod columns;
mod database;
mod error;
mod folder;
mod images;
mod leases;
mod lifecycle;
mod liveness;
mod lock;
mod migration;
mod reconcile;
mod sandboxes;
mod undo;
mod words;

pub use database::move_aside;
pub use error::StoreError;
pub use folder::{FolderClaim, claim_folder};
pub use images::{Image, ImageStore, Layer, LayerFormat, Referenced, SavedImage, Scope, Source};
pub use leases::LeasedLink;
pub use lifecycle::{CleanupStatus, CleanupStep, Details, Record};
pub use liveness::{ProcessError, end, identity_of, is_alive, open_process, own_identity};
pub use reconcile::{Reconciled, Released, Report};
pub use sandboxes::{Registration, Sandbox, SandboxStore, Status};
pub use undo::{Action, Outcome, Owed, UndoError};
pub use words::UnknownWord;
