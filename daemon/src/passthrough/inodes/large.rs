//! Files with many blocks: giving those back takes the host long (half a second for 4 GiB in memory), and no queue
//! waits for it.
//!
//! The host gives blocks back when a file is truncated, or when it has neither a name nor a descriptor left. A
//! truncation of such a file goes to the offload pool. Its node keeps its descriptor open, so that UNLINK and RENAME
//! take only the name: the blocks go with the last descriptor, which [`crate::passthrough::files::deferred_close`] closes.

use crate::limits::LARGE_BLOCKS_MIN;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::node::{NodeKey, NodeRef};
use crate::passthrough::resolve::Stat;
use rustix::fs::FileType;

/// Bytes in one block as `statx(2)` counts them.
pub(in crate::passthrough) const BLOCK_LEN: u64 = 512;

/// Whether the host says that it is a file with many blocks.
pub(in crate::passthrough) fn is_large(kind: FileType, stat: &Stat) -> bool {
    kind == FileType::RegularFile && stat.blocks() >= LARGE_BLOCKS_MIN
}

impl Inodes {
    /// Notes how many blocks a node holds. The first time that they are many, its descriptor is opened and kept in the
    /// cache of descriptors; a failure only makes a later UNLINK slower. Not for a thread of the offload pool, which
    /// may not open what the guest has not opened.
    pub(in crate::passthrough) fn note_blocks(&self, node: &NodeRef, stat: &Stat) {
        let large = is_large(node.kind, stat);
        if node.set_large(large) != large && large {
            drop(self.descriptor(node));
        }
    }

    /// Whether cutting a file to `size` gives back so many blocks that a queue must not wait for it.
    pub(in crate::passthrough) fn frees_much(&self, node: &NodeRef, size: u64) -> bool {
        let freed = |stat: Stat| stat.blocks().saturating_sub(size / BLOCK_LEN);
        node.is_large() && self.stat(node).is_ok_and(|stat| freed(stat) >= LARGE_BLOCKS_MIN)
    }

    /// Notes that an inode has grown large.
    pub(in crate::passthrough) fn set_large(&self, key: NodeKey) {
        if let Some(node) = self.table.find(key) {
            node.set_large(true);
        }
    }

    /// Opens the descriptor of an inode and keeps it in the cache of descriptors.
    pub(in crate::passthrough) fn cache_descriptor_of(&self, key: NodeKey) {
        if let Some(node) = self.table.find(key) {
            drop(self.descriptor(&node));
        }
    }
}
