//! The handle tables: what the guest has opened and not released.

use crate::limits::HANDLES_MAX;
use crate::passthrough::inodes::MountFd;
use crate::passthrough::inodes::Traits;
use crate::passthrough::inodes::{NodeKey, NodeRef, Pin};
use crate::passthrough::resolve;
use crate::passthrough::slots::{Entry, Table, first_generation};
use crate::sync::budget::Ticket;
use crate::sync::lock::Mutex;
use pinhole_protocol::{Errno, Handle};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// An open regular file: one host open file description for each guest handle, so that an fsync error is reported
/// once to each.
#[derive(Debug)]
pub(crate) struct FileHandle {
    /// Buffered, without O_APPEND and O_SYNC: those come with each request.
    pub(crate) file: OwnedFd,
    /// Which node it is; a guest's word that it is another's is not believed.
    pub(crate) key: NodeKey,
    /// The node: only where a rule by path decides, or what the guest takes it for counts.
    pub(crate) node: Option<NodeRef>,
    /// The same file with O_DIRECT, where the guest asked for it and may. Requests that come from the guest's page
    /// cache never use it: their memory has no alignment.
    pub(crate) direct: Option<OwnedFd>,
    /// The file was opened for reading, as far as the guest knows.
    pub(crate) readable: bool,
    /// The file was opened for writing.
    pub(crate) writable: bool,
    /// The guest was told to bypass its page cache, so the flags of a WRITE are the only sign of O_SYNC.
    pub(crate) uncached: bool,
    pub(crate) traits: Traits,
    /// The host cannot tell cached data from data that has to be waited for.
    pub(crate) always_waits: AtomicBool,
    /// It was written to so far from its start that it may hold many blocks; see [`crate::passthrough::files::large`].
    pub(crate) grown: AtomicBool,
    /// [`super::Passthrough::deletions`] when it was opened.
    pub(crate) deletions: u64,
    /// Where it is on a mount below the share: what that is made durable by, which hears of errors.
    pub(crate) mount: Option<Arc<MountFd>>,
    pub(crate) _pin: Option<Pin>,
    pub(crate) _tickets: (HandleTickets, Option<Ticket>),
}

impl FileHandle {
    /// Of its one or two descriptions, the one that is asked for errors of writing back, and by which direct writes are made.
    /// The host tells each description once; were both asked, the guest's one would be told twice.
    pub(crate) fn hears(&self) -> BorrowedFd<'_> {
        self.direct.as_ref().map_or(self.file.as_fd(), AsFd::as_fd)
    }

    /// Before the guest changes the file.
    pub(crate) fn untell(&self) {
        if let Some(node) = &self.node {
            node.guest_cache.note_own_change();
        }
    }

    /// Who closes the file has changed it for now: what is changed after this, others change. Where the host does not say
    /// what it is like now, nothing is known, as before.
    pub(crate) fn own_changes(&self) {
        if let Some(node) =
            self.node.as_ref().filter(|node| self.writable && node.guest_cache.has_own_change())
            && let Ok(stat) = resolve::stat(self.as_fd())
        {
            node.guest_cache.settle_own_change(&stat);
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
    /// Which directory it is; entries are looked up in it.
    pub(crate) node: NodeRef,
    pub(crate) stream: Mutex<Stream>,
    /// As [`FileHandle::mount`].
    pub(crate) mount: Option<Arc<MountFd>>,
    pub(crate) _tickets: HandleTickets,
}

/// The right to one handle: to its descriptor, and to one more handle where the policy counts them.
#[derive(Debug)]
pub(crate) struct HandleTickets {
    pub(crate) _descriptor: Ticket,
    pub(crate) _handle: Option<Ticket>,
}

/// The descriptor of an open directory, to which the listing position belongs; a READDIR holds its lock from seek to
/// last entry.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Shared with an FSYNCDIR under way, which does not hold the lock.
    pub(crate) fd: Arc<OwnedFd>,
    /// The cookie of the entry before the host's position, where that is known.
    pub(crate) position: Option<u64>,
}

/// Open things of one kind under handles of one guest.
#[derive(Debug)]
pub(crate) struct HandleTable<T> {
    open: Table<T>,
    /// Tells this table's handles from the other table's: each differs from its key in these bits.
    mark: u64,
}

/// The mark of handles of directories: a bit of the key's index that no index has, since each handle holds a
/// descriptor and no process has 2^31 of them.
pub(crate) const DIRECTORY_MARK: u64 = 1 << 31;

impl<T> HandleTable<T> {
    pub(crate) fn new(mark: u64) -> Self {
        Self { open: Table::new(HANDLES_MAX, first_generation()), mark }
    }

    /// The open thing of a handle.
    ///
    /// # Errors
    /// EBADF for a handle that is released, of another kind, or was never given out.
    pub(crate) fn get(&self, handle: Handle) -> Result<Arc<Entry<T>>, Errno> {
        self.open.get(handle.0 ^ self.mark).ok_or(Errno::EBADF)
    }

    /// Whether what stands under a handle has not been taken back.
    pub(crate) fn holds(&self, open: &Entry<T>) -> bool {
        self.open.get(open.id()).is_some()
    }

    /// Gives out a new handle.
    ///
    /// # Errors
    /// ENFILE where the table is full.
    pub(crate) fn insert(&self, value: T) -> Result<Handle, Errno> {
        let entry = self.open.insert(value).map_err(|_full| Errno::ENFILE)?;
        Ok(Handle(entry.id() ^ self.mark))
    }

    /// Takes a handle back; operations under way keep what it named.
    ///
    /// # Errors
    /// EBADF as for [`HandleTable::get`].
    pub(crate) fn remove(&self, handle: Handle) -> Result<Arc<Entry<T>>, Errno> {
        self.open.remove(handle.0 ^ self.mark).ok_or(Errno::EBADF)
    }

    /// Takes every handle back.
    pub(crate) fn clear(&self) {
        drop(self.open.retain(|_| false));
        self.open.shrink();
    }

    /// Handles open now.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}
