//! The host mounts that the guest has found.
//!
//! An inode handle needs the mount of its inode. SYNCFS covers all of these mounts. The mount also
//! determines which inode numbers the guest sees.

use crate::file_id::DeviceId;
use crate::filesystem::Answer;
use crate::passthrough::inodes::host_fs::{FileSystemId, Traits};
use crate::passthrough::inodes::inode_numbers::{InodeNumbers, Outside};
use crate::passthrough::inodes::mount_fd::{MountAccess, MountPoint, MountRoot, MountState};
use crate::passthrough::resolve::{MountKey, Stat, sync_errno};
use crate::sync::lock::{Mutex, RwLock};
use crate::sys::inode_handle::InodeHandle;
use rustix::fs::{FileType, OFlags};
use rustix::io::retry_on_intr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// One host mount, or one subvolume of it.
#[derive(Debug)]
pub(crate) struct Mount {
    /// The daemon's number for the mount. No other mount ever gets it.
    pub(crate) number: u32,
    pub(super) key: MountKey,
    pub(crate) access: Arc<MountAccess>,
    /// Mount id that `name_to_handle_at(2)` returns, if inode handles work here.
    handles: Option<u64>,
    pub(crate) traits: Traits,
    pub(crate) numbers: InodeNumbers,
}

impl Mount {
    /// Returns whether inodes of this mount are opened by inode handles.
    pub(crate) const fn has_handles(&self) -> bool {
        self.handles.is_some()
    }

    /// Returns whether inode handles with this mount id of `name_to_handle_at(2)` are of this
    /// mount.
    pub(super) fn has_handles_of(&self, id: u64) -> bool {
        self.handles == Some(id)
    }
}

/// A mount that a look-up has found.
#[derive(Debug)]
pub(super) struct FoundMount<'r> {
    /// An inode on the mount. It is the root if the mount is new.
    pub(super) inode: BorrowedFd<'r>,
    pub(super) stat: &'r Stat,
    /// Place of the inode, and device of the mount around it. `None` for the share itself.
    pub(super) place: Option<(MountPoint, DeviceId)>,
}

#[derive(Debug, Default)]
struct Mounts {
    list: Vec<Arc<Mount>>,
    /// [`Mount::number`] of the next mount.
    next: u32,
}

impl Mounts {
    /// Returns the access that another subvolume of the same mount has. Before Linux 5.8, mounts
    /// have no id.
    fn access_of(&self, id: u64) -> Option<Arc<MountAccess>> {
        let sibling = self.list.iter().find(|mount| id != 0 && mount.key.id == id)?;
        Some(Arc::clone(&sibling.access))
    }

    fn find(&self, key: MountKey) -> Option<Arc<Mount>> {
        self.list.iter().find(|mount| mount.key == key).map(Arc::clone)
    }

    /// Returns the access of each mount once.
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
    /// Whether inode handles are on.
    handles: bool,
    /// Whether the guest may request durability.
    syncs: bool,
    /// Error of making a mount durable before its descriptor was closed. The next SYNCFS reports
    /// it. Locked while a mount is made durable.
    unreported: Mutex<Answer<()>>,
}

impl MountTable {
    pub(super) fn new(handles: bool, syncs: bool) -> Self {
        Self { mounts: RwLock::default(), handles, syncs, unreported: Mutex::new(Ok(())) }
    }

    /// Returns a known mount, unless another mount may have the same id by now.
    pub(super) fn find(&self, key: MountKey) -> Option<Arc<Mount>> {
        self.mounts
            .read()
            .find(key)
            .filter(|mount| mount.access.root.id_lasts || mount.access.stays() || !mount.access.is_closed())
    }

