//! Where the guest's kernel comes from.
//!
//! ```text
//! MATCHLOCK_KERNEL, if it is set: that file or an error
//! ~/.cache/matchlock/kernels/<version>/, the newest; a damaged one is thrown away
//! the distribution's kernel package ──┐
//! this host's own kernel ─────────────┴─> unpacked into that folder
//! ```
//!
//! Called by `sandbox` before a machine is put together. Everything here blocks: call it where that is allowed. Invariant:
//! what [`resolve`] returns is a kernel file, and its modules have everything a guest needs.

mod host;
mod image;
mod modinfo;
mod modules;
mod package;
mod stored;
mod unpack;

use std::{
    io,
    path::{Path, PathBuf},
};

use matchlock_model::one_line;
use thiserror::Error;

pub use self::{
    modinfo::Module,
    modules::{ModuleError, Transport},
};
use crate::cache::Folder;

/// A kernel to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` shows it.
    pub version: String,
    /// The file: a bzImage or an x86-64 ELF kernel.
    pub image: PathBuf,
    modules: Option<PathBuf>,
}

impl Kernel {
    /// The modules that a guest must load, in loading order.
    ///
    /// # Errors
    /// [`ModuleError`] if one cannot be read.
    pub fn modules(&self, transport: Transport) -> Result<Vec<Module>, ModuleError> {
        self.modules.as_deref().map_or_else(|| Ok(Vec::new()), |dir| modules::ModuleTree::read(dir)?.load(transport))
    }
}

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The file that was asked for cannot be used.
    #[error("kernel {} (MATCHLOCK_KERNEL)", .0.display())]
    Explicit(PathBuf, #[source] io::Error),
    /// Its modules cannot be used.
    #[error("the kernel's modules")]
    Modules(#[from] ModuleError),
    /// A file of a source cannot be used.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// No source had one.
    #[error(
        "no guest kernel: put one into {}/<version>/kernel or set MATCHLOCK_KERNEL (tried {})",
        .kernels.display(),
        .tried.join("; ")
    )]
    NotFound {
        /// The cache folder.
        kernels: PathBuf,
        /// What was tried, and why it failed.
        tried: Vec<String>,
    },
}

/// A kernel of a source outside the cache.
#[derive(Debug)]
struct Found {
    version: String,
    image: PathBuf,
    modules: Option<PathBuf>,
}

/// Find a kernel for guests with this transport, and fetch one if there is none yet.
///
/// `explicit` is what the user named; `kernels` is the cache folder.
///
/// # Errors
/// [`KernelError`]; each is one line for the user.
pub fn resolve(explicit: Option<&Path>, kernels: &Path, transport: Transport) -> Result<Kernel, KernelError> {
    if let Some(path) = explicit {
        return named(path, transport);
    }
    let fits = |kernel: &Kernel| kernel.modules(transport).map(drop);
    if let Some(kernel) = cached(kernels, transport) {
        return Ok(kernel);
    }
    let folder = Folder::lock(kernels).map_err(|e| KernelError::File(kernels.to_owned(), e))?;
    let mut tried = Vec::new();
    for dir in stored::versions(kernels) {
        let outcome = stored::open_carefully(&dir).map_err(|e| one_line(&e));
        match outcome.and_then(|kernel| fits(&kernel).map(|()| kernel).map_err(|e| one_line(&e))) {
            Ok(kernel) => return Ok(kernel),
            Err(reason) => {
                if let (true, Some(name)) = (stored::is_ours(&dir), dir.file_name()) {
                    tracing::warn!("throwing away the damaged kernel {}: {reason}", dir.display());
                    folder.discard(&name.to_string_lossy()).map_err(|e| KernelError::File(dir.clone(), e))?;
                }
                tried.push(format!("{}: {reason}", dir.display()));
            }
        }
    }
    let staging = folder.staging().map_err(|e| KernelError::File(kernels.to_owned(), e))?;
    let uname = rustix::system::uname().release().to_string_lossy().into_owned();
    let sources: [(&str, &dyn Fn() -> io::Result<Found>); 2] = [
        ("the distribution's kernel package", &|| package::fetch(staging.path())),
        ("this host's kernel", &|| host::find(Path::new("/"), &uname)),
    ];
    for (name, find) in sources {
        let found = find().map_err(|e| one_line(&e));
        match found.and_then(|found| stored::adopt(&folder, &found, transport).map_err(|e| one_line(&e))) {
            Ok(kernel) => return Ok(kernel),
            Err(reason) => tried.push(format!("{name}: {reason}")),
        }
    }
    Err(KernelError::NotFound { kernels: kernels.to_owned(), tried })
}

/// The kernel that [`resolve`] would take from the cache folder without looking at all of its content.
#[must_use]
pub fn cached(kernels: &Path, transport: Transport) -> Option<Kernel> {
    let quick = stored::versions(kernels).iter().find_map(|dir| stored::open_quickly(dir));
    quick.filter(|kernel| kernel.modules(transport).is_ok())
}

/// Remove the kernels in the cache folder that the first of those `used`, as [`resolve`] returned them, has superseded;
/// returns how many there were. What was put there by hand stays, and so do the others that are used. A running machine has
/// read its own already.
///
/// # Errors
/// The folder cannot be read or written.
pub fn sweep(kernels: &Path, used: &[&Kernel]) -> io::Result<usize> {
    stored::sweep(kernels, used)
}

/// The kernel that the user named: modules lie beside it, or where the system has them, or are built in.
fn named(path: &Path, transport: Transport) -> Result<Kernel, KernelError> {
    let failed = |e| KernelError::Explicit(path.to_owned(), e);
    let version = image::version(path).map_err(failed)?;
    // The VMM has another working folder.
    let path = std::path::absolute(path).map_err(failed)?;
    let beside = path.with_file_name("modules");
    let systems = Path::new("/lib/modules").join(&version);
    let modules = [beside, systems].into_iter().find(|dir| dir.is_dir());
    let kernel = Kernel { version, image: path, modules };
    kernel.modules(transport)?;
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_kernel_that_is_none_is_an_error_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = resolve(Some(&dir.path().join("vmlinuz")), dir.path(), Transport::Mmio).unwrap_err();
        assert!(one_line(&missing).ends_with("vmlinuz (MATCHLOCK_KERNEL): No such file or directory (os error 2)"));
        std::fs::write(dir.path().join("script"), "#!/bin/sh\n").unwrap();
        let wrong = resolve(Some(&dir.path().join("script")), dir.path(), Transport::Mmio).unwrap_err();
        assert!(one_line(&wrong).ends_with("neither a bzImage nor an x86-64 ELF kernel"));
    }
}
