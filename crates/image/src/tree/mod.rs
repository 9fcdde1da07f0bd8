//! The image's tree while layers are laid over each other, base first (OCI image-spec, `layer.md`).
//!
//! Called by [`convert`](crate::convert), read by [`erofs`](crate::erofs). It holds metadata only; the data of files is
//! in the image file already, and the tree knows at which block. Invariants: inode 0 is the root directory; an inode's
//! link count is the number of names it has, and one without names is [`Node::Removed`].
//!
//! Every name carries the layer that brought it last. That alone makes whiteouts independent of their place in the
//! tar: they remove what carries an earlier layer, and nothing else.

mod inode;
mod path;
mod resolve;
mod whiteout;

use std::{collections::HashSet, sync::Arc};

use matchlock_model::guest_files::{CA_ANCHOR, CA_FILE};

pub(crate) use inode::{Directory, Extent, Inode, InodeId, Metadata, Name, Node};
pub(crate) use path::EntryPath;
pub(crate) use whiteout::Whiteout;

use crate::{
    ConvertError, EntryProblem, Limits,
    convert::{Quota, printable},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    /// Number of the layer being applied, from 1.
    layer: u32,
    limits: Limits,
    entries: Quota,
    memory: Quota,
    /// Each distinct encoded set of extended attributes once.
    xattrs: HashSet<Arc<[u8]>>,
    freed: Vec<Extent>,
}

/// Why an operation on the tree failed: the entry is at fault, or the image is too large.
#[derive(Debug)]
pub(crate) enum TreeError {
    Entry(EntryProblem),
    Limit(ConvertError),
}

impl From<EntryProblem> for TreeError {
    fn from(problem: EntryProblem) -> Self {
        Self::Entry(problem)
    }
}

impl From<ConvertError> for TreeError {
    fn from(error: ConvertError) -> Self {
        Self::Limit(error)
    }
}

impl TreeError {
    /// The error for the entry called `name`.
    pub(crate) fn of(self, name: &[u8]) -> ConvertError {
        match self {
            Self::Entry(problem) => problem.of(name),
            Self::Limit(error) => error,
        }
    }
}

impl Tree {
    pub(crate) const ROOT: InodeId = InodeId::ROOT;

    pub(crate) fn new(limits: &Limits) -> Self {
        let root = Inode::new(Metadata::implied(), Node::Directory(Directory::new(0)));
        Self {
            inodes: vec![Inode { links: 1, ..root }],
            layer: 0,
            limits: limits.clone(),
            entries: Quota::new("files", limits.entries),
            memory: Quota::new("bytes of metadata", limits.metadata_bytes),
            xattrs: HashSet::new(),
            freed: Vec::new(),
        }
    }

    /// What is added from here on belongs to the next layer.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// How many ids there are, those of removed inodes included.
    pub(crate) fn id_count(&self) -> usize {
        self.inodes.len()
    }

    /// Blocks of files that no longer exist.
    pub(crate) fn freed(&self) -> &[Extent] {
        &self.freed
    }

    /// An encoded set of attributes, shared with every other inode that has the same.
    pub(crate) fn share_xattrs(&mut self, encoded: Vec<u8>) -> Result<Arc<[u8]>, TreeError> {
        if let Some(shared) = self.xattrs.get(encoded.as_slice()) {
            return Ok(Arc::clone(shared));
        }
        self.memory.charge(encoded.len() as u64)?;
        let shared: Arc<[u8]> = encoded.into();
        self.xattrs.insert(Arc::clone(&shared));
        Ok(shared)
    }

    /// A directory entry: merges with a directory that is there, replaces anything else.
    pub(crate) fn add_directory(&mut self, path: &EntryPath<'_>, metadata: Metadata) -> Result<(), TreeError> {
        let Some((name, parents)) = path.split_last() else {
            self.inodes[Self::ROOT.index()].metadata = metadata;
            return Ok(());
        };
        let parent = self.walk(parents)?;
        if let Some(there) = self.lookup(parent, name)
            && matches!(self.inode(there.inode).node, Node::Directory(_))
        {
            self.claim(parent, name);
            self.inodes[there.inode.index()].metadata = metadata;
            return Ok(());
        }
        let id = self.create(metadata, Node::Directory(Directory::new(self.layer)))?;
        self.put(parent, name, id)
    }

    /// An entry of any other kind: replaces what is there, a whole directory included.
    pub(crate) fn add(&mut self, path: &EntryPath<'_>, metadata: Metadata, node: Node) -> Result<(), TreeError> {
        let (name, parents) = path.split_last().ok_or(EntryProblem::EmptyPath)?;
        let parent = self.walk(parents)?;
        let id = self.create(metadata, node)?;
        self.put(parent, name, id)
    }

