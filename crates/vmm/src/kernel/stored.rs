//! The folder `~/.cache/matchlock/kernels`: one folder per version, `kernel`, `modules/` and `manifest.json`.
//!
//! Invariant: a folder with a manifest is used only if every file has the digest that the manifest gives. That is
//! looked at in full once; afterwards a file counts as unchanged while its size and modification time do
//! (`verified.json`). A folder without a manifest was put there by hand: it is used as it is, and never removed.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use matchlock_model::Digest;
use serde::{Deserialize, Serialize};

use super::{Found, Kernel, KernelError, Transport, image, modules::ModuleTree, unpack};
use crate::cache::{Folder, digest_of, read_bounded, stamp_of};

const KERNEL: &str = "kernel";
const MODULES: &str = "modules";
const MANIFEST: &str = "manifest.json";
const VERIFIED: &str = "verified.json";

/// Bound on the two JSON files.
const MAX_JSON: u64 = 1024 * 1024;
/// Bound on a kernel file.
const MAX_IMAGE: u64 = 256 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Manifest {
    version: String,
    files: BTreeMap<String, Digest>,
}

/// Size and modification time in nanoseconds of each file when its digest was last found right.
type Stamps = BTreeMap<String, (u64, i128)>;

/// The folders of all versions below `kernels`, newest version first.
pub(super) fn versions(kernels: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(kernels).into_iter().flatten().flatten();
    // Another process may be filling one that has no name yet.
    let named = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut dirs: Vec<_> = named.map(|entry| entry.path()).filter(|dir| dir.join(KERNEL).is_file()).collect();
    dirs.sort_by_cached_key(|dir| std::cmp::Reverse(dir.file_name().map(|name| natural(&name.to_string_lossy()))));
    dirs
}

/// Orders `6.1.0-9` before `6.1.0-10`.
fn natural(version: &str) -> Vec<(u64, String)> {
    let parts = version.split(|c: char| !c.is_ascii_alphanumeric());
    parts.map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
}

/// The kernel in `dir` if it can be used without looking at its content: unchanged since that was done, or put there
/// by hand.
pub(super) fn open_quickly(dir: &Path) -> Option<Kernel> {
    if !is_ours(dir) {
        return by_hand(dir).ok();
    }
    let manifest: Manifest = read_json(&dir.join(MANIFEST)).ok()?;
    let known: Stamps = read_json(&dir.join(VERIFIED)).ok()?;
    (stamps(dir, &manifest).ok()? == known).then(|| kernel(dir, manifest.version))
}

/// The kernel in `dir`, every digest compared; remembers the outcome.
pub(super) fn open_carefully(dir: &Path) -> io::Result<Kernel> {
    if !is_ours(dir) {
        return by_hand(dir);
    }
    let manifest: Manifest = read_json(&dir.join(MANIFEST))?;
    // Taken before the content is read, so that a change in between is seen next time.
    let stamps = stamps(dir, &manifest)?;
    for (name, digest) in &manifest.files {
        if digest_of(&dir.join(name))? != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} has another digest than recorded")));
        }
    }
    let text = serde_json::to_vec(&stamps)?;
    Folder::lock(dir)?.publish(VERIFIED, |file| file.write_all(&text))?;
    Ok(kernel(dir, manifest.version))
}

/// Was this folder made here, so that it may be thrown away if it is damaged?
pub(super) fn is_ours(dir: &Path) -> bool {
    dir.join(MANIFEST).exists()
}

/// Remove the versions older than the first of those `used` that were made here; returns how many there were.
pub(super) fn sweep(kernels: &Path, used: &[&Kernel]) -> io::Result<usize> {
    let folder = Folder::lock(kernels)?;
    let dirs = versions(kernels);
    // The user may have named one by another path.
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is = |dir: &Path, kernel: &Kernel| real(&dir.join(KERNEL)) == real(&kernel.image);
    let place = used.first().and_then(|current| dirs.iter().position(|dir| is(dir, current)));
    let Some(place) = place else { return Ok(0) };
    let unused = |dir: &&PathBuf| is_ours(dir) && !used.iter().any(|kernel| is(dir, kernel));
    let older = || dirs.iter().skip(place + 1).filter(unused);
    folder.sweep(|name| older().any(|dir| dir.ends_with(name)))
}

