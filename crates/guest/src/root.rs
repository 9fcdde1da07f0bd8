//! The sandbox's root: an overlay of its writable disk over the image, in place of the folder tree that the kernel
//! unpacked at boot, which no path leads to afterwards.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, OwnedFd},
};

use matchlock_wire::{DiskMount, RootDisks};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, lstat, mkdirat, open},
    io::Errno,
    mount::{FsPickFlags, MountFlags, UnmountFlags, fspick, mount, mount_move, unmount},
    process::{chdir, chroot},
};

use crate::{
    lookup::make_folders,
    mounts::{TREES, existing},
    os_error::{Doing, OsError},
    reap::last_errno,
    stopwatch::Stopwatch,
};

/// Where the image is mounted, before the root is changed.
pub(crate) const LOWER: &str = "/lower";
/// Where the writable disk is mounted.
pub(crate) const UPPER: &str = "/upper";
/// What is added to the image in this sandbox: in memory, between the image and the writable disk.
pub(crate) const ADDED: &str = "/added";
/// Where all of them are laid over each other.
pub(crate) const MERGED: &str = "/merged";

/// The disk lives as long as its sandbox: lazily initialised tables would only be written for nothing, what is deleted
/// is given back to the host, and nothing needs to survive the host's power failure.
const UPPER_OPTIONS: &CStr = c"noinit_itable,discard,nobarrier";

/// - `redirect_dir`: a folder of the image can be renamed, instead of failing with `EXDEV`.
/// - `metacopy=off`: a file's data never hides in a layer below the one that has its attributes.
/// - `xino=on`: all files have one device number, so that `find -xdev` and `tar --one-file-system` see one file system.
/// - `volatile`: `fsync` does not wait for a disk that nobody reads after the sandbox.
fn overlay_options(folder: &str) -> String {
    format!(
        "lowerdir={ADDED}:{LOWER},upperdir={folder}/upper,workdir={folder}/work,redirect_dir=on,metacopy=off,xino=on,volatile"
    )
}

/// Where on the writable disk what a sandbox changes is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// In the folders that every such disk has.
    Own,
    /// In a folder that [`discard_rehearsal`] removes.
    Rehearsal,
}

const REHEARSAL: &str = "/upper/rehearsal";

/// Where an overlay notes that it was `volatile`, so that nobody takes what a crash has left for whole (Linux,
/// overlayfs.rst, "Volatile mount"). It refuses to be mounted again.
const VOLATILE_MARK: &str = "/upper/work/work/incompat";

/// Folders that programs take for granted, should the image lack them.
const EXPECTED: [(&str, u32); 2] = [("/tmp", 0o1777), ("/run", 0o755)];

/// Mount the root from `disks`. Returns what to make read-only at the end.
pub(crate) fn assemble(disks: &RootDisks, layer: Layer, watch: &mut Stopwatch) -> Result<OwnedFd, OsError> {
    mount_disk(disks.lower, LOWER, c"erofs", MountFlags::RDONLY, c"")?;
    watch.mark("image mounted");
    mount_disk(disks.upper, UPPER, c"ext4", MountFlags::empty(), UPPER_OPTIONS)?;
    watch.mark("writable layer mounted");
    let upper = fspick(CWD, UPPER, FsPickFlags::FSPICK_CLOEXEC).doing(|| format!("hold {UPPER}"))?;
    let folder = match layer {
        Layer::Own => UPPER,
        Layer::Rehearsal => {
            for folder in ["", "/upper", "/work"] {
                let path = format!("{REHEARSAL}{folder}");
                mkdirat(CWD, &path, Mode::from_raw_mode(0o755)).doing(|| format!("make {path}"))?;
            }
            REHEARSAL
        }
    };
    mount("overlay", MERGED, "overlay", MountFlags::empty(), CString::new(overlay_options(folder)).ok().as_deref())
        .doing(|| "lay the writable disk over the image".to_owned())?;
    watch.mark("overlay mounted");
    Ok(upper)
}

/// Undo [`assemble`], as long as nobody has entered.
pub(crate) fn disassemble() -> Result<(), OsError> {
    // Not lazily: when this returns, the file systems and all that the kernel kept of them are gone.
    [MERGED, UPPER, LOWER]
        .into_iter()
        .try_for_each(|path| unmount(path, UnmountFlags::empty()).doing(|| format!("unmount {path}")))
}

/// Have the writable disk, which is not mounted, taken again by an overlay: one that was `volatile` leaves a mark against that.
pub(crate) fn unmark_layer(disks: &RootDisks) -> Result<(), OsError> {
    mount_disk(disks.upper, UPPER, c"ext4", MountFlags::empty(), UPPER_OPTIONS)?;
    remove(VOLATILE_MARK)?;
    unmount(UPPER, UnmountFlags::empty()).doing(|| format!("unmount {UPPER}"))
}

