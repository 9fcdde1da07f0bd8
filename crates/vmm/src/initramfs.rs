//! The guest's initial root file system: the guest binary as `/init`, the modules it loads, and a console to fail on.
//!
//! A "newc" cpio archive (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`). Not compressed: an
//! emulator unpacks more slowly than it reads. Invariant: a file in the cache folder is named by the digest of what is in it,
//! so it is never stale, and never half-written.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use cpio::newc;
use matchlock_model::Digest;
use sha2::{Digest as _, Sha256};

use crate::{cache::Folder, kernel::Module};

/// Raised when the layout below changes.
const LAYOUT: &[u8] = b"1";

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// Folders that the guest mounts on, and the one its modules are in.
const FOLDERS: [&str; 5] = ["dev", "proc", "sys", "run", "modules"];

/// The initramfs with this guest binary and these modules, made if it is not in the folder `cache_dir` yet.
///
/// # Errors
/// The folder cannot be written.
pub fn assemble(cache_dir: &Path, guest: &[u8], modules: &[Module]) -> io::Result<PathBuf> {
    let name = format!("{}.cpio", digest(guest, modules).hex());
    let path = cache_dir.join(&name);
    let complete = fs::metadata(&path).is_ok_and(|meta| meta.len() > 0);
    if complete {
        return Ok(path);
    }
    Folder::lock(cache_dir)?.publish(&name, |file| file.write_all(&archive(guest, modules)?))
}

/// Remove the files that were assembled for other guests or kernels than those `used`, as [`assemble`] returned them;
/// returns how many there were. A running machine has read its own already.
///
/// # Errors
/// The folder cannot be read or written.
pub fn sweep(used: &[PathBuf]) -> io::Result<usize> {
    let Some(folder) = used.first().and_then(|path| path.parent()) else { return Ok(0) };
    let ours = |name: &str| name.strip_suffix(".cpio").is_some_and(|hex| hex.len() == 64);
    Folder::lock(folder)?.sweep(|name| ours(name) && !used.iter().any(|path| path.ends_with(name)))
}

fn digest(guest: &[u8], modules: &[Module]) -> Digest {
    let mut hash = Sha256::new();
    let parts = modules.iter().flat_map(|module| [module.name.as_bytes(), &module.bytes]);
    for part in [LAYOUT, guest].into_iter().chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Digest::from_bytes(hash.finalize().into())
}

fn archive(guest: &[u8], modules: &[Module]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(guest.len() + modules.iter().map(|m| m.bytes.len() + 256).sum::<usize>() + 4096);
    let mut inode = 0;
    let mut add = |entry: newc::Builder, content: &[u8]| {
        inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut writer = entry.ino(inode).write(&mut out, size);
        writer.write_all(content)?;
        writer.finish().map(drop)
    };
    for folder in FOLDERS {
        add(newc::Builder::new(folder).mode(DIRECTORY).nlink(2), &[])?;
    }
    // The kernel opens it for init's standard streams before anything is mounted.
    add(newc::Builder::new("dev/console").mode(CONSOLE).rdev_major(5).rdev_minor(1), &[])?;
    add(newc::Builder::new("init").mode(PROGRAM), guest)?;
    for (position, module) in modules.iter().enumerate() {
        // The guest loads them in the order of their names.
        add(newc::Builder::new(&format!("modules/{position:03}-{}.ko", module.name)).mode(FILE), &module.bytes)?;
    }
    newc::trailer(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_left_goes_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let old = assemble(dir.path(), b"old", &[]).unwrap();
        let current = assemble(dir.path(), b"new", &[]).unwrap();
        let other = assemble(dir.path(), b"other", &[]).unwrap();
        let foreign = dir.path().join("mine.cpio");
        fs::write(&foreign, "").unwrap();
        assert_eq!(sweep(&[current.clone(), other.clone()]).unwrap(), 1);
        assert_eq!([old, other, current.clone(), foreign].map(|path| path.exists()), [false, true, true, true]);
        assert_eq!(sweep(&[current]).unwrap(), 1);
    }

    #[test]
    fn the_archive_lists_what_the_guest_expects() {
        let module = |name: &str| Module { name: name.into(), bytes: name.as_bytes().to_vec() };
        let dir = tempfile::tempdir().unwrap();
        let path = assemble(dir.path(), b"guest", &[module("virtio"), module("ext4")]).unwrap();
        let mut rest = fs::File::open(&path).unwrap();
        let mut listing = String::new();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            let line = format!(
                "{:06o} {}:{} {} {}\n",
                entry.mode(),
                entry.rdev_major(),
                entry.rdev_minor(),
                entry.file_size(),
                entry.name()
            );
            listing.push_str(&line);
            rest = reader.finish().unwrap();
        }
        insta::assert_snapshot!(listing, @r"
        040755 0:0 0 dev
        040755 0:0 0 proc
        040755 0:0 0 sys
        040755 0:0 0 run
        040755 0:0 0 modules
        020600 5:1 0 dev/console
        100755 0:0 5 init
        100644 0:0 6 modules/000-virtio.ko
        100644 0:0 4 modules/001-ext4.ko
        ");
        assert_eq!(assemble(dir.path(), b"guest", &[module("virtio"), module("ext4")]).unwrap(), path);
        assert_ne!(assemble(dir.path(), b"guest2", &[module("virtio"), module("ext4")]).unwrap(), path);
        assert_ne!(assemble(dir.path(), b"guest", &[module("ext4"), module("virtio")]).unwrap(), path);
    }
}
