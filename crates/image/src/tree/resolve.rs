//! From a path to an inode, with symbolic links followed inside the root, as containerd and a chroot do.

use std::borrow::Cow;

use super::{Directory, EntryPath, InodeId, Metadata, Name, Node, Tree, TreeError, path::split};
use crate::EntryProblem;

/// A directory reached, with those above it, so that a link's `..` knows the way back; never above the root.
struct Position(Vec<InodeId>);

impl Position {
    fn here(&self) -> InodeId {
        self.0.last().copied().unwrap_or(Tree::ROOT)
    }

    fn up(&mut self) {
        self.0.pop();
    }
}

impl Tree {
    /// The directory that `components` lead to. What is missing is made, and what is neither a directory nor a link
    /// gives way to one: an entry below it says that it is a directory.
    pub(super) fn walk(&mut self, components: &[&[u8]]) -> Result<InodeId, TreeError> {
        let mut position = Position(Vec::new());
        let mut pending = Pending::new(self, components);
        while let Some(name) = pending.next() {
            if &*name == b".." {
                position.up();
                continue;
            }
            let here = position.here();
            let there = self.directory_mut(here).names.get(&*name).map(|there| there.inode);
            let next = match there.map(|id| (id, &self.inode(id).node)) {
                Some((id, Node::Directory(_))) => id,
                Some((_, Node::Symlink(target))) => {
                    if target.starts_with(b"/") {
                        position.0.clear();
                    }
                    pending.follow(&target.clone())?;
                    continue;
                }
                _ => {
                    let id = self.create(Metadata::implied(), Node::Directory(Directory::new(self.layer)))?;
                    self.put(here, &name, id)?;
                    id
                }
            };
            position.0.push(next);
        }
        Ok(position.here())
    }

    /// The directory that `components` lead to, if there is one.
    pub(super) fn find_directory(&self, components: &[&[u8]]) -> Result<Option<InodeId>, TreeError> {
        let mut position = Position(Vec::new());
        let mut pending = Pending::new(self, components);
        while let Some(name) = pending.next() {
            if &*name == b".." {
                position.up();
                continue;
            }
            let there = self.lookup(position.here(), &name).map(|there| (there.inode, &self.inode(there.inode).node));
            match there {
                Some((id, Node::Directory(_))) => position.0.push(id),
                Some((_, Node::Symlink(target))) => {
                    if target.starts_with(b"/") {
                        position.0.clear();
                    }
                    pending.follow(target)?;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(position.here()))
    }

    /// What `path` names, a link itself rather than what it points to.
    pub(super) fn find(&self, path: &EntryPath<'_>) -> Result<Option<InodeId>, TreeError> {
        let Some((name, parents)) = path.split_last() else { return Ok(Some(Self::ROOT)) };
        let parent = self.find_directory(parents)?;
        Ok(parent.and_then(|parent| self.lookup(parent, name)).map(|there| there.inode))
    }

    pub(super) fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<Name> {
        match &self.inode(directory).node {
            Node::Directory(directory) => directory.names.get(name).copied(),
            _ => None,
        }
    }
}

/// Components still to be walked, last first.
struct Pending<'a> {
    components: Vec<Cow<'a, [u8]>>,
    links_left: u32,
    steps_left: usize,
    link_depth: u32,
    path_len: usize,
}

impl<'a> Pending<'a> {
    fn new(tree: &Tree, components: &[&'a [u8]]) -> Self {
        Self {
            components: components.iter().rev().map(|&component| Cow::Borrowed(component)).collect(),
            links_left: tree.limits.link_depth,
            steps_left: tree.limits.path_len.saturating_sub(components.len()),
            link_depth: tree.limits.link_depth,
            path_len: tree.limits.path_len,
        }
    }

    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        self.components.pop()
    }

    /// Goes on with a link's target. How many components that may add up to is bounded, since links can fan out.
    fn follow(&mut self, target: &[u8]) -> Result<(), EntryProblem> {
        self.links_left = self.links_left.checked_sub(1).ok_or(EntryProblem::LinkLoop(self.link_depth))?;
        for component in split(target).rev() {
            self.steps_left = self.steps_left.checked_sub(1).ok_or(EntryProblem::PathTooLong(self.path_len))?;
            self.components.push(Cow::Owned(component.to_vec()));
        }
        Ok(())
    }
}
