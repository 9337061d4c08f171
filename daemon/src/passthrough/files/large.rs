//! Files with many blocks: giving those back takes the host long (half a second for 4 GiB in memory), and no queue
//! waits for it.

use crate::filesystem::Pace;
use crate::limits::LARGE_BLOCKS_MIN;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::inodes::BLOCK_LEN;
use crate::passthrough::inodes::Inodes;
use std::sync::atomic::Ordering;

impl FileHandle {
    /// Notes that the file is written to up to `end`.
    pub(in crate::passthrough) fn note_growth(&self, inodes: &Inodes, end: u64) {
        if end / BLOCK_LEN >= LARGE_BLOCKS_MIN
            && !self.grown.load(Ordering::Relaxed)
            && !self.grown.swap(true, Ordering::Relaxed)
        {
            inodes.set_large(self.key);
        }
    }

    /// Keeps the descriptor of the file's node if the file has grown large, before the file itself
    /// is closed.
    pub(in crate::passthrough) fn keep_grown(&self, inodes: &Inodes, pace: Pace) {
        if pace == Pace::Now && self.grown.load(Ordering::Relaxed) {
            inodes.cache_descriptor_of(self.key);
        }
    }
}
