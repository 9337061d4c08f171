//! What the guest believes of an inode, and how it learns that it is wrong.

pub(in crate::passthrough) mod removed;
pub(in crate::passthrough) mod retries;
pub(in crate::passthrough) mod told;
