//! Every limit on the input of `prepare`, each with its reason. Tar files and OCI layouts come from
//! elsewhere: past a limit there is an error that names the entry, and no unbounded memory.

/// Largest number of inodes, also those that an upper layer hides. Each takes about 300 bytes of
/// memory until the image is written, so the largest tree takes about 1.2 GiB.
pub(crate) const INODES_MAX: usize = 4 << 20;

/// Largest number of bytes of all names, symlink targets and extended attributes. They are in
/// memory until the image is written.
pub(crate) const TEXT_LEN_MAX: usize = 1 << 30;

/// Largest number of names, for hard links take no inode. The reason is that of [`INODES_MAX`].
pub(crate) const NAMES_MAX: usize = 2 * INODES_MAX;

/// Levels of directories. A walk of a directory holds a descriptor per level, and the usual limit
/// of a process is 1,024.
pub(crate) const DEPTH_MAX: usize = 512;

/// Bytes of one name: `NAME_MAX` of Linux, and the most that EROFS stores.
pub(crate) const NAME_LEN_MAX: usize = 255;

/// Bytes of a path in an archive, and of the target of a symlink: `PATH_MAX` of Linux, one of them
/// for the NUL.
pub(crate) const PATH_LEN_MAX: usize = 4095;

/// Symlinks that one path may pass, as in Linux.
pub(crate) const SYMLINKS_MAX: usize = 40;

/// Names that one path may pass, those in targets of symlinks included. Each costs a search in a
/// directory.
pub(crate) const PATH_STEPS_MAX: usize = 4096;

/// Bytes of one extended attribute. EROFS stores the length in 16 bits; Linux has one byte more.
pub(crate) const XATTR_LEN_MAX: usize = (64 << 10) - 1;

/// Bytes of all extended attributes of one inode with their names. EROFS counts their 4-byte units
/// in 16 bits, which is 256 KiB. Shared attributes take 4 bytes there, but their number is 255.
pub(crate) const XATTRS_LEN_MAX: usize = 192 << 10;

/// Extended attributes of one inode. EROFS counts shared ones in 8 bits.
pub(crate) const XATTRS_MAX: usize = 255;

/// Bytes of one PAX header. Extended attributes are in it, with their names and twice the size of a
/// path.
pub(crate) const PAX_LEN_MAX: usize = 512 << 10;

/// Data regions of one sparse file. Each takes 24 bytes of memory.
pub(crate) const REGIONS_MAX: usize = 1 << 20;

/// Data regions of all sparse files.
pub(crate) const REGIONS_TOTAL_MAX: usize = 16 << 20;

/// Chunks of a file with holes. The daemon looks at no more of them in one LSEEK. A longer file
/// gets larger chunks: its smaller holes are then zeros of the data file.
pub(crate) const CHUNKS_MAX: u64 = 65_536;

/// Largest size of a file: that of Linux.
pub(crate) const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// Largest data file, in bytes. All blocks of an image share numbers below 2^32, which is 16 TiB.
pub(crate) const DATA_LEN_MAX: u64 = 1 << 43;

/// Bytes of the hole that ends a data file: a slot of a DAX window. The guest maps whole slots, so
/// that of the last file is inside the data file too.
pub(crate) const TRAILING_HOLE_LEN: u64 = 2 << 20;

/// Bytes that are read at once.
pub(crate) const READ_LEN: usize = 1 << 20;

/// Buffers of [`READ_LEN`] that wait for the thread that computes a digest.
pub(crate) const HASHED_PARTS_MAX: usize = 4;

/// Bytes of a JSON file of an OCI layout. The manifest of an image with the most layers has 60 KiB.
pub(crate) const JSON_LEN_MAX: u64 = 4 << 20;

/// Layers of an image. Docker allows 127. Each becomes a data file that the daemon keeps open.
pub(crate) const LAYERS_MAX: usize = 256;

/// Indexes within one another in an OCI layout, with `index.json`. One is usual for images of
/// several platforms.
pub(crate) const INDEX_DEPTH_MAX: usize = 4;

/// Frames of a zstd stream without data. `zstd:chunked` files end in one.
pub(crate) const EMPTY_FRAMES_MAX: usize = 1024;

/// Problems after which `inspect` stops. A damaged structure can make thousands.
pub(crate) const PROBLEMS_MAX: usize = 20;

/// Names and extents that `inspect` reads. Structures that overlap can make more of them than an
/// image has bytes.
pub(crate) const INSPECT_STEPS_MAX: u64 = 1 << 28;
