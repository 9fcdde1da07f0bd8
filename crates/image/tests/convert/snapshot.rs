//! A tree as plain values, to be compared.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use rustix::fs::{lgetxattr, llistxattr};
use sha2::{Digest, Sha256};

/// Everything below a root by path; the root itself is the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(pub(crate) BTreeMap<Vec<u8>, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// First path of the same inode, and its link count.
    pub(crate) links: (Vec<u8>, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File { size: u64, sha256: [u8; 32] },
    Symlink(Vec<u8>),
    CharDevice(u64),
    BlockDevice(u64),
    Fifo,
}

impl Kind {
    pub(crate) fn file(data: &[u8]) -> Self {
        Self::File { size: data.len() as u64, sha256: Sha256::digest(data).into() }
    }
}

impl Snapshot {
    pub(crate) fn read(root: &Path) -> Self {
        let mut paths = vec![Vec::new()];
        let mut found = BTreeMap::new();
        while let Some(path) = paths.pop() {
            let at = root.join(std::ffi::OsStr::from_bytes(&path));
            let metadata = fs::symlink_metadata(&at).unwrap();
            if metadata.is_dir() {
                for entry in fs::read_dir(&at).unwrap() {
                    let name = entry.unwrap().file_name();
                    let parent = if path.is_empty() { Vec::new() } else { [&path[..], b"/"].concat() };
                    paths.push([&parent[..], name.as_bytes()].concat());
                }
            }
            found.insert(path, (at, metadata));
        }
        let mut first_path = HashMap::new();
        let nodes = found.into_iter().map(|(path, (at, metadata))| {
            let first = first_path.entry(metadata.ino()).or_insert_with(|| path.clone()).clone();
            let node = Node {
                kind: kind(&at, &metadata),
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap()),
                xattrs: xattrs(&at),
                links: (first, metadata.nlink()),
            };
            (path, node)
        });
        Self(nodes.collect())
    }

    /// What an extraction by an ordinary user can show: names, data and link targets.
    pub(crate) fn as_extracted(&self) -> Self {
        let shown = self.0.iter().filter(|(_, node)| !matches!(node.kind, Kind::CharDevice(_) | Kind::BlockDevice(_)));
        Self(
            shown
                .map(|(path, node)| {
                    let kind = node.kind.clone();
                    let links = (path.clone(), 1);
                    let node = Node { kind, mode: 0, uid: 0, gid: 0, mtime: (0, 0), xattrs: BTreeMap::new(), links };
                    (path.clone(), node)
                })
                .collect(),
        )
    }

    /// Fails with the paths that differ, rather than two whole trees.
    pub(crate) fn assert_is(&self, expected: &Self) {
        let mut report = String::new();
        let all: std::collections::BTreeSet<_> = self.0.keys().chain(expected.0.keys()).collect();
        for path in all {
            let (got, want) = (self.0.get(path), expected.0.get(path));
            if got != want {
                writeln!(report, "{}:\n  is     {got:?}\n  should {want:?}", path.escape_ascii()).unwrap();
            }
        }
        assert!(report.is_empty(), "{report}");
    }
}

fn kind(at: &Path, metadata: &fs::Metadata) -> Kind {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec())
    } else if file_type.is_file() {
        let mut sha256 = Sha256::new();
        let size = std::io::copy(&mut fs::File::open(at).unwrap(), &mut HashWriter(&mut sha256)).unwrap();
        assert_eq!(size, metadata.len(), "{}", at.display());
        Kind::File { size, sha256: sha256.finalize().into() }
    } else if file_type.is_char_device() {
        Kind::CharDevice(metadata.rdev())
    } else if file_type.is_block_device() {
        Kind::BlockDevice(metadata.rdev())
    } else {
        assert!(file_type.is_fifo());
        Kind::Fifo
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn xattrs(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let len = llistxattr(at, &mut names).unwrap();
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = lgetxattr(at, name, &mut value).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}
