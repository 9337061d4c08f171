//! Limits of the reader and the writer, each with its reason.

/// Bytes of a block. Other sizes are refused: the unit of a DAX mapping and of a page is 4 KiB.
pub const BLOCK_SIZE: u64 = 4096;

/// [`BLOCK_SIZE`] as the length of a buffer.
pub(crate) const BLOCK_LEN: usize = 4096;

/// Bytes of a name in a directory: `EROFS_NAME_LEN`, and `NAME_MAX` of Linux.
pub(crate) const MAX_NAME: usize = 255;

/// Bytes of a symbolic link: `PATH_MAX` of Linux without the NUL.
pub(crate) const MAX_SYMLINK: u64 = 4095;

/// Bytes of the full name of an extended attribute: `XATTR_NAME_MAX` of Linux.
pub(crate) const MAX_XATTR_NAME: usize = 255;

/// Extended attributes of one inode. Linux has no limit here; 64 KiB of names is its limit for a
/// list, which holds fewer names of usual length.
pub(crate) const MAX_XATTRS: usize = 1024;

/// Chunks that one [`crate::Extent`] joins: a DAX window slot of 2 MiB in chunks of 4 KiB.
pub(crate) const MAX_JOINED_CHUNKS: u64 = 512;

/// Chunks that one search for data or a hole reads. The rest of the file then counts as data.
pub(crate) const MAX_SEEK_CHUNKS: u64 = 65_536;

/// Chunk entries that are copied at once.
pub(crate) const CHUNK_BATCH: usize = 64;

/// Data files of a written image. Each is an open descriptor of the daemon. The root's number has
/// 16 bits, so the device table before it must be small.
pub(crate) const MAX_DEVICES: usize = 4096;

/// Chunks of one written file: 128 MiB of metadata, or 64 GiB in chunks of 4 KiB.
pub(crate) const MAX_WRITTEN_CHUNKS: u64 = 1 << 24;
