//! The rules for layers (OCI image-spec, `layer.md`) over a flat map of paths, as plainly as they can be said.
//!
//! A layer is a set of changes: first all its whiteouts are applied to what was there before, wherever in the tar they
//! are; then its entries in order. Nothing here knows of the converter's tree.

use std::collections::BTreeMap;

use crate::{
    layer::{Attributes, Layer},
    snapshot::{Kind, Node, Snapshot},
};

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Add(String, Content, Attributes),
    /// Path, and which of the files that can be linked to at that point.
    HardLink(String, usize),
    Whiteout(String),
    Opaque(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    /// So many times this byte.
    File(u8, usize),
    Symlink(String),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// The merged tree: which inode each path has, and what the inodes are.
#[derive(Default)]
pub(crate) struct Model {
    paths: BTreeMap<String, usize>,
    inodes: Vec<(Content, Attributes)>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Applies a layer and returns it as a tar.
    pub(crate) fn apply(&mut self, changes: &[Change]) -> Vec<u8> {
        for change in changes {
            match change {
                Change::Whiteout(path) => self.remove(path, true),
                Change::Opaque(path) => self.remove(path, false),
                _ => {}
            }
        }
        let mut tar = Layer::new();
        for change in changes {
            tar = match change {
                Change::Add(path, content, attributes) => {
                    self.add(path, content.clone(), attributes.clone());
                    append(tar, path, content, attributes)
                }
                Change::HardLink(path, choice) => {
                    // A second name for a symbolic link would lead other paths through it.
                    let is_linkable =
                        |id: &usize| !matches!(self.inodes[*id].0, Content::Directory | Content::Symlink(_));
                    let linkable: Vec<_> = self.paths.iter().filter(|(_, id)| is_linkable(id)).collect();
                    if linkable.is_empty() {
                        continue;
                    }
                    let (target, &id) = linkable[choice % linkable.len()];
                    let target = target.clone();
                    self.put(path, id);
                    tar.hard_link(path, target)
                }
                Change::Whiteout(path) => {
                    let (parent, name) = path.rsplit_once('/').map_or(("", path.as_str()), |split| split);
                    tar.file(join(parent, &format!(".wh.{name}")), "")
                }
                Change::Opaque(path) => tar.file(join(path, ".wh..wh..opq"), ""),
            };
        }
        tar.finish()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let root = Node {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: BTreeMap::new(),
            links: (Vec::new(), self.directory_links("")),
        };
        let mut nodes = BTreeMap::from([(Vec::new(), root)]);
        for (path, &id) in &self.paths {
            let (content, attributes) = &self.inodes[id];
            let same: Vec<_> = self.paths.iter().filter(|(_, other)| **other == id).map(|(path, _)| path).collect();
            let links = match content {
                Content::Directory => self.directory_links(path),
                _ => same.len() as u64,
            };
            let node = Node {
                kind: kind(content),
                mode: attributes.mode,
                uid: attributes.uid,
                gid: attributes.gid,
                mtime: attributes.mtime,
                xattrs: attributes.xattrs.iter().map(|(k, v)| (k.clone().into_bytes(), v.clone())).collect(),
                links: (same[0].clone().into_bytes(), links),
            };
            nodes.insert(path.clone().into_bytes(), node);
        }
        Snapshot(nodes)
    }

    fn directory_links(&self, path: &str) -> u64 {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let children =
            self.paths.iter().filter(|(other, _)| other.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/')));
        2 + children.filter(|(_, id)| self.inodes[**id].0 == Content::Directory).count() as u64
    }

    fn add(&mut self, path: &str, content: Content, attributes: Attributes) {
        if content == Content::Directory
            && let Some(&id) = self.paths.get(path)
            && self.inodes[id].0 == Content::Directory
        {
            self.inodes[id].1 = attributes;
            return;
        }
        self.inodes.push((content, attributes));
        self.put(path, self.inodes.len() - 1);
    }

    fn put(&mut self, path: &str, id: usize) {
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            let is_directory = self.paths.get(parent).is_some_and(|&id| self.inodes[id].0 == Content::Directory);
            if !is_directory {
                self.inodes.push((Content::Directory, Attributes::mode(0o755)));
                self.paths.insert(parent.to_owned(), self.inodes.len() - 1);
            }
        }
        self.remove(path, true);
        self.paths.insert(path.to_owned(), id);
    }

    fn remove(&mut self, path: &str, itself: bool) {
        let below = format!("{path}/");
        self.paths.retain(|other, _| !(other.starts_with(&below) || path.is_empty() || (itself && other == path)));
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

fn append(tar: Layer, path: &str, content: &Content, attributes: &Attributes) -> Layer {
    use tar::EntryType;
    match content {
        Content::Directory => tar.entry(EntryType::Directory, format!("./{path}/"), "", "", attributes),
        Content::File(fill, size) => tar.entry(EntryType::Regular, path, "", vec![*fill; *size], attributes),
        Content::Symlink(target) => tar.entry(EntryType::Symlink, path, target, "", attributes),
        Content::Fifo => tar.entry(EntryType::Fifo, path, "", "", attributes),
        Content::CharDevice(major, minor) => tar.device(EntryType::Char, path, (*major, *minor), attributes),
        Content::BlockDevice(major, minor) => tar.device(EntryType::Block, path, (*major, *minor), attributes),
    }
}

fn kind(content: &Content) -> Kind {
    match content {
        Content::Directory => Kind::Directory,
        Content::File(fill, size) => Kind::file(&vec![*fill; *size]),
        Content::Symlink(target) => Kind::Symlink(target.clone().into_bytes()),
        Content::CharDevice(major, minor) => Kind::CharDevice(rustix::fs::makedev(*major, *minor)),
        Content::BlockDevice(major, minor) => Kind::BlockDevice(rustix::fs::makedev(*major, *minor)),
        Content::Fifo => Kind::Fifo,
    }
}