    /// Returns the mount of an inode. `open` opens a mount that is new, or may be another than
    /// before.
    ///
    /// # Errors
    /// The error of `open`.
    pub(super) fn get_or_add(
        &self,
        found: FoundMount<'_>,
        open: impl FnOnce() -> Answer<MountState>,
    ) -> Answer<Arc<Mount>> {
        let key = found.stat.mount();
        if let Some(known) = self.find(key) {
            return Ok(known);
        }
        self.drop_reused_id(&found);
        let (point, around) = found.place.unzip();
        let traits = Traits::of(found.inode);
        let sibling = self.mounts.read().access_of(key.id);
        let access = if let Some(access) = sibling {
            access
        } else {
            let state = open()?;
            let root = MountRoot::of(found.inode, found.stat, self.handles);
            // A remote file system is not made durable here: its server may not answer, and it
            // writes the data of a file when the file is closed.
            let makes_durable = self.syncs && !traits.in_memory && !traits.remote;
            Arc::new(MountAccess::new(root, point, state, makes_durable))
        };
        let open = access.open().filter(|_| self.handles && traits.lasting_handles && key.id != 0);
        let handles = open.and_then(|fd| handles_work((*fd).as_fd(), found.inode));
        let file_system = FileSystemId::of(found.inode, key.device);
        let is_directory = found.stat.kind() == FileType::Directory;
        let mut mounts = self.mounts.write();
        if let Some(known) = mounts.find(key) {
            return Ok(known);
        }
        // The first mount is that of the share.
        let share = mounts.list.first().map_or(key.device, |mount| mount.key.device);
        let outside = around.map(|around| Outside { around, share });
        let numbers = InodeNumbers::of(file_system, outside, is_directory);
        let mount = Arc::new(Mount { number: mounts.next, key, access, handles, traits, numbers });
        mounts.next = mounts.next.saturating_add(1);
        mounts.list.push(Arc::clone(&mount));
        Ok(mount)
    }

    /// Removes a mount whose id another mount has now, on kernels that reuse ids.
    fn drop_reused_id(&self, found: &FoundMount<'_>) {
        let id = found.stat.mount().id;
        let Some(access) = self.mounts.read().access_of(id).filter(|access| access.is_closed()) else {
            return;
        };
        if access.root.is(found.inode, found.stat) {
            return;
        }
        access.mark_gone();
        let mut mounts = self.mounts.write();
        mounts.list.retain(|mount| !Arc::ptr_eq(&mount.access, &access));
    }

    /// Makes every reached mount durable. Mounts without an open descriptor are durable already.
    ///
    /// # Errors
    /// The first error, after every mount was tried.
    pub(crate) fn sync(&self) -> Answer<()> {
        let mut outcome = Ok(());
        let accesses = self.mounts.read().accesses();
        for access in &accesses {
            // A mount that could not be opened is not durable.
            outcome = outcome.and(match access.open() {
                Some(fd) => retry_on_intr(|| rustix::fs::syncfs(fd.as_fd())).map_err(sync_errno),
                None => access.refused().map_or(Ok(()), Err),
            });
        }
        outcome.and(std::mem::replace(&mut *self.unreported.lock(), Ok(())))
    }

    /// Removes the mounts without nodes, except those with changes to be made durable.
    pub(super) fn remove_unused(&self) {
        drop(self.take_unused(|mount| !mount.access.is_changed()));
    }

    /// Removes the mounts without nodes after the guest is gone. The host makes changes durable
    /// later.
    pub(super) fn remove_all_unused(&self) {
        drop(self.take_unused(|_| true));
        // If a mount is being made durable now, the next guest gets its error.
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

    /// Closes the descriptors of mounts below the share that were not used since the last call, and
    /// removes the mounts without nodes. Changes are made durable first. `close` closes the other
    /// descriptors on these mounts. Returns whether any mount is still open.
    pub(super) fn close_idle(&self, close: impl FnOnce(&[Arc<MountAccess>])) -> bool {
        // Locked first, so that a SYNCFS waits for mounts that are no longer in the list.
        let mut unreported = self.unreported.lock();
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
}

/// Makes a changed mount durable before its descriptor is closed.
fn make_durable(access: &MountAccess) -> Answer<()> {
    access.take_changed().map_or(Ok(()), |fd| rustix::fs::syncfs(fd.as_fd()).map_err(sync_errno))
}

/// Checks whether an inode handle leads back to its inode. Returns the mount id of the handle. The
/// file system may have no handles, the process may lack CAP_DAC_READ_SEARCH, and a filter may
/// forbid the call.
fn handles_work(mount: BorrowedFd<'_>, inode: BorrowedFd<'_>) -> Option<u64> {
    let (handle, id) = InodeHandle::of(inode).ok()?;
    handle.open(mount, OFlags::PATH | OFlags::NOFOLLOW).ok().map(|_| id)
}
