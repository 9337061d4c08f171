//! An open file and an open directory, as operations use them.

use crate::filesystem::Pace;
use crate::limits::LARGE_BLOCKS_MIN;
use crate::passthrough::inodes::{BLOCK_LEN, Descriptor, Inodes, MountFd, NodeKey, NodeRef, Pin, Traits};
use crate::passthrough::resolve;
use crate::sync::budget::Ticket;
use crate::sync::lock::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open regular file. Each handle has its own open file description on the host, so that each
/// gets an fsync error once.
#[derive(Debug)]
pub(crate) struct FileHandle {
    /// The buffered descriptor, without O_APPEND and O_SYNC: each request carries these flags.
    pub(crate) file: OwnedFd,
    /// The node. A request may name another node, which the daemon ignores.
    pub(crate) key: NodeKey,
    /// The node, if path rules apply or if the guest's cache of the file has to be tracked.
    pub(crate) node: Option<NodeRef>,
    /// The same file with O_DIRECT, if the guest asked for that and the options permit it. Requests
    /// from the guest's page cache never use it, because their memory is not aligned.
    pub(crate) direct: Option<Descriptor>,
    /// Whether the guest has opened the file for reading.
    pub(crate) readable: bool,
    /// Whether the guest has opened the file for writing.
    pub(crate) writable: bool,
    /// The guest bypasses its page cache, so the flags of a WRITE are the only sign of O_SYNC.
    pub(crate) uncached: bool,
    pub(crate) traits: Traits,
    /// [`super::Files::names_removed`] when the file was opened.
    pub(crate) names_removed: u64,
    /// The descriptor of the mount below the share that the file is on. A sync of the mount uses it
    /// and reports write errors.
    pub(crate) mount: Option<Arc<MountFd>>,
    /// The host cannot read this file without blocking.
    pub(crate) always_blocks: AtomicBool,
    /// The file was written to at such a high offset that it may have many blocks.
    pub(crate) grown: AtomicBool,
    pub(crate) _pin: Option<Pin>,
    pub(crate) _tickets: HandleTickets,
}

impl FileHandle {
    /// Returns the descriptor for direct writes and for FSYNC, which reports write errors.
    ///
    /// A file has one or two descriptions. The host reports an error to each of them once, so
    /// asking both would report it to the guest twice.
    pub(crate) fn sync_fd(&self) -> BorrowedFd<'_> {
        self.direct.as_ref().map_or(self.file.as_fd(), AsFd::as_fd)
    }

    /// Notes that the guest is about to change the file.
    pub(crate) fn note_own_change(&self) {
        if let Some(node) = &self.node {
            node.guest_cache.note_own_change();
        }
    }

    /// Notes that the guest closes the file. Later changes are by others. If the host returns no
    /// attributes, the state stays unknown.
    pub(crate) fn settle_own_change(&self) {
        if let Some(node) =
            self.node.as_ref().filter(|node| self.writable && node.guest_cache.has_own_change())
            && let Ok(stat) = resolve::stat(self.as_fd())
        {
            node.guest_cache.settle_own_change(&stat);
        }
    }

    /// Notes that the file is written to up to `end`. Its node is large from then on.
    pub(crate) fn note_growth(&self, inodes: &Inodes, end: u64) {
        if end / BLOCK_LEN >= LARGE_BLOCKS_MIN
            && !self.grown.load(Ordering::Relaxed)
            && !self.grown.swap(true, Ordering::Relaxed)
            && let Some(node) = inodes.find(self.key)
        {
            node.set_large(true);
        }
    }

    /// Keeps the descriptor of the node open if the file has grown large, before the file is
    /// closed.
    pub(crate) fn keep_grown(&self, inodes: &Inodes, pace: Pace) {
        if pace == Pace::Now
            && self.grown.load(Ordering::Relaxed)
            && let Some(node) = inodes.find(self.key)
        {
            drop(inodes.descriptor(&node));
        }
    }
}

impl AsFd for FileHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    /// The directory, in which names are looked up.
    pub(crate) node: NodeRef,
    /// The descriptor, which has a position in the listing.
    pub(crate) fd: OwnedFd,
    /// The cookie of the entry before the descriptor's position, if it is known. A READDIR holds
    /// the lock from the seek to the last entry.
    pub(crate) position: Mutex<Option<u64>>,
    /// As [`FileHandle::mount`].
    pub(crate) mount: Option<Arc<MountFd>>,
    pub(crate) _tickets: HandleTickets,
}

/// The right to one handle: to its descriptor, and to one more handle if the policy counts them.
#[derive(Debug)]
pub(crate) struct HandleTickets {
    pub(crate) _descriptor: Ticket,
    pub(crate) _handle: Option<Ticket>,
}
