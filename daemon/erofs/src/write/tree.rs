//! What an image is written from.

use std::collections::BTreeMap;

use crate::inode::{Kind, Time};

/// Tree of inodes with its data files.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Inodes. The first is the root directory. An inode that no directory names is left out.
    pub inodes: Vec<NewInode>,
    /// Data files.
    pub devices: Vec<NewDevice>,
}

/// Position in [`Tree::inodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeIndex(pub u32);

impl InodeIndex {
    /// Returns the position as an index of a slice.
    pub(super) fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Inode of a tree.
#[derive(Debug, Clone)]
pub struct NewInode {
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes: full name and value. Their order does not matter.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Kind and content.
    pub content: Content,
}

/// Kind and content of an inode.
#[derive(Debug, Clone)]
pub enum Content {
    /// Names and their inodes, without `.` and `..`. One inode may have several names, unless it is
    /// a directory. Its link count is counted here.
    Directory(BTreeMap<Vec<u8>, InodeIndex>),
    /// Target of a symbolic link.
    Symlink(Vec<u8>),
    /// Regular file.
    File(NewFile),
    /// Character device, with its number as `new_encode_dev` of Linux.
    CharacterDevice(u32),
    /// Block device, with its number as `new_encode_dev` of Linux.
    BlockDevice(u32),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl Content {
    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Directory(_) => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::File(_) => Kind::Regular,
            Self::CharacterDevice(_) => Kind::CharacterDevice,
            Self::BlockDevice(_) => Kind::BlockDevice,
            Self::Fifo => Kind::Fifo,
            Self::Socket => Kind::Socket,
        }
    }
}

/// Content of a regular file.
#[derive(Debug, Clone, Default)]
pub struct NewFile {
    /// Size in bytes.
    pub size: u64,
    /// Data, sorted by `offset`. What no extent covers is a hole.
    pub extents: Vec<DataExtent>,
}

/// Bytes of a file in a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataExtent {
    /// Byte in the file, a multiple of 4 KiB.
    pub offset: u64,
    /// Position in [`Tree::devices`].
    pub device: u16,
    /// Byte in the data file, a multiple of 4 KiB.
    pub start: u64,
    /// Bytes: a multiple of 4 KiB, or up to the end of the file. The rest of the last block in the
    /// data file must be zero, because a guest can see it.
    pub length: u64,
}

/// Data file.
#[derive(Debug, Clone, Copy)]
pub struct NewDevice {
    /// Name, filled with zeros. Pinhole looks the data file up by it.
    pub tag: [u8; 64],
    /// Length in blocks of 4 KiB.
    pub blocks: u64,
}
