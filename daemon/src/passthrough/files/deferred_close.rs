//! The thread that closes: a large deleted file, which is when the host gives its blocks back and takes long, so that
//! neither hiprio nor a request queue waits for it; and what is open on mounts below the share and not used, so that the
//! host can unmount them.

use crate::limits::{MOUNT_IDLE, REAPER_BACKLOG_MAX, REAPER_BLOCKS_MIN};
use crate::passthrough::Passthrough;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::inodes::idle_mounts::IdleMounts;
use crate::passthrough::resolve;
use crate::passthrough::slots::Entry;
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

/// Memory for the thread's stack: it only closes.
const STACK_LEN: usize = 64 << 10;

/// What nobody asks for any longer; dropping it closes it.
#[derive(Debug)]
enum Retired {
    #[expect(dead_code, reason = "held to be dropped")]
    Node(NodeRef),
    #[expect(dead_code, reason = "held to be dropped")]
    File(Arc<Entry<FileHandle>>),
    /// Something is open on a mount below the share; to be looked at after a while.
    Watch,
    /// No node may live on some mount any more.
    Unused,
}

/// What the thread does.
struct Closer {
    retired: Receiver<Retired>,
    mounts: IdleMounts,
    watches: Arc<AtomicBool>,
    /// When it looks for what is not used; `None`: nothing is open that could be unused.
    next_look: Option<Instant>,
}

impl Closer {
    fn run(mut self) {
        while let Some(retired) = self.next() {
            match retired {
                Retired::Node(_) | Retired::File(_) => {}
                Retired::Watch => {
                    self.next_look = self.next_look.or_else(|| clock::now().checked_add(MOUNT_IDLE));
                }
                Retired::Unused => self.mounts.remove_unused(),
            }
            self.look_when_due();
        }
    }

    /// What is to be closed next; `None`: nothing will be.
    fn next(&mut self) -> Option<Retired> {
        while self.next_look.is_some() {
            match self.retired.receive_until(self.next_look) {
                None if self.retired.is_closed() => return None,
                None => self.look_when_due(),
                retired => return retired,
            }
        }
        self.retired.receive()
    }

    fn look_when_due(&mut self) {
        if self.next_look.is_none_or(|due| due > clock::now()) {
            return;
        }
        // Before the look: what is opened meanwhile is told anew.
        self.watches.store(false, Ordering::Release);
        let is_any_left = self.mounts.close_idle();
        self.next_look = is_any_left.then(|| clock::now().checked_add(MOUNT_IDLE)).flatten();
    }
}

/// A thread that closes; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Reaper {
    backlog: Sender<Retired>,
    /// The thread knows that something is open on a mount below the share.
    watches: Arc<AtomicBool>,
}

impl Reaper {
    /// Starts the thread: now, and not when a worker first needs it, because workers may not start threads.
    pub(in crate::passthrough) fn start(threads: ThreadSetup, mounts: IdleMounts) -> io::Result<Self> {
        let (backlog, retired) = bounded_channel::<Retired>(REAPER_BACKLOG_MAX);
        let watches = Arc::new(AtomicBool::new(false));
        let closer = Closer { retired, mounts, watches: Arc::clone(&watches), next_look: None };
        let close = move || match threads.confine(Threads::OFFLOAD) {
            Ok(()) => closer.run(),
            // Who retires something then closes it himself.
            Err(error) => tracing::error!(%error, "the closing thread cannot be prepared"),
        };
        std::thread::Builder::new().name("reaper".to_owned()).stack_size(STACK_LEN).spawn(close)?;
        Ok(Self { backlog, watches })
    }

    /// Something was opened on a mount below the share.
    pub(in crate::passthrough) fn watch(&self) {
        // A load first: a store would take the cache line from the other queues each time.
        if !self.watches.load(Ordering::Acquire) && !self.watches.swap(true, Ordering::AcqRel) {
            self.tell(Retired::Watch);
        }
    }

    fn tell(&self, retired: Retired) {
        if self.backlog.send_past_limit(retired).is_err() {
            tracing::error!(
                "mounts below the share are kept from being unmounted: the closing thread is gone"
            );
        }
    }

    /// No node may live on some mount any more. Where the backlog is full it is seen later.
    fn tell_unused(&self) {
        drop(self.backlog.try_send(Retired::Unused));
    }

    /// Closes, here where the backlog is full: what is retired holds descriptors, so it must not pile up.
    fn close(&self, retired: Retired) {
        if let Err(full) = self.backlog.try_send(retired) {
            drop(full);
        }
    }
}

impl Passthrough {
    /// A node that the guest has forgotten.
    pub(in crate::passthrough) fn retire_node(&self, node: NodeRef) {
        let mount = (!node.mount.access.stays()).then(|| Arc::clone(&node.mount));
        self.close_late(node);
        // The table's and this one.
        if mount.is_some_and(|mount| Arc::strong_count(&mount) <= 2) {
            self.reaper.tell_unused();
        }
    }

    fn close_late(&self, node: NodeRef) {
        // Somebody else's server would have to be asked, and for what it closes nobody waits here.
        let closes_late = node.kind == FileType::RegularFile
            && !node.mount.traits.remote
            && node.descriptor().is_some_and(|descriptor| is_slow_to_close(descriptor.as_fd()));
        if closes_late {
            self.reaper.close(Retired::Node(node));
        }
    }

    /// A file that the guest has released.
    pub(in crate::passthrough) fn retire_file(&self, file: Arc<Entry<FileHandle>>) {
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
