//! The inodes that the guest knows: their table, how to reach each of them on the host, and what
//! the guest believes of them.

pub(in crate::passthrough) mod fd_cache;
pub(in crate::passthrough) mod freshness;
pub(in crate::passthrough) mod inode_handle;
pub(in crate::passthrough) mod inode_numbers;
pub(in crate::passthrough) mod mount_fd;
pub(in crate::passthrough) mod mounts;
pub(in crate::passthrough) mod path_rules;
pub(in crate::passthrough) mod table;
