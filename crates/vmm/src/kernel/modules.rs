//! The modules that go with a kernel, and which of them a guest needs in which order.
//!
//! Invariant: a list that [`ModuleTree::load`] returns can be loaded from front to back; what is missing from it is built
//! into the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::modinfo::{Module, normal};
use crate::cache::read_bounded;

/// Bound on a packed module file.
const MAX_FILE: u64 = 32 * 1024 * 1024;
/// Bound on `modules.builtin`.
const MAX_BUILTIN: u64 = 4 * 1024 * 1024;
/// Bound on the files and folders of a module tree; distributions have some 8,000.
const MAX_ENTRIES: usize = 100_000;
/// Bound on what one guest loads.
const MAX_LOADED: usize = 128;

/// How virtio devices are attached in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Memory-mapped, found through ACPI.
    Mmio,
    /// On a PCI bus.
    Pci,
}

impl Transport {
    /// The modules that every guest needs, by what they are for.
    const fn wanted(self) -> [&'static str; 7] {
        let bus = match self {
            Self::Mmio => "virtio_mmio",
            Self::Pci => "virtio_pci",
        };
        [bus, "virtio_console", "virtio_blk", "virtio_net", "erofs", "overlay", "ext4"]
    }
}

/// Why a kernel's modules cannot be used.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// The kernel lacks something that a guest needs.
    #[error("does not fit: {module} is neither built in nor among the modules of {}", .dir.display())]
    Missing {
        /// What is lacking.
        module: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A file or folder cannot be read, or is no module.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// No sane kernel needs this many.
    #[error("more than {MAX_LOADED} modules are needed from {}", .0.display())]
    TooMany(PathBuf),
}

/// A folder of module files, as `/lib/modules/<version>` is one, or a flat one.
#[derive(Debug)]
pub(super) struct ModuleTree {
    dir: PathBuf,
    files: BTreeMap<String, PathBuf>,
    /// `None` where no list says so: then whatever is not there counts as built in.
    builtin: Option<BTreeSet<String>>,
}

impl ModuleTree {
    pub(super) fn read(dir: &Path) -> Result<Self, ModuleError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |e| ModuleError::File(path, e)
        };
        let mut files = BTreeMap::new();
        let mut entries = 0;
        let mut pending = vec![dir.to_owned()];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(&folder).map_err(failed(&folder))? {
                let entry = entry.map_err(failed(&folder))?;
                entries += 1;
                if entries > MAX_ENTRIES {
                    return Err(ModuleError::TooMany(dir.to_owned()));
                }
                // Links out of the tree (`build`, `source`) are no folders to this.
                if entry.file_type().map_err(failed(&folder))?.is_dir() {
                    pending.push(entry.path());
                } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
                    files.insert(name, entry.path());
                }
            }
        }
        let list = dir.join("modules.builtin");
        let builtin = match read_bounded(&list, MAX_BUILTIN) {
            Ok(text) => {
                let paths = String::from_utf8_lossy(&text);
                Some(paths.lines().filter_map(|path| module_name(path.rsplit('/').next()?)).collect())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(ModuleError::File(list, e)),
        };
        Ok(Self { dir: dir.to_owned(), files, builtin })
    }

    /// The list of what is built into the kernel, if the tree has it.
    pub(super) fn builtin_list(&self) -> Option<PathBuf> {
        self.builtin.as_ref().map(|_| self.dir.join("modules.builtin"))
    }

    /// What a guest with this transport must load, in loading order.
    pub(super) fn load(&self, transport: Transport) -> Result<Vec<Module>, ModuleError> {
        let mut order = Order { tree: self, seen: BTreeSet::new(), modules: Vec::new() };
        for name in transport.wanted() {
            order.add(name)?;
        }
        Ok(order.modules)
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin.as_ref().is_none_or(|list| list.contains(name))
    }
}

struct Order<'a> {
    tree: &'a ModuleTree,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Order<'_> {
    /// Add a module behind everything that it needs. Circles end because each name is looked at once.
    fn add(&mut self, name: &str) -> Result<(), ModuleError> {
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        if self.seen.len() > MAX_LOADED {
            return Err(ModuleError::TooMany(self.tree.dir.clone()));
        }
        let Some(path) = self.tree.files.get(name) else {
            return if self.tree.is_builtin(name) {
                Ok(())
            } else {
                Err(ModuleError::Missing { module: name.to_owned(), dir: self.tree.dir.clone() })
            };
        };
        let failed = |e| ModuleError::File(path.clone(), e);
        let module = read_bounded(path, MAX_FILE).and_then(|bytes| Module::unpack(name, bytes)).map_err(failed)?;
        let needs = module.needs().map_err(failed)?;
        for wish in &needs.soft {
            // A wish is for a module, or for what the crypto API calls an algorithm: its portable implementation is
            // the module `<algorithm>_generic`.
            let generic = format!("{wish}_generic");
            if let Some(found) = [wish, &generic].into_iter().find(|name| self.tree.files.contains_key(*name)) {
                self.add(found)?;
            }
        }
        for need in &needs.hard {
            self.add(need)?;
        }
        self.modules.push(module);
        Ok(())
    }
}

/// `virtio_blk` of `virtio-blk.ko.xz`.
fn module_name(file: &str) -> Option<String> {
    let packings = ["", ".gz", ".xz", ".zst"];
    packings.iter().find_map(|packing| file.strip_suffix(packing)?.strip_suffix(".ko")).map(normal)
}

#[cfg(test)]
mod tests {
    use super::{super::modinfo::tests::module_file, *};

    fn tree(builtin: Option<&str>, modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kernel/fs")).unwrap();
        for (path, modinfo) in modules {
            fs::write(dir.path().join("kernel/fs").join(path), module_file(modinfo.as_bytes())).unwrap();
        }
        if let Some(text) = builtin {
            fs::write(dir.path().join("modules.builtin"), text).unwrap();
        }
        dir
    }

    fn names(dir: &tempfile::TempDir) -> Result<String, String> {
        let loaded = ModuleTree::read(dir.path()).unwrap().load(Transport::Mmio).map_err(|e| e.to_string())?;
        Ok(loaded.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn needs_come_first_and_the_built_in_is_left_out() {
        let dir = tree(
            Some("kernel/drivers/virtio/virtio_mmio.ko\nkernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio.ko\n"),
            &[
                ("virtio_console.ko", "depends=virtio,virtio-ring\0"),
                ("virtio-ring.ko", "depends=\0"),
                ("virtio_blk.ko", "depends=virtio_ring\0"),
                ("virtio_net.ko", "depends=virtio_ring\0"),
                ("erofs.ko", "depends=libcrc32c\0"),
                ("libcrc32c.ko", "softdep=pre: crc32c\0depends=libcrc32c\0"),
                ("crc32c_generic.ko", "depends=\0"),
                ("overlay.ko", "softdep=pre: nowhere\0"),
            ],
        );
        let expected = "virtio_ring virtio_console virtio_blk virtio_net crc32c_generic libcrc32c erofs overlay";
        assert_eq!(names(&dir).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_is_named_where_a_list_says_what_is_built_in() {
        let with_list = tree(Some("kernel/x/virtio_mmio.ko\n"), &[]);
        assert!(names(&with_list).unwrap_err().starts_with("does not fit: virtio_console is neither built in"));
        assert_eq!(names(&tree(None, &[])).unwrap(), "", "a kernel with everything built in needs no list");
    }
}
