//! Files with many blocks. The host needs long to free them (half a second for 4 GiB in memory),
//! and no queue may wait for that.
//!
//! The host frees blocks when a file is truncated, or has neither a name nor a descriptor left. A
//! truncation of such a file goes to the offload pool. The node keeps its descriptor open, so
//! UNLINK and RENAME remove only the name. The host frees the blocks when
//! [`deferred_close`](crate::passthrough::files::deferred_close) closes the last descriptor.

use crate::limits::LARGE_BLOCKS_MIN;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve::Stat;
use rustix::fs::FileType;

/// Bytes in a block of `statx(2)`.
pub(crate) const BLOCK_LEN: u64 = 512;

/// Returns whether an inode is a file with many blocks.
pub(super) fn is_large(kind: FileType, stat: &Stat) -> bool {
    kind == FileType::RegularFile && stat.blocks() >= LARGE_BLOCKS_MIN
}

impl Inodes {
    /// Notes how many blocks a file has. When it becomes large, its descriptor is opened and
    /// cached. A failure only makes a later UNLINK slower. A thread of the offload pool must not
    /// call this, because it may open only files that the guest has open.
    pub(crate) fn note_blocks(&self, node: &NodeRef, stat: &Stat) {
        let large = is_large(node.kind, stat);
        if node.set_large(large) != large && large {
            drop(self.descriptor(node));
        }
    }

    /// Returns whether a truncation to `size` frees so many blocks that a queue must not wait for
    /// it.
    pub(crate) fn frees_much(&self, node: &NodeRef, size: u64) -> bool {
        let freed = |stat: Stat| stat.blocks().saturating_sub(size / BLOCK_LEN);
        node.is_large() && self.stat(node).is_ok_and(|stat| freed(stat) >= LARGE_BLOCKS_MIN)
    }
}
