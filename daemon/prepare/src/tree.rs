//! The tree of the image while layers are applied: names, whiteouts, hard links.
//!
//! A later layer adds and replaces names. A whiteout removes what lower layers left, at any place
//! among the entries of its layer: each name knows the layer that gave it, and names of the current
//! layer stay. This file knows no archive format, and file data only as positions in a data file.

use crate::attributes::Attributes;
use crate::limits;
use crate::tree_error::{TreeError, shown, within};
use std::collections::BTreeMap;

/// An inode of a [`LayerTree`]. It lives as long as the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeIndex(pub(crate) u32);

/// A layer, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LayerIndex(pub(crate) u16);

/// An inode that is not a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    File(FileData),
    Symlink(Vec<u8>),
    /// A device number as the kernel encodes it (`new_encode_dev`).
    CharacterDevice(u32),
    BlockDevice(u32),
    Fifo,
    Socket,
}

/// Where the data of a file is. No region covers a hole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileData {
    pub(crate) size: u64,
    pub(crate) regions: Vec<Placed>,
}

/// A region of a file's data, aligned to 4 KiB in the file and in the data file of its layer. The
/// last one may end with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) offset: u64,
    pub(crate) layer: LayerIndex,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// A directory.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) children: BTreeMap<Vec<u8>, Child>,
    /// Directories above it.
    depth: usize,
    /// The last layer that added or replaced a name somewhere below.
    changed: LayerIndex,
    /// The last layer that can have left nothing of lower layers below: it made the directory, or
    /// removed the rest.
    pruned: Option<LayerIndex>,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    pub(crate) node: NodeIndex,
    /// The layer that gave the name, or that described its directory last.
    layer: LayerIndex,
}

#[derive(Debug)]
pub(crate) enum Body {
    Directory(Directory),
    Leaf(Leaf),
}

/// An inode.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) body: Body,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct LayerTree {
    nodes: Vec<Node>,
    layer: LayerIndex,
    /// Names that were given, and bytes of text, also of inodes that are hidden now.
    names: usize,
    text_len: usize,
    regions: usize,
}

/// The root, the first inode.
pub(crate) const ROOT: NodeIndex = NodeIndex(0);

impl LayerTree {
    /// Returns a tree with an empty root, at its first layer.
    pub(crate) fn new() -> Self {
        let layer = LayerIndex(0);
        let root = Directory { children: BTreeMap::new(), depth: 0, changed: layer, pruned: Some(layer) };
        let root = Node { attributes: Attributes::implicit(), body: Body::Directory(root) };
        Self { nodes: vec![root], layer, names: 0, text_len: 0, regions: 0 }
    }

    /// Returns the current layer.
    pub(crate) const fn layer(&self) -> LayerIndex {
        self.layer
    }

    /// Begins the next layer.
    pub(crate) const fn next_layer(&mut self) {
        self.layer = LayerIndex(self.layer.0.saturating_add(1));
    }

    /// Returns an inode.
    pub(crate) fn node(&self, index: NodeIndex) -> Option<&Node> {
        self.nodes.get(usize::try_from(index.0).ok()?)
    }

    /// Returns the inodes, in the order of their indexes.
    pub(crate) fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// Sets the attributes of the root.
    pub(crate) fn set_root(&mut self, attributes: Attributes) -> Result<(), TreeError> {
        self.account(0, &attributes)?;
        if let Some(root) = self.node_mut(ROOT) {
            root.attributes = attributes;
        }
        Ok(())
    }

