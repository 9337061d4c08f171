//! EROFS images of prepared shares: a reader that checks all it reads, and a [writer](write).
//!
//! The format is that of Linux (`fs/erofs/erofs_fs.h`), uncompressed, with blocks of 4 KiB. The
//! crate does no I/O: an image is a [`Source`] that copies bytes out.
//!
//! The reader treats every byte as hostile, also the bytes that change between two copies. It
//! copies a structure once, decodes the copy, checks all arithmetic, and allocates only what it has
//! copied. Each call makes a bounded number of copies. The limits are in `limits.rs`.

mod abi;
mod crc32c;
mod data;
mod directory;
mod error;
#[cfg(test)]
mod fixture;
mod image;
mod inode;
mod limits;
mod source;
mod superblock;
#[cfg(any(test, feature = "test-utils"))]
pub mod walk;
pub mod write;
mod xattr;
mod xattr_prefix;

pub use data::{Extent, Place};
pub use directory::{DirEntry, Found};
pub use error::{Corruption, OpenError, ReadError, Refused};
pub use image::Image;
pub use inode::{Inode, Kind, Nid, Time};
pub use limits::BLOCK_SIZE;
pub use source::{Source, SourceError};
pub use superblock::{Compatible, Device, Incompatible, Superblock};
