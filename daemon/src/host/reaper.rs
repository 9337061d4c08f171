//! The last close of a deleted file, which is when the host gives its blocks back: for a large one that takes long,
//! and neither hiprio nor a request queue waits for it.

use super::config::Seal;
use super::dirty::write_back;
use super::handles::FileHandle;
use super::nodes::NodeRef;
use super::passthrough::Passthrough;
use super::resolve;
use super::table::Entry;
use crate::handoff::{Giver, handoff};
use crate::limits::{REAPER_BACKLOG_MAX, REAPER_BLOCKS_MIN};
use crate::log_budget::Source;
use pinhole_policy::host_calls::Threads;
use rustix::fs::FileType;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Memory for the thread's stack: it only closes.
const STACK_LEN: usize = 64 << 10;

/// Files that the thread was not there to write back, for the log.
static GONE: Source = Source::new();

/// What nobody asks for any longer; dropping it closes it.
#[derive(Debug)]
enum Retired {
    #[expect(dead_code, reason = "held to be dropped")]
    Node(NodeRef),
    #[expect(dead_code, reason = "held to be dropped")]
    File(Arc<Entry<FileHandle>>),
    /// To be written back first, which gives back its room.
    Dirty(Arc<Entry<FileHandle>>),
}

impl Retired {
    fn end(self) {
        match self {
            Self::Node(_) | Self::File(_) => {}
            Self::Dirty(file) => write_back(&file),
        }
    }
}

/// A thread that closes; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Reaper {
    backlog: Giver<Retired>,
}

impl Reaper {
    /// Starts the thread: now, and not when a worker first needs it, because workers may not start threads.
    pub(crate) fn start(seal: Seal) -> io::Result<Self> {
        let (backlog, retired) = handoff::<Retired>(REAPER_BACKLOG_MAX);
        let close = move || match seal.close(Threads::OFFLOAD) {
            Ok(()) => std::iter::from_fn(|| retired.take()).for_each(Retired::end),
            // Who retires something then closes it himself.
            Err(error) => tracing::error!(%error, "the closing thread cannot be prepared"),
        };
        std::thread::Builder::new().name("reaper".to_owned()).stack_size(STACK_LEN).spawn(close)?;
        Ok(Self { backlog })
    }

    /// Writes a file back and closes it, always on the reaper's thread, for which nobody waits: how many there are is
    /// limited by the descriptors that they hold.
    pub(super) fn write_back(&self, file: Arc<Entry<FileHandle>>) {
        if self.backlog.force(Retired::Dirty(file)).is_err()
            && let Some(suppressed) = GONE.pass()
        {
            tracing::error!(
                suppressed,
                "a file is closed without being written back: the closing thread is gone"
            );
        }
    }

    /// Closes, here where the backlog is full: what is retired holds descriptors, so it must not pile up.
    fn close(&self, retired: Retired) {
        if let Err(full) = self.backlog.offer(retired) {
            drop(full);
        }
    }
}

impl Passthrough {
    /// A node that the guest has forgotten.
    pub(super) fn retire_node(&self, node: NodeRef) {
        // Somebody else's server would have to be asked, and for what it closes nobody waits here.
        let closes_late = node.kind == FileType::RegularFile
            && !node.mount.traits.remote
            && node.descriptor().is_some_and(|descriptor| is_slow_to_close(descriptor.as_fd()));
        if closes_late {
            self.reaper.close(Retired::Node(node));
        }
    }

    /// A file that the guest has released.
    pub(super) fn retire_file(&self, file: Arc<Entry<FileHandle>>) {
        // Asking costs as much as closing, so only where something was deleted since the file was opened.
        if file.deletions != self.deletions() && !file.traits.remote && is_slow_to_close(file.as_fd()) {
            self.reaper.close(Retired::File(file));
        }
    }
}

/// Whether closing it may give back many blocks.
fn is_slow_to_close(fd: BorrowedFd<'_>) -> bool {
    resolve::stat(fd).is_ok_and(|stat| stat.is_deleted() && stat.blocks() >= REAPER_BLOCKS_MIN)
}
