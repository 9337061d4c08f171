//! The order of the inodes: the entries of a directory side by side, then those of its first
//! directory.

use std::collections::BTreeMap;

use super::error::{InodeFault, WriteError};
use super::tree::{Content, InodeIndex, Tree};
use crate::limits::MAX_NAME;

/// Order and links of the inodes.
#[derive(Debug)]
pub(super) struct Order {
    /// Positions in the tree of the inodes that are written.
    pub(super) inodes: Vec<usize>,
    /// Per position in the tree: number of links.
    pub(super) nlinks: Vec<u32>,
    /// Per position in the tree: the directory that contains a directory. The root contains itself.
    pub(super) parents: Vec<usize>,
}

impl Order {
    /// Visits every inode that has a name.
    pub(super) fn of(tree: &Tree) -> Result<Self, WriteError> {
        let count = tree.inodes.len();
        let mut order = Self { inodes: vec![0], nlinks: vec![0; count], parents: vec![usize::MAX; count] };
        let mut directories = vec![0];
        let root = tree.inodes.first().filter(|root| matches!(root.content, Content::Directory(_)));
        if root.is_none() {
            return Err(WriteError::NoRoot);
        }
        order.link(0, 2);
        order.set_parent(0, 0);
        while let Some(directory) = directories.pop() {
            let Some(Content::Directory(names)) = tree.inodes.get(directory).map(|inode| &inode.content)
            else {
                continue;
            };
            let first = directories.len();
            order.visit(tree, directory, names, &mut directories)?;
            // The first directory is popped first.
            directories.get_mut(first..).unwrap_or_default().reverse();
        }
        Ok(order)
    }

    /// Visits the entries of a directory, and adds the directories among them to `directories`.
    fn visit(
        &mut self,
        tree: &Tree,
        directory: usize,
        names: &BTreeMap<Vec<u8>, InodeIndex>,
        directories: &mut Vec<usize>,
    ) -> Result<(), WriteError> {
        for (name, index) in names {
            check_name(name).map_err(|fault| WriteError::Inode { index: directory, fault })?;
            let child = index.get();
            let inode = tree.inodes.get(child).ok_or(WriteError::NoInode { index: index.0 })?;
            let links = self.nlinks.get(child).copied().unwrap_or_default();
            if matches!(inode.content, Content::Directory(_)) {
                if links > 0 {
                    return Err(WriteError::Inode { index: child, fault: InodeFault::DirectoryLink });
                }
                self.link(child, 2);
                self.link(directory, 1);
                self.set_parent(child, directory);
                directories.push(child);
            } else {
                self.link(child, 1);
            }
            if links == 0 {
                self.inodes.push(child);
            }
        }
        Ok(())
    }

    fn link(&mut self, inode: usize, count: u32) {
        if let Some(nlink) = self.nlinks.get_mut(inode) {
            *nlink = nlink.saturating_add(count);
        }
    }

    fn set_parent(&mut self, inode: usize, parent: usize) {
        if let Some(known) = self.parents.get_mut(inode) {
            *known = parent;
        }
    }
}

/// Checks a name in a directory.
fn check_name(name: &[u8]) -> Result<(), InodeFault> {
    if name.len() > MAX_NAME {
        return Err(InodeFault::NameLength(name.len()));
    }
    let valid = !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if valid { Ok(()) } else { Err(InodeFault::Name) }
}
