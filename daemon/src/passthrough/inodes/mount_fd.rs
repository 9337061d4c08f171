//! The descriptor of a mount: `open_by_handle_at(2)` and `syncfs(2)` want one.
//!
//! It keeps the host from unmounting. So that of a mount below the share is open only while it is used, and is found again
//! by the mount point. What is found there is another mount unless it has the kernel's own number for it, which no
//! other mount ever gets (Linux 6.8), or, on older kernels, the same file system and the same root inode.

use crate::filesystem::Answer;
use crate::passthrough::inodes::host_fs::FileSystemId;
use crate::passthrough::resolve::Stat;
use crate::sync::budget::Ticket;
use crate::sync::lock::RwLock;
use crate::sys::inode_handle::InodeHandle;
use pinhole_protocol::{Errno, Name, NodeId};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// A readable descriptor of a mount. Whoever holds a reference keeps it open.
#[derive(Debug)]
pub(crate) struct MountFd {
    fd: OwnedFd,
    /// The guest may have changed something since it was last made durable.
    changed: AtomicBool,
    _ticket: Option<Ticket>,
}

impl MountFd {
    pub(crate) const fn new(fd: OwnedFd, ticket: Option<Ticket>) -> Self {
        Self { fd, changed: AtomicBool::new(false), _ticket: ticket }
    }

    /// Notes that something may be changed: before it is, by a holder (see [`MountAccess::close`]).
    pub(crate) fn note_change(&self) {
        // A load first: a store would take the cache line from the other queues each time.
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Release);
        }
    }
}

impl AsFd for MountFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A descriptor that stays open for as long as this is held.
#[derive(Debug)]
pub(crate) enum MountFdRef<'m> {
    /// It stays open anyway. So that queues which open files at once do not count on one cache line.
    Fixed(&'m MountFd),
    Counted(Arc<MountFd>),
}

impl AsFd for MountFdRef<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Fixed(fd) => fd.as_fd(),
            Self::Counted(fd) => (**fd).as_fd(),
        }
    }
}

/// Where a mount was seen last.
#[derive(Clone, Debug)]
pub(crate) struct MountPoint {
    /// The directory that the name is in, which lies on another mount.
    pub(crate) directory: NodeId,
    pub(crate) name: Box<CStr>,
}

/// What a mount point has to show to be the same mount.
#[derive(Debug)]
pub(crate) struct MountRoot {
    /// [`crate::passthrough::resolve::MountKey::id`].
    pub(crate) id: u64,
    /// The kernel never gives that number to another mount.
    pub(crate) id_lasts: bool,
    pub(crate) file_system: FileSystemId,
    inode: u64,
    birth: Option<(i64, u32)>,
    /// Where it has one that may be asked for: the generation in it tells an inode from the next with its number.
    handle: Option<InodeHandle>,
}

impl MountRoot {
    /// Of a descriptor of the mount's root. `handles`: its inode handle may be asked for.
    pub(crate) fn of(root: BorrowedFd<'_>, stat: &Stat, handles: bool) -> Self {
        Self {
            id: stat.mount().id,
            id_lasts: stat.has_lasting_mount_id(),
            file_system: FileSystemId::of(root, stat.mount().device),
            inode: stat.inode(),
            birth: stat.birth(),
            handle: handles.then(|| InodeHandle::of(root).ok()).flatten().map(|(handle, _)| handle),
        }
    }

    /// Whether this is the mount's root. Costs one call of the host, two more where its number may have been given to
    /// another mount.
    pub(crate) fn is(&self, root: BorrowedFd<'_>, stat: &Stat) -> bool {
        let seems_so = self.id == stat.mount().id && self.inode == stat.inode();
        if self.id_lasts || !seems_so {
            return seems_so;
        }
        let found = Self::of(root, stat, self.handle.is_some());
        (self.file_system, self.birth, &self.handle) == (found.file_system, found.birth, &found.handle)
    }
}

