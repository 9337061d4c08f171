//! A thread that closes what takes long to close, so that no queue waits for it.
//!
//! The host frees the blocks of a large deleted file when its last descriptor is closed, which
//! takes long. The thread also closes what is open on mounts below the share and not used, so that
//! the host can unmount them.

use crate::limits::{DEFERRED_CLOSE_BLOCKS_MIN, DEFERRED_CLOSES_MAX, MOUNT_IDLE};
use crate::passthrough::files::FileRef;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::inodes::idle_mounts::IdleMounts;
use crate::passthrough::resolve;
use crate::sync::clock;
use crate::threads::{TaskRunner, TaskThread, ThreadSetup};
use rustix::fs::FileType;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A task of the thread. Dropping a node or a file closes it.
#[derive(Debug)]
enum CloseTask {
    #[expect(dead_code, reason = "held to be dropped")]
    Node(NodeRef),
    #[expect(dead_code, reason = "held to be dropped")]
    File(FileRef),
    /// Remove mounts without nodes. Submitted when a mount may have lost its last node.
    ReleaseMounts,
}

struct Closer {
    mounts: IdleMounts,
    watching: Arc<AtomicBool>,
}

impl TaskRunner for Closer {
    type Task = CloseTask;

    fn run(&self, task: CloseTask) {
        match task {
            CloseTask::Node(_) | CloseTask::File(_) => {}
            CloseTask::ReleaseMounts => self.mounts.remove_unused(),
        }
    }

    fn run_due(&self) -> Option<Instant> {
        // Clear the flag before the check, so that what is opened meanwhile is reported again.
        self.watching.store(false, Ordering::Release);
        let is_any_left = self.mounts.close_idle();
        is_any_left.then(|| clock::now().checked_add(MOUNT_IDLE)).flatten()
    }
}

/// The handle to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(in crate::passthrough) struct DeferredClose {
    thread: TaskThread<Closer>,
    /// Whether the thread is going to check the mounts below the share.
    watching: Arc<AtomicBool>,
}

impl DeferredClose {
    /// Makes the thread, which is started when there is something to close.
    pub(in crate::passthrough) fn new(threads: ThreadSetup, mounts: IdleMounts) -> Self {
        let watching = Arc::new(AtomicBool::new(false));
        let closer = Closer { mounts, watching: Arc::clone(&watching) };
        Self { thread: TaskThread::new("deferred-close", threads, closer), watching }
    }

    /// Notes that something was opened on a mount below the share.
    pub(in crate::passthrough) fn watch_mounts(&self) {
        // The load comes first: each store would take the cache line from the other queues.
        if !self.watching.load(Ordering::Acquire)
            && !self.watching.swap(true, Ordering::AcqRel)
            && let Some(due) = clock::now().checked_add(MOUNT_IDLE)
        {
            self.thread.call_at(due);
        }
    }

    /// Closes a node that the guest has forgotten.
    pub(in crate::passthrough) fn close_node(&self, node: NodeRef) {
        let mount = (!node.mount.access.stays()).then(|| Arc::clone(&node.mount));
        // A remote file system may have to ask its server, even for the size.
        let is_slow = node.kind == FileType::RegularFile
            && !node.mount.traits.remote
            && node.descriptor().is_some_and(|descriptor| is_slow_to_close(descriptor.as_fd()));
        if is_slow {
            self.close(CloseTask::Node(node));
        } else {
            drop(node);
        }
        // One reference is in the table of mounts, the other is `mount`.
        if mount.is_some_and(|mount| Arc::strong_count(&mount) <= 2) {
            // If the queue of tasks is full, a later task removes the mount.
            drop(self.thread.submit(CloseTask::ReleaseMounts, DEFERRED_CLOSES_MAX));
        }
    }

    /// Closes a file that the guest has released. `names_removed` is the present
    /// [`Files::names_removed`](super::Files::names_removed).
    pub(in crate::passthrough) fn close_file(&self, file: FileRef, names_removed: u64) {
        // To check a file costs as much as to close it. So a file is checked only if a name was
        // removed since it was opened.
        let may_be_deleted = file.names_removed != names_removed && !file.traits.remote;
        if may_be_deleted && is_slow_to_close(file.as_fd()) {
            self.close(CloseTask::File(file));
        }
    }

    /// Leaves the task to the closing thread. If too many tasks wait, closes at once: the tasks
    /// hold descriptors, which must not pile up.
    fn close(&self, task: CloseTask) {
        drop(self.thread.submit(task, DEFERRED_CLOSES_MAX));
    }
}

/// Returns whether closing a descriptor may free many blocks.
fn is_slow_to_close(fd: BorrowedFd<'_>) -> bool {
    resolve::stat(fd).is_ok_and(|stat| stat.is_deleted() && stat.blocks() >= DEFERRED_CLOSE_BLOCKS_MIN)
}