    /// Adds a directory to a directory that has no such name.
    pub(crate) fn add_directory(
        &mut self,
        parent: NodeIndex,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<NodeIndex, TreeError> {
        let depth = self.directory(parent).map_or(0, |parent| parent.depth) + 1;
        within("the path", "levels of directories", depth, limits::DEPTH_MAX)?;
        let pruned = Some(self.layer);
        let directory = Directory { children: BTreeMap::new(), depth, changed: self.layer, pruned };
        let node = self.add(attributes, Body::Directory(directory))?;
        self.name(parent, name, node)?;
        Ok(node)
    }

    /// Adds another kind of inode, in place of what has the name.
    pub(crate) fn add_leaf(
        &mut self,
        parent: NodeIndex,
        name: &[u8],
        attributes: Attributes,
        leaf: Leaf,
    ) -> Result<NodeIndex, TreeError> {
        let text = if let Leaf::Symlink(target) = &leaf { target.len() } else { 0 };
        within("the symlink", "bytes", text, limits::PATH_LEN_MAX)?;
        let regions = if let Leaf::File(data) = &leaf { data.regions.len() } else { 0 };
        self.regions += regions;
        within("the tree", "regions of sparse files", self.regions, limits::REGIONS_TOTAL_MAX)?;
        self.account(text, &Attributes::default())?;
        let node = self.add(attributes, Body::Leaf(leaf))?;
        self.name(parent, name, node)?;
        Ok(node)
    }

    /// Gives an inode another name: a hard link, in place of what has the name.
    pub(crate) fn name(&mut self, parent: NodeIndex, name: &[u8], node: NodeIndex) -> Result<(), TreeError> {
        check_name(name)?;
        self.names += 1;
        within("the tree", "names", self.names, limits::NAMES_MAX)?;
        self.account(name.len(), &Attributes::default())?;
        let child = Child { node, layer: self.layer };
        if let Some(directory) = self.directory_mut(parent) {
            directory.children.insert(name.to_vec(), child);
        }
        Ok(())
    }

    /// Describes a directory at a path: a new one, or one that is there. Replaces another kind.
    pub(crate) fn put_directory(&mut self, path: &[&[u8]], attributes: Attributes) -> Result<(), TreeError> {
        let Some((name, above)) = path.split_last() else { return self.set_root(attributes) };
        let parent = self.enter(above)?;
        let layer = self.layer;
        let known = self.child(parent, name).filter(|child| self.directory(child.node).is_some());
        let Some(known) = known else {
            self.add_directory(parent, name, attributes)?;
            return Ok(());
        };
        self.account(0, &attributes)?;
        if let Some(node) = self.node_mut(known.node) {
            node.attributes = attributes;
        }
        if let Some(child) = self.directory_mut(parent).and_then(|parent| parent.children.get_mut(*name)) {
            child.layer = layer;
        }
        Ok(())
    }

    /// Puts another kind of inode at a path.
    pub(crate) fn put_leaf(
        &mut self,
        path: &[&[u8]],
        attributes: Attributes,
        leaf: Leaf,
    ) -> Result<(), TreeError> {
        let (name, above) = path.split_last().ok_or(TreeError::Root)?;
        let parent = self.enter(above)?;
        self.add_leaf(parent, name, attributes, leaf).map(drop)
    }

    /// Puts a hard link to the inode at `target` at a path.
    pub(crate) fn put_link(&mut self, path: &[&[u8]], target: &[&[u8]]) -> Result<(), TreeError> {
        let wrong = |why| TreeError::Link { target: join(target), why };
        let found = match target.split_last() {
            None => Some(ROOT),
            Some((name, above)) => {
                let parent = self.find(above)?;
                parent.and_then(|parent| self.child(parent, name)).map(|child| child.node)
            }
        };
        let node = found.ok_or_else(|| wrong("is not there"))?;
        if self.directory(node).is_some() {
            return Err(wrong("is a directory"));
        }
        let (name, above) = path.split_last().ok_or(TreeError::Root)?;
        let parent = self.enter(above)?;
        self.name(parent, name, node)
    }

    /// Removes what lower layers have at a path.
    pub(crate) fn remove_lower(&mut self, path: &[&[u8]]) -> Result<(), TreeError> {
        let Some((name, above)) = path.split_last() else { return Err(TreeError::Root) };
        let Some(parent) = self.find(above)? else { return Ok(()) };
        let layer = self.layer;
        let Some(child) = self.child(parent, name) else { return Ok(()) };
        if self.settle(child) {
            self.set_child(parent, name, Child { layer, ..child });
            self.prune(child.node);
        } else if let Some(directory) = self.directory_mut(parent) {
            directory.children.remove(*name);
        }
        Ok(())
    }

    /// Removes what lower layers have in the directory at a path.
    pub(crate) fn remove_lower_below(&mut self, path: &[&[u8]]) -> Result<(), TreeError> {
        if let Some(directory) = self.find(path)? {
            self.prune(directory);
        }
        Ok(())
    }

    /// Removes what lower layers have below a directory. Each directory is walked once per layer.
    fn prune(&mut self, directory: NodeIndex) {
        let layer = self.layer;
        let mut waiting = vec![directory];
        while let Some(index) = waiting.pop() {
            let Some(directory) = self.directory_mut(index) else { continue };
            if directory.pruned == Some(layer) {
                continue;
            }
            directory.pruned = Some(layer);
            let children = std::mem::take(&mut directory.children);
            let mut kept = BTreeMap::new();
            for (name, child) in children {
                if self.settle(child) {
                    waiting.push(child.node);
                    kept.insert(name, Child { layer, ..child });
                }
            }
            if let Some(directory) = self.directory_mut(index) {
                directory.children = kept;
            }
        }
    }

    /// Returns whether the current layer keeps a name from removal. A directory that it did not
    /// describe, and below which it added something, gets the attributes that it would have without
    /// lower layers.
    fn settle(&mut self, child: Child) -> bool {
        let layer = self.layer;
        if child.layer == layer {
            return true;
        }
        let is_changed = self.directory(child.node).is_some_and(|directory| directory.changed == layer);
        if let Some(node) = self.node_mut(child.node).filter(|_| is_changed) {
            node.attributes = Attributes::implicit();
        }
        is_changed
    }

    /// Returns the directory at a path, and notes that something below it changes. Creates the
    /// directories that are missing.
    fn enter(&mut self, path: &[&[u8]]) -> Result<NodeIndex, TreeError> {
        let stack = self.walk(path, true)?.unwrap_or_default();
        let layer = self.layer;
        for index in &stack {
            if let Some(directory) = self.directory_mut(*index) {
                directory.changed = layer;
            }
        }
        Ok(stack.last().copied().unwrap_or(ROOT))
    }

    /// Returns the directory at a path.
    fn find(&mut self, path: &[&[u8]]) -> Result<Option<NodeIndex>, TreeError> {
        Ok(self.walk(path, false)?.and_then(|stack| stack.last().copied()))
    }

    /// Returns the directories on the way to a path, from the root on. Follows symlinks as a
    /// program would that has the tree as its root, so `..` never leaves it.
    fn walk(&mut self, path: &[&[u8]], creates: bool) -> Result<Option<Vec<NodeIndex>>, TreeError> {
        let mut stack = vec![ROOT];
        let (mut symlinks, mut steps) = (0, 0);
        // The names that are left, the next one last.
        let mut left: Vec<Vec<u8>> = path.iter().rev().map(|name| name.to_vec()).collect();
        while let Some(name) = left.pop() {
            let Some(&current) = stack.last() else { break };
            steps += 1;
            if steps > limits::PATH_STEPS_MAX {
                return Err(TreeError::Loop);
            }
            if name == b".." {
                stack.truncate(stack.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(child) = self.child(current, &name) else {
                if !creates {
                    return Ok(None);
                }
                stack.push(self.add_directory(current, &name, Attributes::implicit())?);
                continue;
            };
            match self.node(child.node).map(|node| &node.body) {
                Some(Body::Directory(_)) => stack.push(child.node),
                Some(Body::Leaf(Leaf::Symlink(target))) => {
                    symlinks += 1;
                    if symlinks > limits::SYMLINKS_MAX {
                        return Err(TreeError::Loop);
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    let names = target.split(|byte| *byte == b'/');
                    let names = names.filter(|name| !name.is_empty() && *name != b".");
                    left.extend(names.rev().map(<[u8]>::to_vec));
                }
                Some(Body::Leaf(_)) | None => {
                    return Err(TreeError::NotADirectory { name: shown(&name) });
                }
            }
        }
        Ok(Some(stack))
    }

    fn add(&mut self, attributes: Attributes, body: Body) -> Result<NodeIndex, TreeError> {
        within("the tree", "inodes", self.nodes.len(), limits::INODES_MAX - 1)?;
        self.account(0, &attributes)?;
        let index = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node { attributes, body });
        Ok(NodeIndex(index))
    }

    /// Counts text that stays in memory.
    fn account(&mut self, text_len: usize, attributes: &Attributes) -> Result<(), TreeError> {
        self.text_len += text_len + attributes.xattrs_len();
        let unit = "bytes of names, symlinks and extended attributes";
        within("the tree", unit, self.text_len, limits::TEXT_LEN_MAX)
    }

    pub(crate) fn directory(&self, index: NodeIndex) -> Option<&Directory> {
        match &self.node(index)?.body {
            Body::Directory(directory) => Some(directory),
            Body::Leaf(_) => None,
        }
    }

    fn child(&self, parent: NodeIndex, name: &[u8]) -> Option<Child> {
        self.directory(parent)?.children.get(name).copied()
    }

    fn set_child(&mut self, parent: NodeIndex, name: &[u8], child: Child) {
        if let Some(known) = self.directory_mut(parent).and_then(|parent| parent.children.get_mut(name)) {
            *known = child;
        }
    }

    fn node_mut(&mut self, index: NodeIndex) -> Option<&mut Node> {
        self.nodes.get_mut(usize::try_from(index.0).ok()?)
    }

    fn directory_mut(&mut self, index: NodeIndex) -> Option<&mut Directory> {
        match &mut self.node_mut(index)?.body {
            Body::Directory(directory) => Some(directory),
            Body::Leaf(_) => None,
        }
    }
}

/// Checks one name of a path.
///
/// # Errors
/// [`TreeError::Name`].
pub(crate) fn check_name(name: &[u8]) -> Result<(), TreeError> {
    let why = match name {
        b"" => "is empty",
        b".." => "leaves its directory",
        b"." => "is its directory itself",
        _ if name.contains(&0) => "contains a NUL",
        _ if name.contains(&b'/') => "contains a slash",
        _ if name.len() > limits::NAME_LEN_MAX => "is too long",
        _ => return Ok(()),
    };
    Err(TreeError::Name { name: shown(name), why })
}

/// Returns the names of a path in an archive, without empty ones and `.`.
///
/// # Errors
/// [`TreeError::Name`] and [`TreeError::Limit`].
pub(crate) fn split_path(path: &[u8]) -> Result<Vec<&[u8]>, TreeError> {
    within("the path", "bytes", path.len(), limits::PATH_LEN_MAX)?;
    if path.starts_with(b"/") {
        return Err(TreeError::Name { name: shown(path), why: "is absolute" });
    }
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let names: Vec<_> = names.collect();
    names.iter().try_for_each(|name| check_name(name))?;
    within("the path", "levels of directories", names.len(), limits::DEPTH_MAX)?;
    Ok(names)
}

fn join(path: &[&[u8]]) -> String {
    shown(&path.join(&b'/'))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