/// The descriptor, or why there is none.
#[derive(Debug)]
pub(crate) enum MountState {
    Open(Arc<MountFd>),
    /// Closed because it was not used.
    Closed,
    /// The host does not let it be opened.
    Refused(Errno),
    /// The mount is a device or socket, which has nothing of its own to sync and must not be opened.
    Unopenable,
    /// Another mount has its number.
    Gone,
}

/// The descriptor of a mount, one for all subvolumes that it shows.
#[derive(Debug)]
pub(crate) struct MountAccess {
    pub(crate) root: MountRoot,
    /// Each change is one store, which a panic cannot interrupt.
    state: RwLock<MountState>,
    /// It is the share's own mount, or one that cannot be told from others (before Linux 5.8): its descriptor stays open.
    stays: bool,
    /// The descriptor, where it stays.
    pub(super) fixed: Option<Arc<MountFd>>,
    point: RwLock<Option<MountPoint>>,
    /// What is changed there is made durable before it is closed.
    makes_durable: bool,
    /// Used since [`MountAccess::take_used`].
    used: AtomicBool,
    /// The guest may have mapped a file to write it, so that it changes what no request tells of.
    mapped: AtomicBool,
}

impl MountAccess {
    pub(crate) fn new(
        root: MountRoot,
        point: Option<MountPoint>,
        state: MountState,
        makes_durable: bool,
    ) -> Self {
        let stays = root.id == 0 || point.is_none();
        let fixed = match &state {
            MountState::Open(fd) if stays => Some(Arc::clone(fd)),
            MountState::Open(_)
            | MountState::Closed
            | MountState::Refused(_)
            | MountState::Unopenable
            | MountState::Gone => None,
        };
        let (state, point) = (RwLock::new(state), RwLock::new(point));
        let (used, mapped) = (AtomicBool::new(true), AtomicBool::new(false));
        Self { root, state, stays, fixed, point, makes_durable, used, mapped }
    }

    /// Whether its descriptor stays open.
    pub(crate) const fn stays(&self) -> bool {
        self.stays
    }

    /// The descriptor, if it is open.
    pub(crate) fn open(&self) -> Option<Arc<MountFd>> {
        match &*self.state.read() {
            MountState::Open(fd) => Some(Arc::clone(fd)),
            MountState::Closed | MountState::Refused(_) | MountState::Unopenable | MountState::Gone => None,
        }
    }

    /// Why it could not be opened, if it could not.
    pub(crate) fn refused(&self) -> Option<Errno> {
        match *self.state.read() {
            MountState::Refused(errno) => Some(errno),
            MountState::Open(_) | MountState::Closed | MountState::Unopenable | MountState::Gone => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.state.read(), MountState::Closed)
    }

