//! What a template is made from, and the name that follows from it.
//!
//! Invariant: two machines with the same key boot alike, so that a guest saved on one can go on as the other.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use matchlock_model::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::contents::Contents;
use crate::{Accelerator, Machine, cache::stamp_of};

/// Raised when this program saves or continues guests in another way.
const FORMAT: u32 = 2;

/// Characters of a key: 128 bits of the recipe's digest.
const KEY: usize = 32;

/// Everything on which a saved guest depends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    format: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Block devices.
    pub disks: usize,
    /// What runs it.
    pub accelerator: Accelerator,
    /// The VMM's version, for people.
    pub vmm: String,
    /// The VMM's command line: every device, the kernel's command line. It names no file.
    arguments: Vec<String>,
    /// The VMM's binary, the kernel and the initramfs, each with size and modification time.
    files: Vec<(PathBuf, Stamp)>,
    /// What its guest did before it was saved, as far as that differs.
    parked: String,
    /// The processor's features, where the guest sees them.
    processor: Option<String>,
}

/// `template.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) recipe: Recipe,
    /// The rate that the guest takes the host's time-stamp counter to have.
    pub(super) tsc_khz: Option<u64>,
    /// Of memory, state and layer.
    pub(super) contents: [Contents; 3],
}

impl Recipe {
    /// `arguments` are those with which the VMM would boot `machine`, without what was measured.
    pub(crate) fn new(
        machine: &Machine,
        accelerator: Accelerator,
        (binary, version): (&Path, &str),
        arguments: &[OsString],
        parked: String,
        processor: Option<String>,
    ) -> io::Result<Self> {
        let files = [binary, &machine.kernel, &machine.initramfs];
        Ok(Self {
            format: FORMAT,
            vcpus: machine.vcpus,
            memory_mb: machine.memory_mb,
            disks: machine.disks.len(),
            accelerator,
            vmm: version.to_owned(),
            arguments: arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            files: files.into_iter().map(|path| Ok((path.to_owned(), stamp_of(path)?))).collect::<io::Result<_>>()?,
            parked,
            processor,
        })
    }

    /// The name of the template made from it. Which paths its files have makes no difference: caches may be shared, or moved.
    #[must_use]
    pub fn key(&self) -> String {
        let files = self.files.iter().map(|(_, stamp)| (PathBuf::new(), *stamp)).collect();
        let mut hash = Sha256::new();
        // Serializing plain data into memory cannot fail; an empty text would only be a key that no template has.
        hash.update(serde_json::to_vec(&Self { files, ..self.clone() }).unwrap_or_default());
        let digest = Digest::from_bytes(hash.finalize().into());
        digest.hex().chars().take(KEY).collect()
    }

    /// Was it made from such files by such a program?
    #[must_use]
    pub fn is_made_from(&self, sources: &Sources) -> bool {
        self.format == FORMAT && self.files.iter().map(|(_, stamp)| stamp).eq(&sources.0)
    }
}

/// The files that a template is made from, as far as its name depends on them. Their paths do not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources([Stamp; 3]);

/// A file's size and modification time.
type Stamp = (u64, i128);

impl Sources {
    pub(crate) fn new(binary: &Path, kernel: &Path, initramfs: &Path) -> io::Result<Self> {
        Ok(Self([stamp_of(binary)?, stamp_of(kernel)?, stamp_of(initramfs)?]))
    }
}

/// Can this be a template's name?
pub(super) fn is_key(name: &str) -> bool {
    name.len() == KEY && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
