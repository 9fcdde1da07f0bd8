//! Spare sandboxes: guests that were restored and warmed ahead of time, so that a start only has to take one over.
//!
//! ```text
//! pool (`matchlock warm`)   restore ─ Warm ─ run a program or two ─ wait ──┐ Spare + its descriptors, over a socket
//! start (`matchlock run`)                          row, folder, log ──> adopt ─ its image, if the spare has none ─ Start
//! ```
//!
//! [`make`] makes one, [`Pool`] keeps some and answers those who ask on a socket in `~/.matchlock/warm`, [`kept`], [`stop`] and [`adoptable`] are
//! the way there for other processes. Invariants: no spare is given away twice, because one task gives and gives by passing the only descriptors;
//! a spare ends with whoever holds those; nothing of a user is in one, because it has been asked for nothing but what all are.

mod asked;
mod make;
mod message;
mod pool;

use std::{fs::File, io, os::unix::fs::MetadataExt};

use serde::{Deserialize, Serialize};

pub(crate) use self::asked::{Adoptable, adoptable};
pub use self::{
    asked::{Kept, StopError, kept, stop, sweep},
    make::{MakeError, Waiting, make},
    pool::Pool,
};

/// Which image a guest has: the file itself, whatever its name. It cannot be another one as long as somebody has it open, which its
/// machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    device: u64,
    inode: u64,
}

impl ImageFile {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }
}

/// What a pool keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// How many spares.
    pub count: u32,
    /// What the user calls the image that they have; `None` for spares that take any.
    pub image: Option<String>,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Size of the writable layer in MiB.
    pub disk_size_mb: u32,
    /// For sandboxes whose commands keep all rights.
    pub privileged: bool,
}
