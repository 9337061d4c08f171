//! The host mounts that the guest has reached: where each node's file handle is good, what SYNCFS covers, and which inode
//! numbers the guest is told.

use crate::file_id::DeviceId;
use crate::filesystem::Answer;
use crate::passthrough::inodes::host_fs::{FileSystemId, Traits};
use crate::passthrough::inodes::inode_numbers::{InodeNumbers, Outside};
use crate::passthrough::inodes::mount_fd::{MountAccess, MountFd, MountPoint, MountRoot, MountState};
use crate::passthrough::resolve::{MountKey, Stat, sync_errno};
use crate::sync::lock::{Mutex, MutexGuard, RwLock};
use crate::sys::inode_handle::InodeHandle;
use pinhole_protocol::Errno;
use rustix::fs::{FileType, OFlags};
use rustix::io::retry_on_intr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// One host mount, or one subvolume of it.
#[derive(Debug)]
pub(crate) struct Mount {
    /// Our own number for it, never given to another.
    pub(crate) number: u32,
    pub(crate) key: MountKey,
    pub(crate) access: Arc<MountAccess>,
    /// The mount id that `name_to_handle_at(2)` says, where file handles find inodes here.
    handles: Option<u64>,
    pub(crate) traits: Traits,
    pub(crate) numbers: InodeNumbers,
}

impl Mount {
    /// Whether inodes of this mount are found by file handles.
    pub(crate) const fn has_handles(&self) -> bool {
        self.handles.is_some()
    }

    /// Whether file handles are of this mount that `name_to_handle_at(2)` says to be on that one.
    pub(crate) fn has_handles_of(&self, id: u64) -> bool {
        self.handles == Some(id)
    }
}

/// A mount that is reached.
#[derive(Debug)]
pub(crate) struct FoundMount<'r> {
    /// Of an inode on it: of its root, where it is reached for the first time.
    pub(crate) inode: BorrowedFd<'r>,
    pub(crate) stat: &'r Stat,
    /// Where that stands, and the device of the mount around it. `None`: it is the share itself.
    pub(crate) place: Option<(MountPoint, DeviceId)>,
}

#[derive(Debug, Default)]
struct Mounts {
    list: Vec<Arc<Mount>>,
    /// The next one's number.
    next: u32,
}

impl Mounts {
    /// The descriptor of another subvolume of the same mount. Before Linux 5.8 mounts have no id.
    fn access_of(&self, id: u64) -> Option<Arc<MountAccess>> {
        let mut siblings = self.list.iter().filter(|mount| id != 0 && mount.key.id == id);
        siblings.next().map(|mount| Arc::clone(&mount.access))
    }

    fn find(&self, key: MountKey) -> Option<Arc<Mount>> {
        self.list.iter().find(|mount| mount.key == key).map(Arc::clone)
    }

    /// Of each mount its descriptor, once.
    fn accesses(&self) -> Vec<Arc<MountAccess>> {
        let mut accesses: Vec<Arc<MountAccess>> = Vec::new();
        for mount in &self.list {
            if !accesses.iter().any(|known| Arc::ptr_eq(known, &mount.access)) {
                accesses.push(Arc::clone(&mount.access));
            }
        }
        accesses
    }
}

/// The mounts that are in use.
#[derive(Debug)]
pub(crate) struct MountTable {
    mounts: RwLock<Mounts>,
    /// Whether file handles may be used at all.
    handles: bool,
    /// Whether the guest may ask for what it wrote to be durable.
    syncs: bool,
    /// The error of making a mount durable before its descriptor was closed; the next SYNCFS's. Locked while that happens.
    unreported: Mutex<Answer<()>>,
}

impl MountTable {
    pub(crate) fn new(handles: bool, syncs: bool) -> Self {
        Self { mounts: RwLock::default(), handles, syncs, unreported: Mutex::new(Ok(())) }
    }

    /// The mount, if it was reached before. One whose number may have been given to another mount meanwhile has to be
    /// reached again.
    pub(crate) fn find(&self, key: MountKey) -> Option<Arc<Mount>> {
        self.mounts
            .read()
            .find(key)
            .filter(|mount| mount.access.root.id_lasts || mount.access.stays() || !mount.access.is_closed())
    }

