//! Composes image, store and VMM into a sandbox: the only crate that may.
//!
//! Called by the program's verbs. [`Sandbox`] is the supervisor's side of one life, [`client`] the way in for other
//! processes, [`exec`] what both do with a link. What the verbs need of the crates below is re-exported here.

mod ask;
pub mod bench;
mod bring_up;
pub mod client;
pub mod control;
mod disks;
pub mod exec;
pub mod follow;
mod hold;
mod host;
mod in_use;
mod launch;
mod link;
mod log;
pub mod network;
mod prepared;
mod relay;
mod sandbox;
mod socket;
mod start;
mod template;
mod timeline;
pub mod warm;

pub use ask::AskError;
pub use disks::DiskError;
pub use host::{GuestFiles, Host, PrepareError, Swept, host_memory_mb};
pub use launch::{Keep, Launch, LaunchError};
pub use link::{Link, LinkError};
pub use log::VmLog;
pub use matchlock_image as image;
pub use matchlock_net as net;
pub use matchlock_store as store;
pub use matchlock_vmm as vmm;
pub use matchlock_wire::{Exec, Stdio, TerminalSize};
pub use prepared::{Prepared, RemakeError};
pub use sandbox::{CloseError, Sandbox};
pub use template::NoTemplate;
pub use timeline::Timeline;
