//! The sandbox's name, and the files of `/etc` that follow from it and from its network; and its machine id, where the image
//! asks for one.

use std::{fmt::Write as _, net::IpAddr, os::fd::OwnedFd};

use matchlock_wire::{HostEntry, Start};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fchmod, fstat, lstat, mkdirat, open, unlink},
    io::{Errno, write},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    rand::{GetRandomFlags, getrandom},
    system::sethostname,
};

use crate::{
    mounts::existing,
    os_error::{Doing, OsError},
};

const READABLE: u32 = 0o644;

/// The files of `/etc` that are the sandbox's and not its image's, in the order of their texts.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Names the system for good (machine-id(5)). An image that leaves it empty asks for one, and every sandbox gets its own.
/// One that has none wants none, or has programs that make it; what one has of its own stays.
const MACHINE_ID: &str = "/etc/machine-id";

/// What else an image may say in place of an id that is yet to be made (machine-id(5)).
const UNINITIALIZED: &[u8] = b"uninitialized\n";

/// One of [`FILES`] or [`MACHINE_ID`], empty and in memory, with a mount of it that is nowhere yet.
struct Prepared {
    file: OwnedFd,
    mount: OwnedFd,
}

/// What is laid over the image's files. Made at boot: a sandbox then only has to fill it in, and its disk is not touched.
pub(crate) struct Names {
    files: Vec<Prepared>,
    /// `None` for an agent that never becomes a sandbox.
    machine_id: Option<Prepared>,
}

impl Names {
    /// For an agent that never becomes a sandbox.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self { files: Vec::new(), machine_id: None }
    }

    /// Make the files, under names that begin with `prefix`: what a rehearsal writes is not to be seen in a sandbox.
    pub(crate) fn prepare(prefix: &str) -> Result<Self, OsError> {
        let prepare = |path: &str| -> Result<Prepared, Errno> {
            let here = format!("/{prefix}{}", path.rsplit('/').next().unwrap_or_default());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let file = open(&here, flags, Mode::from_raw_mode(READABLE))?;
            let mount = open_tree(CWD, &here, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
            Ok(Prepared { file, mount })
        };
        let prepare = |path: &str| prepare(path).doing(|| format!("prepare {path}"));
        Ok(Self {
            files: FILES.into_iter().map(prepare).collect::<Result<_, _>>()?,
            machine_id: Some(prepare(MACHINE_ID)?),
        })
    }

    /// Take the name, and have [`FILES`] say what follows from it in place of the image's own.
    pub(crate) fn assume(&self, start: &Start) -> Result<(), OsError> {
        sethostname(start.hostname.as_bytes()).doing(|| format!("set the host name {:?}", start.hostname))?;
        let texts = [
            format!("{}\n", start.hostname),
            hosts(&start.hostname, &start.add_hosts),
            resolv_conf(&start.dns_servers),
        ];
        for ((path, text), prepared) in FILES.iter().zip(&texts).zip(&self.files) {
            prepared.cover(path, text).doing(|| format!("write {path}"))?;
        }
        if let Some(prepared) = self.machine_id.as_ref().filter(|_| wants_id(MACHINE_ID)) {
            let id = machine_id().and_then(|id| prepared.cover(MACHINE_ID, &id));
            id.doing(|| format!("write {MACHINE_ID}"))?;
        }
        Ok(())
    }
}

impl Prepared {
    fn cover(&self, path: &str, text: &str) -> Result<(), Errno> {
        // An image without it, or with a link or a device in its place, gets a file of its own.
        if !lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile) {
            existing(mkdirat(CWD, "/etc", Mode::from_raw_mode(0o755)))?;
            return replace(path, text.as_bytes());
        }
        write_all(&self.file, text.as_bytes())?;
        move_mount(&self.mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }
}

/// Is this a file that stands for an id that is yet to be made? Few bytes of few files are looked at: mostly there is none.
fn wants_id(path: &str) -> bool {
    let regular = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    match lstat(path).ok().filter(regular).map(|stat| stat.st_size) {
        Some(0) => true,
        Some(size) if u64::try_from(size).is_ok_and(|size| size == UNINITIALIZED.len() as u64) => {
            std::fs::read(path).is_ok_and(|text| text == UNINITIALIZED)
        }
        _ => false,
    }
}