    /// The mount on which an inode is, opened with `open` when it is first reached, or for the first time since it was
    /// closed for not being used.
    ///
    /// # Errors
    /// That of `open`, where it is no error of opening.
    pub(crate) fn get_or_add(
        &self,
        reached: FoundMount<'_>,
        open: impl FnOnce() -> Answer<Option<Result<MountFd, Errno>>>,
    ) -> Answer<Arc<Mount>> {
        let key = reached.stat.mount();
        if let Some(known) = self.find(key) {
            return Ok(known);
        }
        self.drop_reused_id(&reached);
        let traits = Traits::of(reached.inode);
        let sibling = self.mounts.read().access_of(key.id);
        let access = if let Some(access) = sibling {
            access
        } else {
            let state = match open()? {
                Some(Ok(fd)) => MountState::Open(Arc::new(fd)),
                Some(Err(errno)) => MountState::Refused(errno),
                None => MountState::Unopenable,
            };
            let point = reached.place.as_ref().map(|(point, _)| point.clone());
            let root = MountRoot::of(reached.inode, reached.stat, self.handles);
            // Another server may not answer, and would be waited for; there, closing a file writes its data.
            let makes_durable = self.syncs && !traits.in_memory && !traits.remote;
            Arc::new(MountAccess::new(root, point, state, makes_durable))
        };
        let open = access.open().filter(|_| self.handles && traits.lasting_handles && key.id != 0);
        let handles = open.and_then(|fd| handles_work((*fd).as_fd(), reached.inode));
        let file_system = FileSystemId::of(reached.inode, key.device);
        let is_directory = reached.stat.kind() == FileType::Directory;
        let mut mounts = self.mounts.write();
        if let Some(known) = mounts.find(key) {
            return Ok(known);
        }
        // The first is the share's own.
        let share = mounts.list.first().map_or(key.device, |mount| mount.key.device);
        let outside = reached.place.map(|(_, around)| Outside { around, share });
        let numbers = InodeNumbers::of(file_system, outside, is_directory);
        let mount = Arc::new(Mount { number: mounts.next, key, access, handles, traits, numbers });
        mounts.next = mounts.next.saturating_add(1);
        mounts.list.push(Arc::clone(&mount));
        Ok(mount)
    }

    /// On kernels that give a number to one mount after the other.
    fn drop_reused_id(&self, reached: &FoundMount<'_>) {
        let id = reached.stat.mount().id;
        let Some(access) = self.mounts.read().access_of(id).filter(|access| access.is_closed()) else {
            return;
        };
        if access.root.is(reached.inode, reached.stat) {
            return;
        }
        access.mark_gone();
        let mut mounts = self.mounts.write();
        mounts.list.retain(|mount| !Arc::ptr_eq(&mount.access, &access));
    }

    /// Makes every reached mount durable. Those whose descriptor is closed have been since they were changed.
    ///
    /// # Errors
    /// The first error, after all were tried.
    pub(crate) fn sync(&self) -> Answer<()> {
        let mut outcome = Ok(());
        let reached = self.mounts.read().accesses();
        for access in &reached {
            // A mount that could not be opened is not durable, and the guest must not believe so.
            outcome = outcome.and(match access.open() {
                Some(fd) => retry_on_intr(|| rustix::fs::syncfs(fd.as_fd())).map_err(sync_errno),
                None => access.refused().map_or(Ok(()), Err),
            });
        }
        outcome.and(std::mem::replace(&mut *self.unreported(), Ok(())))
    }

    /// Lets go of the mounts that no node lives on, but not of those that have to be made durable first.
    pub(crate) fn remove_unused(&self) {
        drop(self.take_unused(|mount| !mount.access.is_changed()));
    }

    /// The same for a guest that is gone: what it wrote is made durable in the host's own time.
    pub(crate) fn remove_all_unused(&self) {
        drop(self.take_unused(|_| true));
        // Where a mount is being made durable, its error comes to a guest that did not ask for it.
        if let Some(mut unreported) = self.unreported.try_lock() {
            *unreported = Ok(());
        }
    }

    fn take_unused(&self, may_go: impl Fn(&Mount) -> bool) -> Vec<Arc<Mount>> {
        let mut mounts = self.mounts.write();
        let taken =
            mounts.list.extract_if(.., |mount| Arc::strong_count(mount) == 1 && may_go(mount)).collect();
        mounts.list.shrink_to_fit();
        taken
    }

    /// Closes the descriptors of mounts below the share that were not used since this was last called, and lets go of
    /// those that no node lives on; what was changed there is made durable first. `used`: what else is known to be used
    /// notes it. `close`: closes what else is open on them. Whether any is still open.
    pub(crate) fn close_idle(&self, close: impl FnOnce(&[Arc<MountAccess>])) -> bool {
        // A SYNCFS that does not find what is taken off the list waits for this.
        let mut unreported = self.unreported();
        for mount in self.take_unused(|mount| !mount.access.stays()) {
            *unreported = unreported.and(make_durable(&mount.access));
        }
        let below = self.mounts.read().accesses().into_iter().filter(|access| !access.stays());
        let below: Vec<_> = below.collect();
        let idle: Vec<_> = below.iter().filter(|access| !access.take_used()).map(Arc::clone).collect();
        close(&idle);
        for access in idle.iter().filter(|access| access.is_free()) {
            *unreported = unreported.and(make_durable(access));
            access.close();
        }
        below.iter().any(|access| access.open().is_some())
    }

    // A panic while the lock is held breaks nothing: it is one value.
    fn unreported(&self) -> MutexGuard<'_, Answer<()>> {
        self.unreported.lock()
    }
}

/// Makes a mount durable whose descriptor is to be closed, if it was changed.
fn make_durable(access: &MountAccess) -> Answer<()> {
    access.take_changed().map_or(Ok(()), |fd| rustix::fs::syncfs(fd.as_fd()).map_err(sync_errno))
}

/// Tries whether a handle of `inode` leads back: the file system may have none, this process may lack
/// CAP_DAC_READ_SEARCH, a filter may forbid the call. Then, which mount it says to be on.
fn handles_work(mount: BorrowedFd<'_>, inode: BorrowedFd<'_>) -> Option<u64> {
    let (handle, id) = InodeHandle::of(inode).ok()?;
    handle.open(mount, OFlags::PATH | OFlags::NOFOLLOW).ok().map(|_| id)
}