/// Remove what a rehearsal has left on the writable disk.
pub(crate) fn discard_rehearsal() -> Result<(), OsError> {
    remove(REHEARSAL)
}

fn remove(folder: &str) -> Result<(), OsError> {
    let removed = std::fs::remove_dir_all(folder);
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    removed.map_err(errno).doing(|| format!("remove {folder}"))
}

/// Forget every block of this disk that was read so far: another one takes its place, perhaps while it stays mounted.
#[expect(unsafe_code, reason = "rustix does not know this ioctl")]
pub(crate) fn forget_blocks(device: u32) -> Result<(), OsError> {
    /// `BLKFLSBUF`, `_IO(0x12, 97)` (linux/fs.h).
    const BLKFLSBUF: libc::c_ulong = 0x1261;
    let path = device_path(device);
    let forget = || {
        let device = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: the request takes no argument.
        if unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF, 0) } == 0 { Ok(()) } else { Err(last_errno()) }
    };
    forget().doing(|| format!("forget the blocks of {path}"))
}

/// Move into the assembled root.
pub(crate) fn enter(watch: &mut Stopwatch) -> Result<(), OsError> {
    for tree in TREES {
        move_tree(tree).doing(|| format!("mount {tree} on the image's {tree}"))?;
    }
    change_root().doing(|| "change the root".to_owned())?;
    for (path, mode) in EXPECTED {
        make_expected(path, mode).doing(|| format!("make {path}"))?;
    }
    watch.mark("root entered");
    Ok(())
}

/// Mount one of the user's disks. Returns what to make read-only at the end, unless it is so already.
pub(crate) fn mount_user_disk(disk: &DiskMount) -> Result<Option<OwnedFd>, OsError> {
    make_folders(&disk.mount).doing(|| format!("make {}", disk.mount))?;
    let flags = if disk.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    let mounted = mount_disk(disk.device, &disk.mount, c"ext4", flags, c"");
    if disk.readonly {
        // One that was not left clean has a journal to be written back first, which a disk that is read-only on the host
        // does not allow. Then it is shown as it is on the disk.
        return mounted.or_else(|_| mount_disk(disk.device, &disk.mount, c"ext4", flags, c"noload")).map(|()| None);
    }
    mounted?;
    fspick(CWD, &disk.mount, FsPickFlags::FSPICK_CLOEXEC).map(Some).doing(|| format!("hold {}", disk.mount))
}

fn mount_disk(device: u32, at: &str, kind: &CStr, flags: MountFlags, options: &CStr) -> Result<(), OsError> {
    let path = device_path(device);
    mount(path.as_str(), at, kind, flags, options).doing(|| format!("mount {path} at {at}"))
}

/// The path of the disk with this number: `/dev/vda`, … `/dev/vdz`, `/dev/vdaa`, …
fn device_path(number: u32) -> String {
    let letter = |number: u32| char::from(b'a' + u8::try_from(number % 26).unwrap_or_default());
    match number / 26 {
        0 => format!("/dev/vd{}", letter(number)),
        more => format!("/dev/vd{}{}", letter(more - 1), letter(number)),
    }
}

/// A link of the image's is not followed: it would lead to somewhere in the folder tree from the boot.
fn move_tree(tree: &str) -> Result<(), Errno> {
    let target = format!("{MERGED}{tree}");
    match lstat(&target).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Directory) => {}
        Ok(_) => return Err(Errno::NOTDIR),
        Err(Errno::NOENT) => mkdirat(CWD, &target, Mode::from_raw_mode(0o755))?,
        Err(other) => return Err(other),
    }
    mount_move(tree, &target)
}

/// The unpacked tree is the kernel's first root, which `pivot_root` cannot leave: so it is covered instead.
fn change_root() -> Result<(), Errno> {
    chdir(MERGED)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")
}

/// Make a folder with exactly this mode, unless there is something of that name.
fn make_expected(path: &str, permissions: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(permissions);
    match mkdirat(CWD, path, mode) {
        // The umask has taken bits away.
        Ok(()) => rustix::fs::chmod(path, mode),
        other => existing(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_like_the_kernel_names_them() {
        let names = [0, 1, 25, 26, 27, 701].map(device_path);
        assert_eq!(names, ["/dev/vda", "/dev/vdb", "/dev/vdz", "/dev/vdaa", "/dev/vdab", "/dev/vdzz"]);
    }
}