    /// Another mount has its number: nothing is found on it any more.
    pub(crate) fn mark_gone(&self) {
        *self.state.write() = MountState::Gone;
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self) {
        // A load first: a store would take the cache line from the other queues each time.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was in use since this was last asked.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Notes where the mount is seen.
    pub(crate) fn seen_at(&self, directory: NodeId, name: Name<'_>) {
        let is_there = |point: &MountPoint| point.directory == directory && *point.name == *name.as_c_str();
        if self.stays() || self.point.read().as_ref().is_some_and(is_there) {
            return;
        }
        let point = MountPoint { directory, name: name.as_c_str().into() };
        *self.point.write() = Some(point);
    }

    /// Where the mount was seen last.
    pub(super) fn point(&self) -> Option<MountPoint> {
        self.point.read().clone()
    }

    /// Whether it may be closed: it is open, and neither a request nor an open file holds it.
    pub(crate) fn is_free(&self) -> bool {
        let is_held = |fd: &Arc<MountFd>| Arc::strong_count(fd) > 1 || self.mapped.load(Ordering::Acquire);
        matches!(&*self.state.read(), MountState::Open(fd) if !is_held(fd))
    }

    /// See [`MountAccess::mapped`].
    pub(super) fn note_mapping(&self) {
        self.mapped.store(true, Ordering::Release);
    }

    /// The descriptor to make durable what was changed, if anything was.
    pub(crate) fn take_changed(&self) -> Option<Arc<MountFd>> {
        let fd = self.open().filter(|_| self.makes_durable)?;
        fd.changed.swap(false, Ordering::AcqRel).then_some(fd)
    }

    /// Whether something has to be made durable before it is closed.
    pub(crate) fn is_changed(&self) -> bool {
        matches!(&*self.state.read(), MountState::Open(fd) if self.must_sync(fd))
    }

    fn must_sync(&self, fd: &MountFd) -> bool {
        self.makes_durable && fd.changed.load(Ordering::Acquire)
    }

    /// Closes it, if nothing holds it and everything is durable. Changes are made only by holders, so what is changed
    /// later finds it open again and SYNCFS finds what is changed.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        let may_close = |fd: &Arc<MountFd>| {
            let is_free = Arc::strong_count(fd) == 1;
            // What a former holder has noted is seen.
            fence(Ordering::Acquire);
            is_free && !self.must_sync(fd)
        };
        if matches!(&*state, MountState::Open(fd) if may_close(fd)) {
            let closed = std::mem::replace(&mut *state, MountState::Closed);
            drop(state);
            // After the lock: the host may take its time.
            drop(closed);
        }
    }

    /// Takes a descriptor that was opened anew, unless another thread was faster.
    pub(crate) fn reopened(&self, fd: OwnedFd, ticket: Option<Ticket>) -> Answer<Arc<MountFd>> {
        self.touch();
        let mut state = self.state.write();
        match &*state {
            MountState::Open(fd) => Ok(Arc::clone(fd)),
            MountState::Closed => {
                let fd = Arc::new(MountFd::new(fd, ticket));
                *state = MountState::Open(Arc::clone(&fd));
                Ok(fd)
            }
            MountState::Refused(_) | MountState::Unopenable | MountState::Gone => Err(Errno::ESTALE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passthrough::resolve;

    #[test]
    fn mount_with_a_used_number_is_known_by_its_root() {
        let made = || {
            let folder = tempfile::tempdir().unwrap();
            let fd = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
            let stat = resolve::stat(fd.as_fd()).unwrap();
            (fd, stat)
        };
        let (first, stat) = made();
        // The clock of birth times is coarse.
        let (second, other) = std::iter::repeat_with(made)
            .find(|(_, other)| other.birth().is_none() || other.birth() != stat.birth())
            .unwrap();
        for handles in [true, false] {
            let mut root = MountRoot::of(first.as_fd(), &stat, handles);
            root.id_lasts = false;
            assert!(root.is(first.as_fd(), &stat));
            assert!(!root.is(second.as_fd(), &other));
            // The next file system numbers its root alike.
            root.inode = other.inode();
            assert!(!root.is(second.as_fd(), &other), "handles: {handles}");
        }
    }

    #[test]
    fn descriptor_is_closed_when_nothing_holds_it_and_all_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let fd = || OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let stat = resolve::stat(fd().as_fd()).unwrap();
        let point = MountPoint { directory: NodeId::ROOT, name: c"a".into() };
        let state = MountState::Open(Arc::new(MountFd::new(fd(), None)));
        let access = MountAccess::new(MountRoot::of(fd().as_fd(), &stat, false), Some(point), state, true);
        let held = access.open().unwrap();
        assert!(!access.is_free());
        access.close();
        held.note_change();
        drop(held);
        assert!(access.is_free() && access.is_changed());
        access.close();
        assert!(!access.is_closed(), "what was changed is not durable");
        drop(access.take_changed().unwrap());
        access.close();
        assert!(access.is_closed() && access.take_changed().is_none());
        drop(access.reopened(fd(), None).unwrap());
        assert!(access.open().is_some() && !access.is_changed());
    }
}