/// Copy what a guest needs of a kernel that was found elsewhere into `kernels`.
pub(super) fn adopt(kernels: &Folder, found: &Found, transport: Transport) -> Result<Kernel, KernelError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |e| KernelError::File(path, e)
    };
    let image = read_bounded(&found.image, MAX_IMAGE).map_err(failed(&found.image))?;
    let staged = kernels.staging().map_err(failed(kernels.path()))?;
    let staged_kernel = staged.path().join(KERNEL);
    fs::write(&staged_kernel, unpack::elf_kernel(&image).as_deref().unwrap_or(&image))
        .map_err(failed(&staged_kernel))?;
    image::version(&staged_kernel).map_err(failed(&found.image))?;

    let staged_modules = staged.path().join(MODULES);
    let fill = |modules: &Path| -> Result<(), KernelError> {
        let tree = ModuleTree::read(modules)?;
        let mut needed = tree.load(transport)?;
        // The other transport's modules make the folder fit for another VMM as well.
        for other in [Transport::Mmio, Transport::Pci].into_iter().filter(|other| *other != transport) {
            needed.extend(tree.load(other).unwrap_or_default());
        }
        let write = || {
            fs::create_dir(&staged_modules)?;
            for module in &needed {
                let mut file = fs::File::create(staged_modules.join(format!("{}.ko", module.name)))?;
                file.write_all(&module.bytes)?;
                file.sync_all()?;
            }
            tree.builtin_list().map_or(Ok(0), |list| fs::copy(list, staged_modules.join("modules.builtin")))
        };
        write().map(drop).map_err(failed(&staged_modules))
    };
    found.modules.as_deref().map_or(Ok(()), fill)?;

    let publish = || {
        let manifest = Manifest { version: found.version.clone(), files: digests(staged.path())? };
        fs::write(staged.path().join(MANIFEST), serde_json::to_vec_pretty(&manifest)?)?;
        fs::write(staged.path().join(VERIFIED), serde_json::to_vec(&stamps(staged.path(), &manifest)?)?)?;
        kernels.publish_dir(staged, &found.version)
    };
    let dir = publish().map_err(failed(kernels.path()))?;
    Ok(kernel(&dir, found.version.clone()))
}

fn by_hand(dir: &Path) -> io::Result<Kernel> {
    let image = dir.join(KERNEL);
    Ok(Kernel { version: image::version(&image)?, modules: existing(dir.join(MODULES)), image })
}

fn kernel(dir: &Path, version: String) -> Kernel {
    Kernel { version, image: dir.join(KERNEL), modules: existing(dir.join(MODULES)) }
}

fn existing(dir: PathBuf) -> Option<PathBuf> {
    dir.is_dir().then_some(dir)
}

/// Relative names of everything in a staged folder, with digests.
fn digests(dir: &Path) -> io::Result<BTreeMap<String, Digest>> {
    let mut files = BTreeMap::from([(KERNEL.to_owned(), digest_of(&dir.join(KERNEL))?)]);
    if let Some(modules) = existing(dir.join(MODULES)) {
        for entry in fs::read_dir(modules)? {
            let entry = entry?;
            let name = format!("{MODULES}/{}", entry.file_name().to_string_lossy());
            files.insert(name, digest_of(&entry.path())?);
        }
    }
    Ok(files)
}

