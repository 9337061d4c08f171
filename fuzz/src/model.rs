//! A simple file system in memory: the model of a share, as its guest must see it.
//!
//! The model is small on purpose: 512 inodes of any type, files of at most 64 KiB, no permissions,
//! no timestamps, no extended attributes. Its results are those that POSIX requires. Speed does not
//! matter.

use pinhole_protocol::{Attr, Entry, Errno, Handle, NodeId};
use std::collections::{BTreeMap, HashMap};

/// Maximum length of a file in bytes. An operation that would exceed it fails with EFBIG.
pub const FILE_LEN_MAX: u64 = 1 << 16;
/// Maximum number of inodes, the root included. Beyond it: ENOSPC.
const INODES_MAX: usize = 512;
/// Maximum number of open handles. Beyond it: ENFILE.
const HANDLES_MAX: usize = 512;

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;
pub(crate) const S_IFCHR: u32 = 0o020_000;
pub(crate) const S_IFDIR: u32 = 0o040_000;
pub(crate) const S_IFBLK: u32 = 0o060_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFLNK: u32 = 0o120_000;
pub(crate) const S_IFSOCK: u32 = 0o140_000;
/// Inode number and node id of the root.
const ROOT: u64 = 1;

/// The content of a file of any type.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// The bytes of a regular file.
    File(Vec<u8>),
    /// Inode number of each name, and inode number of the parent directory.
    Directory(BTreeMap<Vec<u8>, u64>, u64),
    /// The target of a symbolic link.
    Link(Vec<u8>),
    /// No content: a FIFO, socket or device node.
    Special,
}

/// A file of any type.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) content: Content,
    /// File type and permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) nlink: u32,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) inode: u64,
    pub(crate) directory: bool,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// The whole file system, with the nodes and handles of the guest.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Inodes by inode number.
    pub(crate) inodes: HashMap<u64, Inode>,
    /// Inode number and lookup count, by node id.
    nodes: HashMap<u64, (u64, u64)>,
    /// Node id, by inode number.
    by_inode: HashMap<u64, u64>,
    /// Open files and directories, by handle.
    pub(crate) handles: HashMap<u64, Opened>,
    /// The last number that was used as an inode number, node id or handle.
    last_number: u64,
}

impl Tree {
    /// Returns an empty file system.
    pub(crate) fn new() -> Self {
        let root = Inode {
            content: Content::Directory(BTreeMap::new(), ROOT),
            mode: S_IFDIR | 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            nlink: 2,
        };
        Self {
            inodes: HashMap::from([(ROOT, root)]),
            nodes: HashMap::from([(ROOT, (ROOT, 1))]),
            by_inode: HashMap::from([(ROOT, ROOT)]),
            handles: HashMap::new(),
            last_number: ROOT,
        }
    }

    /// Drops all nodes and handles of the guest, except for the root.
    pub(crate) fn reset(&mut self) {
        self.handles.clear();
        self.nodes.retain(|node, _| *node == ROOT);
        self.by_inode.retain(|inode, _| *inode == ROOT);
        self.free_unused();
    }

    /// Returns an inode number, node id or handle that was never used before.
    fn new_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Returns the inode number of a node.
    pub(crate) fn inode_of(&self, node: NodeId) -> Result<u64, Errno> {
        self.nodes.get(&node.0).map(|(inode, _)| *inode).ok_or(Errno::ESTALE)
    }

    /// Returns whether a node's inode has no name and no open handle.
    pub(crate) fn is_orphan(&self, node: NodeId) -> bool {
        let Ok(inode) = self.inode_of(node) else { return false };
        self.get(inode).is_ok_and(|inode| inode.nlink == 0)
            && self.handles.values().all(|open| open.inode != inode)
    }

