//! The descriptor of a mount, which `open_by_handle_at(2)` and `syncfs(2)` need.
//!
//! While it is open, the host cannot unmount. So the descriptor of a mount below the share is open
//! only while it is used. The mount is then found again by its mount point. It is the same mount if
//! it has the same unique mount id (Linux 6.8). On older kernels it must have the same mount id,
//! file system and root inode.

use crate::filesystem::Answer;
use crate::passthrough::inodes::host_fs::FileSystemId;
use crate::passthrough::resolve::{ProcFds, Stat};
use crate::sync::budget::Ticket;
use crate::sync::lock::RwLock;
use crate::sys::inode_handle::InodeHandle;
use pinhole_protocol::{Errno, Name, NodeId};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// A readable descriptor of a mount. It stays open while a request or an open file holds it.
#[derive(Debug)]
pub(crate) struct MountFd {
    fd: OwnedFd,
    /// The guest may have changed something since the mount was last made durable.
    changed: AtomicBool,
    _ticket: Option<Ticket>,
}

impl MountFd {
    pub(super) const fn new(fd: OwnedFd, ticket: Option<Ticket>) -> Self {
        Self { fd, changed: AtomicBool::new(false), _ticket: ticket }
    }

    /// Notes that something on the mount may be changed. A holder of the descriptor calls this
    /// before each change (see [`MountAccess::close`]).
    pub(crate) fn note_change(&self) {
        // Load first: a store each time would take the cache line from the other queue threads.
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

/// Last known place of a mount.
#[derive(Clone, Debug)]
pub(super) struct MountPoint {
    /// Directory on another mount that contains the name.
    pub(super) directory: NodeId,
    pub(super) name: Box<CStr>,
}

/// Facts that identify a mount by its root.
#[derive(Debug)]
pub(super) struct MountRoot {
    /// [`crate::passthrough::resolve::MountKey::id`].
    pub(super) id: u64,
    /// The kernel never gives this id to another mount.
    pub(super) id_lasts: bool,
    pub(super) file_system: FileSystemId,
    inode: u64,
    birth: Option<(i64, u32)>,
    /// Distinguishes the root inode from a later one with the same number. `None` if the file
    /// system has no handles, or they are off.
    handle: Option<InodeHandle>,
}

impl MountRoot {
    /// Reads the facts by a descriptor of the root. `handles` is true if inode handles are on.
    pub(super) fn of(root: BorrowedFd<'_>, stat: &Stat, handles: bool) -> Self {
        Self {
            id: stat.mount().id,
            id_lasts: stat.has_lasting_mount_id(),
            file_system: FileSystemId::of(root, stat.mount().device),
            inode: stat.inode(),
            birth: stat.birth(),
            handle: handles.then(|| InodeHandle::of(root).ok()).flatten().map(|(handle, _)| handle),
        }
    }

    /// Returns whether a descriptor is of the mount's root. This costs up to two system calls if
    /// another mount may have the same id.
    pub(super) fn is(&self, root: BorrowedFd<'_>, stat: &Stat) -> bool {
        let has_same_ids = self.id == stat.mount().id && self.inode == stat.inode();
        if self.id_lasts || !has_same_ids {
            return has_same_ids;
        }
        let found = Self::of(root, stat, self.handle.is_some());
        (self.file_system, self.birth, &self.handle) == (found.file_system, found.birth, &found.handle)
    }
}

/// The descriptor of a mount, or the reason why it is not open.
#[derive(Debug)]
pub(super) enum MountState {
    Open(Arc<MountFd>),
    /// Closed because it was not used.
    Closed,
    /// The host has refused to open it.
    Refused(Errno),
    /// The mount is a device or socket. It has nothing to sync and must not be opened.
    Unopenable,
    /// Another mount has the same id now.
    Gone,
}

impl MountState {
    /// Opens a mount by its root.
    pub(super) fn open(proc_fds: &ProcFds, root: BorrowedFd<'_>, ticket: Option<Ticket>) -> Self {
        match proc_fds.open_for_sync(root) {
            Some(Ok(fd)) => Self::Open(Arc::new(MountFd::new(fd, ticket))),
            Some(Err(errno)) => Self::Refused(errno),
            None => Self::Unopenable,
        }
    }

    const fn fd(&self) -> Option<&Arc<MountFd>> {
        if let Self::Open(fd) = self { Some(fd) } else { None }
    }
}

/// Access to a mount by its descriptor. All subvolumes of the mount share it.
#[derive(Debug)]
pub(crate) struct MountAccess {
    pub(super) root: MountRoot,
    /// Each change is one store, which a panic cannot interrupt.
    state: RwLock<MountState>,
    /// The descriptor is always open: the mount is that of the share, or has no id (before Linux
    /// 5.8).
    stays: bool,
    /// The descriptor, if it is always open.
    pub(super) fixed: Option<Arc<MountFd>>,
    point: RwLock<Option<MountPoint>>,
    /// Changes are made durable before the descriptor is closed.
    makes_durable: bool,
    /// Used since [`MountAccess::take_used`].
    used: AtomicBool,
    /// The guest may have mapped a file writable. Such changes come without a request.
    mapped: AtomicBool,
}

impl MountAccess {
    pub(super) fn new(
        root: MountRoot,
        point: Option<MountPoint>,
        state: MountState,
        makes_durable: bool,
    ) -> Self {
        let stays = root.id == 0 || point.is_none();
        let fixed = state.fd().filter(|_| stays).map(Arc::clone);
        let (state, point) = (RwLock::new(state), RwLock::new(point));
        let (used, mapped) = (AtomicBool::new(true), AtomicBool::new(false));
        Self { root, state, stays, fixed, point, makes_durable, used, mapped }
    }

    /// Returns whether the descriptor is always open.
    pub(crate) const fn stays(&self) -> bool {
        self.stays
    }

    /// Returns the descriptor, if it is open.
    pub(super) fn open(&self) -> Option<Arc<MountFd>> {
        self.state.read().fd().map(Arc::clone)
    }

    /// Returns the error of the host, if it has refused to open the mount.
    pub(super) fn refused(&self) -> Option<Errno> {
        if let MountState::Refused(errno) = *self.state.read() { Some(errno) } else { None }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state.read(), MountState::Closed)
    }

    /// Notes that another mount has the same id now. Nothing is found on this one any more.
    pub(super) fn mark_gone(&self) {
        *self.state.write() = MountState::Gone;
    }

    /// Notes that the mount is in use.
    pub(super) fn touch(&self) {
        // Load first: a store each time would take the cache line from the other queue threads.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether the mount was used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Notes the mount point of the mount.
    pub(super) fn seen_at(&self, directory: NodeId, name: Name<'_>) {
        let is_there = |point: &MountPoint| point.directory == directory && *point.name == *name.as_c_str();
        if self.stays() || self.point.read().as_ref().is_some_and(is_there) {
            return;
        }
        let point = MountPoint { directory, name: name.as_c_str().into() };
        *self.point.write() = Some(point);
    }

    /// Returns the last known place of the mount.
    pub(super) fn point(&self) -> Option<MountPoint> {
        self.point.read().clone()
    }

    /// Returns whether the descriptor is open and neither a request nor an open file holds it.
    pub(super) fn is_free(&self) -> bool {
        let is_held = |fd: &Arc<MountFd>| Arc::strong_count(fd) > 1 || self.mapped.load(Ordering::Acquire);
        self.state.read().fd().is_some_and(|fd| !is_held(fd))
    }

    /// Notes that the guest maps a file writable. From now on the descriptor stays open.
    pub(super) fn note_mapping(&self) {
        self.mapped.store(true, Ordering::Release);
    }

    /// Returns the descriptor if changes have to be made durable. From now on these changes count
    /// as durable.
    pub(super) fn take_changed(&self) -> Option<Arc<MountFd>> {
        let fd = self.open().filter(|_| self.makes_durable)?;
        fd.changed.swap(false, Ordering::AcqRel).then_some(fd)
    }

    /// Returns whether changes have to be made durable before the descriptor is closed.
    pub(super) fn is_changed(&self) -> bool {
        self.state.read().fd().is_some_and(|fd| self.must_sync(fd))
    }

    fn must_sync(&self, fd: &MountFd) -> bool {
        self.makes_durable && fd.changed.load(Ordering::Acquire)
    }

    /// Closes the descriptor, if nothing holds it and all changes are durable. Only holders make
    /// changes. So a later change opens it again, and SYNCFS finds that change.
    pub(super) fn close(&self) {
        let mut state = self.state.write();
        let may_close = |fd: &Arc<MountFd>| {
            let is_free = Arc::strong_count(fd) == 1;
            // Makes the notes of former holders visible.
            fence(Ordering::Acquire);
            is_free && !self.must_sync(fd)
        };
        if state.fd().is_some_and(may_close) {
            let closed = std::mem::replace(&mut *state, MountState::Closed);
            drop(state);
            // Not under the lock: closing may wait for the host.
            drop(closed);
        }
    }

    /// Keeps a descriptor that was opened again, unless another thread was faster.
    ///
    /// # Errors
    /// ESTALE if the mount is gone.
    pub(super) fn reopened(&self, fd: OwnedFd, ticket: Option<Ticket>) -> Answer<Arc<MountFd>> {
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
    fn mount_with_a_reused_id_is_identified_by_its_root() {
        let make_directory = || {
            let folder = tempfile::tempdir().unwrap();
            let fd = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
            let stat = resolve::stat(fd.as_fd()).unwrap();
            (fd, stat)
        };
        let (first, stat) = make_directory();
        // The clock of birth times is coarse, so the first directories may have the same time.
        let (second, other) = std::iter::repeat_with(make_directory)
            .find(|(_, other)| other.birth().is_none() || other.birth() != stat.birth())
            .unwrap();
        for handles in [true, false] {
            let mut root = MountRoot::of(first.as_fd(), &stat, handles);
            root.id_lasts = false;
            assert!(root.is(first.as_fd(), &stat));
            assert!(!root.is(second.as_fd(), &other));
            // Another file system uses the same number for its root.
            root.inode = other.inode();
            assert!(!root.is(second.as_fd(), &other), "handles: {handles}");
        }
    }

    #[test]
    fn descriptor_is_closed_once_it_is_free_and_durable() {
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
        assert!(!access.is_closed(), "the change is not durable");
        drop(access.take_changed().unwrap());
        access.close();
        assert!(access.is_closed() && access.take_changed().is_none());
        drop(access.reopened(fd(), None).unwrap());
        assert!(access.open().is_some() && !access.is_changed());
    }
}
