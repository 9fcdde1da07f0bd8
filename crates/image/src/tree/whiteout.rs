//! What a layer's `.wh.` entries hide (OCI image-spec, `layer.md`, "Whiteouts").

use super::{EntryPath, InodeId, Metadata, Node, Tree, TreeError};
use crate::EntryProblem;

const PREFIX: &[u8] = b".wh.";
/// AUFS's own bookkeeping starts with this; only the opaque marker means anything elsewhere.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a path means for lower layers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whiteout<'a> {
    /// Nothing: an ordinary entry.
    None,
    /// Belongs to AUFS and to nobody else.
    Ignored,
    /// All that lower layers have in the entry's directory is hidden.
    Opaque,
    /// What lower layers have under this name is hidden.
    Hides(&'a [u8]),
}

impl<'a> Whiteout<'a> {
    pub(crate) fn of(path: &EntryPath<'a>) -> Result<Self, EntryProblem> {
        let Some((name, parents)) = path.split_last() else { return Ok(Self::None) };
        if parents.iter().any(|parent| parent.starts_with(AUFS_PREFIX)) {
            return Ok(Self::Ignored);
        }
        let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(Self::None) };
        match hidden {
            _ if name == OPAQUE => Ok(Self::Opaque),
            _ if name.starts_with(AUFS_PREFIX) => Ok(Self::Ignored),
            b"" | b"." | b".." => Err(EntryProblem::BadWhiteout),
            hidden => Ok(Self::Hides(hidden)),
        }
    }
}

impl Tree {
    /// Applies a whiteout at `path`. Where it has nothing to hide, it does nothing.
    pub(crate) fn hide(&mut self, path: &EntryPath<'_>, whiteout: &Whiteout<'_>) -> Result<(), TreeError> {
        let Some((_, parents)) = path.split_last() else { return Ok(()) };
        let Some(directory) = self.find_directory(parents)? else { return Ok(()) };
        match whiteout {
            Whiteout::Hides(name) => self.hide_name(directory, name),
            Whiteout::Opaque => self.hide_contents(directory),
            Whiteout::None | Whiteout::Ignored => {}
        }
        Ok(())
    }

    fn hide_name(&mut self, parent: InodeId, name: &[u8]) {
        let Some(there) = self.lookup(parent, name) else { return };
        if matches!(self.inode(there.inode).node, Node::Directory(_)) {
            self.hide_contents(there.inode);
        }
        self.hide_if_lower(parent, name);
    }

    /// Removes all names of lower layers anywhere below `top`.
    fn hide_contents(&mut self, top: InodeId) {
        let layer = self.layer;
        let may_have_lower_names = |id: InodeId| match &self.inode(id).node {
            Node::Directory(directory) => directory.cleared_by < layer,
            _ => false,
        };
        // Parents come before their children here; worked off backwards, so that a directory is known to be empty.
        let mut directories: Vec<_> = Some(top).into_iter().filter(|&id| may_have_lower_names(id)).collect();
        let mut next = 0;
        while let Some(&id) = directories.get(next) {
            if let Node::Directory(directory) = &self.inode(id).node {
                let below = directory.names.values().map(|name| name.inode);
                directories.extend(below.filter(|&id| may_have_lower_names(id)));
            }
            next += 1;
        }
        while let Some(id) = directories.pop() {
            self.directory_mut(id).cleared_by = layer;
            let lower = self.directory_mut(id).names.iter().filter(|(_, name)| name.layer < layer);
            let lower: Vec<Box<[u8]>> = lower.map(|(name, _)| name.clone()).collect();
            for name in lower {
                self.hide_if_lower(id, &name);
            }
        }
    }

    /// Removes a name that a lower layer brought. A directory in which this layer has something stays as what that
    /// implies: the lower layer's metadata goes.
    fn hide_if_lower(&mut self, parent: InodeId, name: &[u8]) {
        let Some(there) = self.lookup(parent, name).filter(|there| there.layer < self.layer) else { return };
        if let Node::Directory(directory) = &self.inode(there.inode).node
            && !directory.names.is_empty()
        {
            self.claim(parent, name);
            self.inodes[there.inode.index()].metadata = Metadata::implied();
            return;
        }
        self.directory_mut(parent).names.remove(name);
        self.release(there.inode);
    }
}
