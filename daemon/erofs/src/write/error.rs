//! Why an image is not written.

use crate::limits::{MAX_DEVICES, MAX_SYMLINK, MAX_WRITTEN_CHUNKS, MAX_XATTRS};

/// Why an image is not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The bytes could not be written.
    #[error("cannot write the image")]
    Io(#[source] std::io::Error),
    /// The tree has no inodes, or its first inode is no directory.
    #[error("the tree has no root directory")]
    NoRoot,
    /// A directory names an inode that the tree does not have.
    #[error("a directory names inode {index}, which does not exist")]
    NoInode {
        /// Position of the missing inode.
        index: u32,
    },
    /// An inode cannot be stored.
    #[error("inode {index} cannot be stored: {fault}")]
    Inode {
        /// Position in [`super::Tree::inodes`].
        index: usize,
        /// The reason.
        fault: InodeFault,
    },
    /// Too many data files.
    #[error("{0} data files, limit {MAX_DEVICES}")]
    TooManyDevices(usize),
    /// Image and data files have too many blocks.
    #[error("{0} blocks in the image and its data files, limit 2^32 - 1")]
    TooManyBlocks(u64),
}

/// Why an inode cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InodeFault {
    /// A directory has more than one name, or contains itself.
    #[error("a directory has a second name")]
    DirectoryLink,
    /// A name in the directory is empty, is `.` or `..`, or contains `/` or NUL.
    #[error("a name is not valid")]
    Name,
    /// A name in the directory is too long.
    #[error("a name has {0} bytes, limit 255")]
    NameLength(usize),
    /// Permission bits that do not exist.
    #[error("permissions {0:#o}")]
    Permissions(u16),
    /// Nanoseconds of a second or more.
    #[error("{0} nanoseconds in a second")]
    Nanoseconds(u32),
    /// Empty or too long target of a symbolic link.
    #[error("a symbolic link of {0} bytes, limits 1 and {MAX_SYMLINK}")]
    SymlinkLength(usize),
    /// NUL in the target of a symbolic link.
    #[error("a symbolic link with a NUL byte")]
    SymlinkNul,
    /// Size of 2^63 bytes or more.
    #[error("a size of {0} bytes, limit 2^63 - 1")]
    Size(u64),
    /// Extents that overlap, are unsorted or empty, or are behind the end of the file.
    #[error("extents that overlap or leave the file")]
    ExtentOrder,
    /// Extent that does not begin or end on a block.
    #[error("an extent that is not aligned to 4 KiB")]
    ExtentAlignment,
    /// Extent outside of its data file.
    #[error("an extent outside of its data file")]
    ExtentRange,
    /// Too many chunks: small holes in a large file.
    #[error("{0} chunks, limit {MAX_WRITTEN_CHUNKS}: its holes are too small")]
    TooManyChunks(u64),
    /// Extended attribute with a prefix that EROFS has not.
    #[error("an extended attribute with an unknown prefix")]
    XattrPrefix,
    /// Name of an extended attribute of more than 255 bytes, or with a NUL byte.
    #[error("an extended attribute whose name is not valid")]
    XattrName,
    /// Value of an extended attribute.
    #[error("an extended attribute of {0} bytes, limit 65,535")]
    XattrValue(usize),
    /// Two extended attributes with one name.
    #[error("an extended attribute that occurs twice")]
    XattrTwice,
    /// Too many extended attributes.
    #[error("{0} extended attributes, limit {MAX_XATTRS}")]
    XattrCount(usize),
    /// Extended attributes that are too large together.
    #[error("extended attributes of {0} bytes, limit 262,148")]
    XattrBytes(usize),
}
