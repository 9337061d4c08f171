//! The operations of [`FileSystem`](crate::filesystem::FileSystem), one file for each family.

pub(in crate::passthrough) mod attributes;
pub(in crate::passthrough) mod data;
pub(in crate::passthrough) mod entries;
pub(in crate::passthrough) mod fallocate;
pub(in crate::passthrough) mod inode_flags;
pub(in crate::passthrough) mod lookup;
pub(in crate::passthrough) mod map;
pub(in crate::passthrough) mod open;
pub(in crate::passthrough) mod readdir;
pub(in crate::passthrough) mod sync;
pub(in crate::passthrough) mod xattrs;
