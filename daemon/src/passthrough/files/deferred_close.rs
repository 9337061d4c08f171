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
use crate::sync::channel::{Receiver, Sender, bounded_channel};
use crate::sync::clock;
use crate::thread_setup::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use rustix::fs::FileType;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Stack size of the thread.
const STACK_LEN: usize = 64 << 10;

/// A task of the thread. Dropping a node or a file closes it.
#[derive(Debug)]
enum CloseTask {
    #[expect(dead_code, reason = "held to be dropped")]
    Node(NodeRef),
    #[expect(dead_code, reason = "held to be dropped")]
    File(FileRef),
    /// Something was opened on a mount below the share. The thread checks after a while whether it
    /// is used.
    WatchMounts,
    /// Perhaps no node is left on a mount.
    ReleaseMounts,
}

/// The thread's own state.
struct Closer {
    tasks: Receiver<CloseTask>,
    mounts: IdleMounts,
    watching: Arc<AtomicBool>,
    /// When to close unused descriptors. `None`: nothing is open that could be unused.
    next_check: Option<Instant>,
}

impl Closer {
    fn run(mut self) {
        while let Some(task) = self.next() {
            match task {
                CloseTask::Node(_) | CloseTask::File(_) => {}
                CloseTask::WatchMounts => {
                    self.next_check = self.next_check.or_else(|| clock::now().checked_add(MOUNT_IDLE));
                }
                CloseTask::ReleaseMounts => self.mounts.remove_unused(),
            }
            self.check_if_due();
        }
    }

    /// Waits for the next task. `None`: there will be none.
    fn next(&mut self) -> Option<CloseTask> {
        while self.next_check.is_some() {
            match self.tasks.receive_until(self.next_check) {
                None if self.tasks.is_closed() => return None,
                None => self.check_if_due(),
                task => return task,
            }
        }
        self.tasks.receive()
    }

    fn check_if_due(&mut self) {
        if self.next_check.is_none_or(|due| due > clock::now()) {
            return;
        }
        // Before the check, so that what is opened meanwhile is reported again.
        self.watching.store(false, Ordering::Release);
        let is_any_left = self.mounts.close_idle();
        self.next_check = is_any_left.then(|| clock::now().checked_add(MOUNT_IDLE)).flatten();
    }
}

/// The handle to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(in crate::passthrough) struct DeferredClose {
    tasks: Sender<CloseTask>,
    /// The thread knows that something is open on a mount below the share.
    watching: Arc<AtomicBool>,
}

impl DeferredClose {
    /// Starts the thread. It cannot start later, because threads that serve may not start threads.
    pub(in crate::passthrough) fn start(threads: ThreadSetup, mounts: IdleMounts) -> io::Result<Self> {
        let (tasks, receiver) = bounded_channel(DEFERRED_CLOSES_MAX);
        let watching = Arc::new(AtomicBool::new(false));
        let closer = Closer { tasks: receiver, mounts, watching: Arc::clone(&watching), next_check: None };
        let run = move || match threads.confine(Threads::OFFLOAD) {
            Ok(()) => closer.run(),
            // Without the thread, each thread closes by itself.
            Err(error) => tracing::error!(%error, "the closing thread cannot be prepared"),
        };
        std::thread::Builder::new().name("deferred-close".to_owned()).stack_size(STACK_LEN).spawn(run)?;
        Ok(Self { tasks, watching })
    }

    /// Notes that something was opened on a mount below the share.
    pub(in crate::passthrough) fn watch_mounts(&self) {
        // The load comes first: each store would take the cache line from the other queues.
        if !self.watching.load(Ordering::Acquire)
            && !self.watching.swap(true, Ordering::AcqRel)
            && self.tasks.send_past_limit(CloseTask::WatchMounts).is_err()
        {
            tracing::error!(
                "mounts below the share are kept from being unmounted: the closing thread is gone"
            );
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
        // One reference is the table's, one is this one.
        if mount.is_some_and(|mount| Arc::strong_count(&mount) <= 2) {
            // If the queue is full, a later task does it.
            drop(self.tasks.try_send(CloseTask::ReleaseMounts));
        }
    }

    /// Closes a file that the guest has released. `names_removed` is the present
    /// [`Files::names_removed`](super::Files::names_removed).
    pub(in crate::passthrough) fn close_file(&self, file: FileRef, names_removed: u64) {
        // To ask costs as much as to close, so only if a name was removed since the file was
        // opened.
        let may_be_deleted = file.names_removed != names_removed && !file.traits.remote;
        if may_be_deleted && is_slow_to_close(file.as_fd()) {
            self.close(CloseTask::File(file));
        }
    }

    /// Leaves it to the thread, unless its queue is full: it holds descriptors, which must not pile
    /// up.
    fn close(&self, task: CloseTask) {
        if let Err(full) = self.tasks.try_send(task) {
            drop(full);
        }
    }
}

/// Returns whether closing it may free many blocks.
fn is_slow_to_close(fd: BorrowedFd<'_>) -> bool {
    resolve::stat(fd).is_ok_and(|stat| stat.is_deleted() && stat.blocks() >= DEFERRED_CLOSE_BLOCKS_MIN)
}
