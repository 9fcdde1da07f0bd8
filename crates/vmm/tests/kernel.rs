//! Where kernels come from, on the real thing: the distribution's package archive and the cache. Takes some ten seconds
//! and downloads one kernel package.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use matchlock_model::CacheLayout;
use matchlock_vmm::kernel::{Kernel, Transport, resolve};

fn resolved(kernels: &Path) -> Kernel {
    resolve(None, kernels, Transport::Mmio).unwrap()
}

/// A copy of the user's cached kernel, which is fetched now if there is none.
fn copied_cache() -> (tempfile::TempDir, Kernel) {
    let cache = CacheLayout::new(&PathBuf::from(std::env::var_os("HOME").unwrap()));
    let original = resolved(&cache.kernels());
    let dir = tempfile::tempdir().unwrap();
    let from = original.image.parent().unwrap();
    let to = dir.path().join(from.file_name().unwrap());
    fs::create_dir_all(to.join("modules")).unwrap();
    for entry in fs::read_dir(from).unwrap().chain(fs::read_dir(from.join("modules")).unwrap()) {
        let path = entry.unwrap().path();
        // Without what was remembered: everything is looked at again.
        if path.is_file() && !path.ends_with("verified.json") {
            fs::copy(&path, to.join(path.strip_prefix(from).unwrap())).unwrap();
        }
    }
    (dir, original)
}

#[test]
fn a_whole_kernel_is_verified_once_and_a_damaged_one_is_fetched_again() {
    let (dir, original) = copied_cache();
    let kernel = resolved(dir.path());
    assert_eq!(kernel.version, original.version);
    let remembered = kernel.image.with_file_name("verified.json");
    assert!(remembered.exists());

    // What a killed fetch leaves, and a module with one byte changed.
    fs::create_dir_all(dir.path().join(".killed.tmp/apt")).unwrap();
    let module = kernel.image.with_file_name("modules").join("erofs.ko");
    let mut bytes = fs::read(&module).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&module, bytes).unwrap();

    // Two at the same time: one of them fetches.
    let both = std::thread::scope(|scope| {
        let run = || scope.spawn(|| resolved(dir.path()));
        [run(), run()].map(|thread| thread.join().unwrap())
    });
    assert_eq!(both[0], both[1]);
    let again = fs::read(&module).unwrap();
    assert_eq!(again, fs::read(original.image.with_file_name("modules").join("erofs.ko")).unwrap());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the kernel and the lock: {left:?}");
}

#[test]
fn a_kernel_put_there_by_hand_is_used_and_never_removed() {
    let (dir, original) = copied_cache();
    let folder = dir.path().join(&original.version);
    fs::remove_file(folder.join("manifest.json")).unwrap();
    assert_eq!(resolved(dir.path()).version, original.version);
    assert!(resolve(Some(&folder.join("kernel")), Path::new("/nowhere"), Transport::Mmio).is_ok());
    fs::remove_file(folder.join("modules/virtio_blk.ko")).unwrap();
    let lacking = resolve(Some(&folder.join("kernel")), Path::new("/nowhere"), Transport::Mmio).unwrap_err();
    assert!(std::error::Error::source(&lacking).unwrap().to_string().contains("virtio_blk is neither built in"));
}
