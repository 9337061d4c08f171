//! What an image can have wrong with it.

use crate::limits::{BLOCK_SIZE, MAX_XATTRS};
use crate::source::SourceError;

/// Why an image is not served at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The superblock or a table is not inside the image.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The magic number of a superblock is missing.
    #[error("this is no EROFS image: its superblock has no magic number")]
    NotErofs,
    /// The superblock has another checksum than it says.
    #[error("the checksum of the superblock is wrong: the image is damaged")]
    Checksum,
    /// The image needs something that the reader does not have.
    #[error("{0} is not supported; {hint}", hint = .0.hint())]
    Refused(Refused),
    /// The superblock does not fit in the first block.
    #[error("the superblock has {0} extension slots, which do not fit in a block")]
    SuperblockSize(u8),
    /// The nanoseconds of compact inodes are a second or more.
    #[error("the superblock has {0} nanoseconds for its inodes, which is no part of a second")]
    Nanoseconds(u32),
    /// The image has fewer bytes than its superblock says.
    #[error("the image has {present} bytes, but {needed} by its superblock: it was cut off")]
    Truncated {
        /// Bytes by the superblock.
        needed: u64,
        /// Bytes of the source.
        present: u64,
    },
    /// The number of data files is not that of the device table.
    #[error("the image needs {needed} data files, but {given} are given")]
    DataFiles {
        /// Devices in the table.
        needed: usize,
        /// Data files.
        given: usize,
    },
    /// A data file is shorter than its device.
    #[error("data file {index} has {present} bytes, but {needed} by the image")]
    DataFileTruncated {
        /// Position in the device table, from 0.
        index: usize,
        /// Bytes by the device table.
        needed: u64,
        /// Bytes of the data file.
        present: u64,
    },
    /// The unified addresses of a device overlap those of another device or of the image.
    #[error("the addresses of device {index} overlap others")]
    DeviceOverlap {
        /// Position in the device table, from 0.
        index: usize,
    },
    /// A prefix of extended attribute names has a wrong length.
    #[error("prefix {index} of extended attribute names has {length} bytes")]
    XattrPrefix {
        /// Position in the table, from 0.
        index: u8,
        /// Its bytes.
        length: usize,
    },
    /// The root inode cannot be read.
    #[error("the root directory cannot be read")]
    Root(#[source] ReadError),
    /// The root inode is no directory.
    #[error("the root of the image is no directory")]
    RootKind,
}

/// Feature of an image that the reader does not support.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Block size other than 4 KiB, as two to this power.
    #[error("a block size of 2^{0} bytes")]
    BlockSize(u8),
    /// Directory blocks that are larger than blocks.
    #[error("a directory block size of its own")]
    DirectoryBlockSize,
    /// COMPR_CFGS or BIG_PCLUSTER.
    #[error("compression (COMPR_CFGS)")]
    CompressionConfigs,
    /// LZ4_0PADDING with a window.
    #[error("LZ4 compression (LZ4_0PADDING)")]
    Lz4,
    /// ZTAILPACKING.
    #[error("compression of file ends (ZTAILPACKING)")]
    TailPacking,
    /// FRAGMENTS or DEDUPE.
    #[error("packing of file ends into one inode (FRAGMENTS, DEDUPE)")]
    Fragments,
    /// METABOX, or extended attributes in one.
    #[error("compressed metadata (METABOX)")]
    Metabox,
    /// XATTR_PREFIXES in the packed inode.
    #[error("prefixes of extended attribute names in a packed inode (XATTR_PREFIXES)")]
    PackedXattrPrefixes,
    /// Unknown bits of `feature_incompat`.
    #[error("an unknown feature ({0:#x} in feature_incompat)")]
    Unknown(u32),
}

impl Refused {
    /// Says how to make an image without the feature.
    fn hint(self) -> &'static str {
        match self {
            Self::BlockSize(_) => "make the image again with mkfs.erofs -b4096 or pinhole prepare",
            Self::CompressionConfigs | Self::Lz4 | Self::TailPacking => {
                "make the image again without -z or with pinhole prepare"
            }
            Self::DirectoryBlockSize
            | Self::Fragments
            | Self::Metabox
            | Self::PackedXattrPrefixes
            | Self::Unknown(_) => "make the image again with pinhole prepare",
        }
    }
}

/// Why something in an open image cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not inside the image, or the image cannot be read any more.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A structure of the image is malformed.
    #[error("the inode with nid {nid} is malformed: {what}")]
    Corrupt {
        /// Inode that was read.
        nid: u64,
        /// Malformed part.
        what: Corruption,
    },
    /// The file is compressed, although the superblock announces no compression.
    #[error("the inode with nid {nid} is compressed")]
    Compressed {
        /// Inode that was read.
        nid: u64,
    },
    /// The position in a directory is none that the reader has given out.
    #[error("the position in the directory is unknown")]
    Cookie,
    /// The offset is at or behind the end of the file.
    #[error("the offset is behind the end of the file")]
    Offset,
    /// The inode is of another kind than the operation needs.
    #[error("the inode is of another kind")]
    Kind,
}

/// Malformed part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// Inode position beyond 64 bits.
    #[error("its position is outside of every image")]
    Position,
    /// Unknown bits in `i_format`.
    #[error("unknown format {0:#x}")]
    Format(u16),
    /// File type in `i_mode`.
    #[error("unknown file type in mode {0:#o}")]
    Mode(u16),
    /// Size of 2^63 bytes or more.
    #[error("size of 2^63 bytes or more")]
    Size,
    /// Nanoseconds of the modification time.
    #[error("{0} nanoseconds in a second")]
    Nanoseconds(u32),
    /// Unknown bits in the chunk format.
    #[error("unknown chunk format {0:#x}")]
    ChunkFormat(u16),
    /// Data behind the end of the image or data file.
    #[error("data behind the end of its file")]
    DataRange,
    /// Device number that is not in the table.
    #[error("data in device {0}, which does not exist")]
    DeviceNumber(u16),
    /// Inline end of a file that crosses a block.
    #[error("inline data that does not fit in a block of {BLOCK_SIZE} bytes")]
    InlineTail,
    /// Directory or symbolic link with its bytes in a data file or in a hole.
    #[error("content outside of the image")]
    ContentPlace,
    /// Symbolic link that is empty or too long.
    #[error("symbolic link of {0} bytes")]
    SymlinkLength(u64),
    /// NUL byte in a symbolic link.
    #[error("NUL byte in a symbolic link")]
    SymlinkNul,
    /// Offsets in a directory block.
    #[error("directory entry with a wrong offset")]
    EntryOffset,
    /// Name of a directory entry.
    #[error("directory entry with a wrong name")]
    EntryName,
    /// File type of a directory entry.
    #[error("directory entry with unknown file type {0}")]
    EntryType(u8),
    /// Extended attributes outside of their area.
    #[error("extended attribute outside of its area")]
    XattrRange,
    /// Name of an extended attribute.
    #[error("extended attribute with a wrong name")]
    XattrName,
    /// Too many extended attributes.
    #[error("more than {MAX_XATTRS} extended attributes")]
    XattrCount,
}