    /// Returns an inode by its number.
    pub(crate) fn get(&self, inode: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&inode).ok_or(Errno::ESTALE)
    }

    /// Returns an inode by its number, to change it.
    pub(crate) fn get_mut(&mut self, inode: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&inode).ok_or(Errno::ESTALE)
    }

    /// Returns the names in a directory.
    pub(crate) fn names(&self, inode: u64) -> Result<&BTreeMap<Vec<u8>, u64>, Errno> {
        match &self.get(inode)?.content {
            Content::Directory(names, _) => Ok(names),
            Content::File(_) | Content::Link(_) | Content::Special => Err(Errno::ENOTDIR),
        }
    }

    /// Returns the names in a directory, to change them.
    pub(crate) fn names_mut(&mut self, inode: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>, Errno> {
        match &mut self.get_mut(inode)?.content {
            Content::Directory(names, _) => Ok(names),
            Content::File(_) | Content::Link(_) | Content::Special => Err(Errno::ENOTDIR),
        }
    }

    /// Returns the inode number of a name in a directory.
    pub(crate) fn find(&self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        self.names(directory)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(crate) fn is_directory(&self, inode: u64) -> bool {
        self.names(inode).is_ok()
    }

    /// Returns whether the directory `inode` is `above`, or lies below `above`.
    pub(crate) fn is_or_is_below(&self, inode: u64, above: u64) -> bool {
        let mut at = inode;
        loop {
            if at == above {
                return true;
            }
            match self.inodes.get(&at).map(|inode| &inode.content) {
                Some(Content::Directory(_, parent)) if at != ROOT => at = *parent,
                _ => return false,
            }
        }
    }

    /// Creates an inode without a name.
    pub(crate) fn create_inode(
        &mut self,
        content: Content,
        (mode, rdev): (u32, u32),
        caller: (u32, u32),
    ) -> Result<u64, Errno> {
        if self.inodes.len() >= INODES_MAX {
            return Err(Errno::ENOSPC);
        }
        let number = self.new_number();
        let (uid, gid) = caller;
        self.inodes.insert(number, Inode { content, mode, uid, gid, rdev, nlink: 0 });
        Ok(number)
    }

    /// Checks that a name can be added: `directory` is a directory, was not removed, and does not
    /// have the name.
    pub(crate) fn check_addable(&self, directory: u64, name: &[u8]) -> Result<(), Errno> {
        if self.names(directory)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if self.get(directory)?.nlink == 0 { Err(Errno::ENOENT) } else { Ok(()) }
    }

    /// Gives an inode a name, and adjusts the link counts.
    pub(crate) fn attach(&mut self, directory: u64, name: &[u8], inode: u64) -> Result<(), Errno> {
        self.names_mut(directory)?.insert(name.to_vec(), inode);
        if let Content::Directory(_, parent) = &mut self.get_mut(inode)?.content {
            *parent = directory;
            self.get_mut(inode)?.nlink += 2;
            self.get_mut(directory)?.nlink += 1;
        } else {
            self.get_mut(inode)?.nlink += 1;
        }
        Ok(())
    }

    /// Removes a name, adjusts the link counts, and returns the inode number.
    pub(crate) fn detach(&mut self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        let inode = self.names_mut(directory)?.remove(name).ok_or(Errno::ENOENT)?;
        if self.is_directory(inode) {
            self.get_mut(inode)?.nlink -= 2;
            self.get_mut(directory)?.nlink -= 1;
        } else {
            self.get_mut(inode)?.nlink -= 1;
        }
        Ok(inode)
    }

    /// Frees inodes that have no name, no node and no handle.
    pub(crate) fn free_unused(&mut self) {
        let opened: Vec<u64> = self.handles.values().map(|opened| opened.inode).collect();
        let by_inode = &self.by_inode;
        self.inodes.retain(|number, inode| {
            inode.nlink > 0 || by_inode.contains_key(number) || opened.contains(number)
        });
    }

    /// Counts one more lookup of an inode, and returns its entry.
    pub(crate) fn add_lookup(&mut self, inode: u64) -> Result<Entry, Errno> {
        let attr = self.attr(inode)?;
        let node = match self.by_inode.get(&inode) {
            Some(node) => *node,
            None => {
                let node = self.new_number();
                self.by_inode.insert(inode, node);
                self.nodes.insert(node, (inode, 0));
                node
            }
        };
        if let Some((_, count)) = self.nodes.get_mut(&node) {
            *count += 1;
        }
        Ok(Entry { node: NodeId(node), generation: 0, attr })
    }

    /// Drops lookups of a node. The root always stays.
    pub(crate) fn forget(&mut self, node: NodeId, count: u64) {
        if node.0 == ROOT {
            return;
        }
        let Some((inode, lookups)) = self.nodes.get_mut(&node.0) else { return };
        *lookups = lookups.saturating_sub(count);
        if *lookups == 0 {
            let inode = *inode;
            self.nodes.remove(&node.0);
            self.by_inode.remove(&inode);
            self.free_unused();
        }
    }

    /// Returns a new handle.
    pub(crate) fn open(&mut self, opened: Opened) -> Result<Handle, Errno> {
        if self.handles.len() >= HANDLES_MAX {
            return Err(Errno::ENFILE);
        }
        let handle = self.new_number();
        self.handles.insert(handle, opened);
        Ok(Handle(handle))
    }

    /// Returns what a handle has open. `directory` says which type of handle is required.
    pub(crate) fn opened(&self, handle: Handle, directory: bool) -> Result<Opened, Errno> {
        self.handles
            .get(&handle.0)
            .copied()
            .filter(|opened| opened.directory == directory)
            .ok_or(Errno::EBADF)
    }

    /// Closes a handle.
    pub(crate) fn close(&mut self, handle: Handle, directory: bool) -> Result<(), Errno> {
        self.opened(handle, directory)?;
        self.handles.remove(&handle.0);
        self.free_unused();
        Ok(())
    }

    /// Returns the bytes of an open file.
    pub(crate) fn bytes(&self, handle: Handle) -> Result<&Vec<u8>, Errno> {
        match &self.get(self.opened(handle, false)?.inode)?.content {
            Content::File(bytes) => Ok(bytes),
            Content::Directory(..) | Content::Link(_) | Content::Special => Err(Errno::EBADF),
        }
    }

    /// Returns the bytes of a file that is open for writing.
    pub(crate) fn bytes_mut(&mut self, handle: Handle) -> Result<&mut Vec<u8>, Errno> {
        let opened = self.opened(handle, false)?;
        match &mut self.get_mut(opened.inode)?.content {
            Content::File(bytes) if opened.write => Ok(bytes),
            Content::File(_) | Content::Directory(..) | Content::Link(_) | Content::Special => {
                Err(Errno::EBADF)
            }
        }
    }

    /// Returns the attributes of an inode.
    pub(crate) fn attr(&self, number: u64) -> Result<Attr, Errno> {
        let inode = self.get(number)?;
        let len = match &inode.content {
            Content::File(bytes) | Content::Link(bytes) => bytes.len(),
            Content::Directory(..) | Content::Special => 0,
        };
        Ok(Attr {
            ino: number,
            size: len as u64,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            blksize: 4096,
            ..Attr::default()
        })
    }

    /// Returns the number of nodes and of handles that the guest holds, without the root.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.nodes.len() - 1, self.handles.len())
    }

    /// Returns every path with its mode and content.
    pub(crate) fn listing(&self) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
        let mut paths = BTreeMap::new();
        let mut waiting = vec![(ROOT, Vec::new())];
        while let Some((directory, path)) = waiting.pop() {
            for (name, number) in self.names(directory).into_iter().flatten() {
                let path = [path.as_slice(), b"/", name].concat();
                let Some(inode) = self.inodes.get(number) else { continue };
                let content = match &inode.content {
                    Content::File(bytes) | Content::Link(bytes) => bytes.clone(),
                    Content::Special => Vec::new(),
                    Content::Directory(..) => {
                        waiting.push((*number, path.clone()));
                        Vec::new()
                    }
                };
                paths.insert(path, (inode.mode, content));
            }
        }
        paths
    }
}