fn stamps(dir: &Path, manifest: &Manifest) -> io::Result<Stamps> {
    manifest.files.keys().map(|name| Ok((name.clone(), stamp_of(&dir.join(name))?))).collect()
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    let named = |e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()));
    let text = read_bounded(path, MAX_JSON).map_err(|e| named(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| named(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{super::modinfo::tests::module_file, *};

    /// A kernel elsewhere on the host: an ELF file, one module, and this list of what is built in.
    fn found(dir: &Path, builtin: &str) -> Found {
        let mut image = b"\x7fELF\x02\x01".to_vec();
        image.resize(64, 0);
        image[18] = 62;
        image.extend(b"Linux version 6.1.0-x (root@localhost) \0");
        fs::write(dir.join("vmlinux"), image).unwrap();
        fs::create_dir(dir.join("tree")).unwrap();
        fs::write(dir.join("tree/erofs.ko.zst"), zstd::encode_all(&module_file(b"depends=\0")[..], 1).unwrap())
            .unwrap();
        fs::write(dir.join("tree/modules.builtin"), builtin).unwrap();
        Found { version: "6.1.0-x".into(), image: dir.join("vmlinux"), modules: Some(dir.join("tree")) }
    }

    const BUILTIN: &str =
        "k/virtio_mmio.ko\nk/virtio_console.ko\nk/virtio_blk.ko\nk/virtio_net.ko\nk/overlay.ko\nk/ext4.ko\n";

    #[test]
    fn older_kernels_go_unless_they_were_put_there_by_hand() {
        let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = Folder::lock(cache.path()).unwrap();
        let mut found = found(source.path(), BUILTIN);
        let adopted = ["6.1.0-9", "6.1.0-10", "6.1.0-11", "6.1.0-8"].map(|version| {
            found.version = version.into();
            adopt(&folder, &found, Transport::Mmio).unwrap()
        });
        drop(folder);
        fs::remove_file(adopted[3].image.with_file_name(MANIFEST)).unwrap();
        // By another path to the same file.
        let link = source.path().join("link");
        std::os::unix::fs::symlink(cache.path(), &link).unwrap();
        let named = Kernel { image: link.join("6.1.0-9").join(KERNEL), ..adopted[0].clone() };
        assert_eq!(sweep(cache.path(), &[&adopted[1], &named]).unwrap(), 0, "one that is used otherwise");
        assert_eq!(sweep(cache.path(), &[&adopted[1]]).unwrap(), 1);
        assert_eq!(adopted.each_ref().map(|kernel| kernel.image.exists()), [false, true, true, true]);
        let elsewhere = Kernel { image: source.path().join(KERNEL), ..adopted[1].clone() };
        assert_eq!(sweep(cache.path(), &[&elsewhere]).unwrap(), 0, "a kernel of the user's own supersedes none");
    }

    #[test]
    fn an_adopted_kernel_is_trusted_until_it_changes() {
        let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = Folder::lock(cache.path()).unwrap();
        let kernel = adopt(&folder, &found(source.path(), BUILTIN), Transport::Mmio).unwrap();
        let dir = kernel.image.parent().unwrap();
        assert_eq!(open_quickly(dir).unwrap(), kernel);
        let modules = kernel.modules(Transport::Mmio).unwrap();
        assert_eq!(modules.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["erofs"]);

        let file = dir.join("modules/erofs.ko");
        let content = fs::read(&file).unwrap();
        fs::write(&file, &content).unwrap();
        assert_eq!(open_quickly(dir), None, "touched");
        assert_eq!(open_carefully(dir).unwrap(), kernel);
        assert_eq!(open_quickly(dir).unwrap(), kernel, "looked at again, and remembered");

        fs::write(&file, &content[1..]).unwrap();
        assert_eq!(open_quickly(dir), None, "damaged");
        assert!(open_carefully(dir).unwrap_err().to_string().contains("modules/erofs.ko has another digest"));
        fs::remove_file(&file).unwrap();
        assert!(open_carefully(dir).is_err());
    }

    #[test]
    fn a_kernel_that_does_not_fit_leaves_nothing() {
        let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = Folder::lock(cache.path()).unwrap();
        let lacking = adopt(&folder, &found(source.path(), ""), Transport::Mmio).unwrap_err();
        assert!(matches!(lacking, KernelError::Modules(_)), "{lacking}");
        let image = source.path().join("no-kernel");
        fs::write(&image, "#!/bin/sh").unwrap();
        let wrong = Found { version: "1".into(), image, modules: None };
        assert!(matches!(adopt(&folder, &wrong, Transport::Mmio), Err(KernelError::File(..))));
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "only the lock");
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["6.1.0-9-cloud", "6.1.0-10-cloud", "6.12.1", "5.10", ".half-made.tmp", "no-kernel"] {
            fs::create_dir(dir.path().join(version)).unwrap();
            if version != "no-kernel" {
                fs::write(dir.path().join(version).join(KERNEL), "").unwrap();
            }
        }
        let names: Vec<_> = versions(dir.path()).iter().map(|d| d.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["6.12.1", "6.1.0-10-cloud", "6.1.0-9-cloud", "5.10"]);
    }
}