    /// One more name for what `target` is at this point.
    pub(crate) fn add_hard_link(&mut self, path: &EntryPath<'_>, target: &[u8]) -> Result<(), TreeError> {
        let (name, parents) = path.split_last().ok_or(EntryProblem::EmptyPath)?;
        let target_path = EntryPath::parse(target, &self.limits).map_err(|problem| match problem {
            EntryProblem::DotDot => EntryProblem::LinkOutside(printable(target)),
            other => other,
        })?;
        let id = self.find(&target_path)?.ok_or_else(|| EntryProblem::LinkToNothing(printable(target)))?;
        if matches!(self.inode(id).node, Node::Directory(_)) {
            return Err(EntryProblem::LinkToDirectory(printable(target)).into());
        }
        // Held while the name is put in place: it may replace the very name that was found.
        self.inodes[id.index()].links += 1;
        self.entries.charge(1)?;
        let parent = self.walk(parents)?;
        let put = self.put(parent, name, id);
        self.release(id);
        put
    }

    /// Make what every sandbox mounts on, where there is nothing of that name, so that none has to make it on its own disk.
    pub(crate) fn add_mount_points(&mut self) -> Result<(), TreeError> {
        for (name, mode) in
            [("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)]
        {
            self.add_missing(Self::ROOT, name.as_bytes(), mode, Node::Directory(Directory::new(self.layer)))?;
        }
        if let Some(etc) = self.subfolder(Self::ROOT, b"etc") {
            for name in ["hostname", "hosts", "resolv.conf"] {
                self.add_missing(etc, name.as_bytes(), 0o644, Node::SmallFile(Box::default()))?;
            }
        }
        self.add_anchors()
    }

    /// Where the programs look that make bundles of certificates anew (`update-ca-certificates`, `update-ca-trust`), links to what
    /// a sandbox may be told to trust. Where it is told nothing they lead nowhere, and are passed over.
    fn add_anchors(&mut self) -> Result<(), TreeError> {
        if let Some(share) = self.folder_at(&["usr", "local", "share"]) {
            self.add_missing(share, b"ca-certificates", 0o755, Node::Directory(Directory::new(self.layer)))?;
        }
        let debian = self.folder_at(&["usr", "local", "share", "ca-certificates"]);
        let fedora = self.folder_at(&["etc", "pki", "ca-trust", "source", "anchors"]);
        for anchors in [debian, fedora].into_iter().flatten() {
            self.add_missing(anchors, CA_ANCHOR.as_bytes(), 0o777, Node::Symlink(CA_FILE.as_bytes().into()))?;
        }
        Ok(())
    }

    fn folder_at(&self, names: &[&str]) -> Option<InodeId> {
        names.iter().try_fold(Self::ROOT, |parent, name| self.subfolder(parent, name.as_bytes()))
    }

    /// The folder of this name, if it is one.
    fn subfolder(&self, parent: InodeId, name: &[u8]) -> Option<InodeId> {
        let id = self.lookup(parent, name)?.inode;
        matches!(self.inode(id).node, Node::Directory(_)).then_some(id)
    }

    /// Unless there is something of that name.
    fn add_missing(&mut self, parent: InodeId, name: &[u8], mode: u16, node: Node) -> Result<(), TreeError> {
        if self.lookup(parent, name).is_none() {
            let id = self.create(Metadata { mode, ..Metadata::implied() }, node)?;
            self.put(parent, name, id)?;
        }
        Ok(())
    }

    fn create(&mut self, metadata: Metadata, node: Node) -> Result<InodeId, TreeError> {
        self.entries.charge(1)?;
        self.memory.charge(node.memory())?;
        let id =
            InodeId::new(self.inodes.len()).ok_or(ConvertError::Limit { what: "files", limit: u32::MAX.into() })?;
        self.inodes.push(Inode::new(metadata, node));
        Ok(id)
    }

    /// Gives `id` the name `name`, which is of this layer now, and lets go of what had it.
    fn put(&mut self, parent: InodeId, name: &[u8], id: InodeId) -> Result<(), TreeError> {
        self.memory.charge((size_of::<(Box<[u8]>, Name)>() + name.len()) as u64)?;
        self.inodes[id.index()].links += 1;
        let entry = Name { inode: id, layer: self.layer };
        let replaced = self.directory_mut(parent).names.insert(name.into(), entry);
        if let Some(replaced) = replaced {
            self.release(replaced.inode);
        }
        Ok(())
    }

    /// Makes a name that is there one of this layer's.
    fn claim(&mut self, parent: InodeId, name: &[u8]) {
        let layer = self.layer;
        if let Some(there) = self.directory_mut(parent).names.get_mut(name) {
            there.layer = layer;
        }
    }

    /// Takes one name away from `id`. With the last one it goes, and with a directory all that is in it.
    fn release(&mut self, id: InodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let inode = &mut self.inodes[id.index()];
            inode.links -= 1;
            if inode.links > 0 {
                continue;
            }
            inode.metadata.xattrs = None;
            match std::mem::replace(&mut inode.node, Node::Removed) {
                Node::Directory(directory) => pending.extend(directory.names.into_values().map(|name| name.inode)),
                Node::File(extent) => self.freed.push(extent),
                _ => {}
            }
        }
    }

    fn directory_mut(&mut self, id: InodeId) -> &mut Directory {
        match &mut self.inodes[id.index()].node {
            Node::Directory(directory) => directory,
            _ => unreachable!("walk() and find() hand out directories only"),
        }
    }
}