/// 128 random bits, marked as such (RFC 9562, version 4), as the file has them.
fn machine_id() -> Result<String, Errno> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(format!("{:032x}\n", u128::from_be_bytes(bytes)))
}

fn hosts(hostname: &str, added: &[HostEntry]) -> String {
    let mut text = format!("127.0.0.1 localhost localhost.localdomain {hostname}\n");
    for HostEntry { host, ip } in added {
        let _ = writeln!(text, "{ip} {host}"); // a String takes everything
    }
    text + "::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
}

fn resolv_conf(servers: &[IpAddr]) -> String {
    servers.iter().fold(String::new(), |mut text, server| {
        let _ = writeln!(text, "nameserver {server}"); // a String takes everything
        text
    })
}

/// Make `path` a regular file that everybody may read, whatever it was before: a link, even a dangling one, is
/// replaced and not followed.
fn replace(path: &str, text: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::from_raw_mode(READABLE)).or_else(|errno| match errno {
        Errno::LOOP | Errno::NXIO => {
            unlink(path)?;
            open(path, flags | OFlags::EXCL, Mode::from_raw_mode(READABLE))
        }
        other => Err(other),
    })?;
    if fstat(&file)?.st_mode & 0o777 != READABLE {
        fchmod(&file, Mode::from_raw_mode(READABLE))?;
    }
    write_all(&file, text)
}

fn write_all(file: &OwnedFd, mut text: &[u8]) -> Result<(), Errno> {
    while !text.is_empty() {
        text = &text[write(file, text)?..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn hosts_lists_the_name_then_the_added_ones_then_ipv6() {
        let added = [("db", "10.0.0.7"), ("v6", "fd00::1")]
            .map(|(host, ip)| HostEntry { host: host.to_owned(), ip: ip.parse().unwrap() });
        insta::assert_snapshot!(hosts("box", &added), @r"
        127.0.0.1 localhost localhost.localdomain box
        10.0.0.7 db
        fd00::1 v6
        ::1 localhost ip6-localhost ip6-loopback
        ff02::1 ip6-allnodes
        ff02::2 ip6-allrouters
        ");
    }

    #[test]
    fn resolv_conf_lists_the_servers() {
        let servers = ["1.1.1.1".parse().unwrap(), "2606:4700::1".parse().unwrap()];
        assert_eq!(resolv_conf(&servers), "nameserver 1.1.1.1\nnameserver 2606:4700::1\n");
        assert_eq!(resolv_conf(&[]), "");
    }

    #[test]
    fn a_machine_id_is_made_where_the_image_asks_for_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("machine-id");
        let path = path.to_str().unwrap();
        assert!(!wants_id(path), "there is no file");
        for (text, wanted) in [("", true), ("uninitialized\n", true), ("uninitialised\n", false), ("c0ffee\n", false)] {
            fs::write(path, text).unwrap();
            assert_eq!(wants_id(path), wanted, "{text:?}");
        }
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/dev/null", path).unwrap();
        assert!(!wants_id(path), "a link is the image's own");

        let (one, other) = (machine_id().unwrap(), machine_id().unwrap());
        assert!(one.len() == 33 && one.ends_with('\n') && one[..32].bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(&one[12..13] == "4" && one != other, "{one}");
    }

    #[test]
    fn any_kind_of_file_is_replaced_and_no_link_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("victim"), "untouched").unwrap();
        fs::write(path("plain"), "a longer text than the new one").unwrap();
        fs::set_permissions(path("plain"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(path("victim"), path("link")).unwrap();
        std::os::unix::fs::symlink("/no/such/place", path("dangling")).unwrap();
        for name in ["plain", "link", "dangling", "missing"] {
            replace(path(name).to_str().unwrap(), b"new").unwrap();
            let made = fs::symlink_metadata(path(name)).unwrap();
            assert!(made.is_file(), "{name}");
            assert_eq!(made.permissions().mode() & 0o777, 0o644, "{name}");
            assert_eq!(fs::read(path(name)).unwrap(), b"new", "{name}");
        }
        assert_eq!(fs::read(path("victim")).unwrap(), b"untouched");
    }
}
