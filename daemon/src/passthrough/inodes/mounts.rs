//! The host mounts that the guest has reached: where each node's file handle is good, what SYNCFS covers, and which inode
//! numbers the guest is told.

use crate::filesystem::Answer;
use crate::passthrough::inodes::inode_handle::InodeHandle;
use crate::passthrough::inodes::inode_numbers::{InodeNumbers, Outside};
use crate::passthrough::inodes::mount_fd::{MountAccess, MountFd, MountPoint, MountRoot, State};
use crate::passthrough::resolve::{Stat, sync_errno};
use pinhole_protocol::Errno;
use rustix::fs::{FileType, OFlags};
use rustix::io::retry_on_intr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// What tells one mount from another, as `statx(2)` says it. A mount of btrfs has a device for each subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountKey {
    /// Major and minor number of the file system.
    pub(crate) device: (u32, u32),
    /// The kernel's mount id: one that no other mount ever gets, where the kernel has such (Linux 6.8). 0 where the kernel
    /// tells none (before Linux 5.8).
    pub(crate) id: u64,
}

/// Tells a file system from all others that are mounted now, and, where it has an id of its own, from those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystemId {
    pub(crate) device: (u32, u32),
    /// `f_fsid` of `statfs(2)`; 0 where it has none.
    pub(crate) id: u64,
}

impl FileSystemId {
    /// Of any descriptor on it.
    pub(crate) fn of(fd: BorrowedFd<'_>, device: (u32, u32)) -> Self {
        Self { device, id: rustix::fs::fstatvfs(fd).map_or(0, |figures| figures.f_fsid) }
    }
}

/// What is known of a file system by its kind. Where the kind is not known, nothing is taken for granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Its data is in memory: reading never waits for a disk.
    pub(crate) in_memory: bool,
    /// Closing a descriptor does nothing but that: the file system has no `flush` operation.
    pub(crate) closes_silently: bool,
    /// Somebody else has to answer for it, and may not.
    pub(crate) remote: bool,
    /// An inode keeps its number when the host forgets and reads it again.
    pub(crate) stable_numbers: bool,
    /// A name finds files of other names too: in another letter case, in a short form, without a dot at its end. Where it
    /// is only some directories that do so, or a server, the kind does not tell.
    pub(crate) folds_names: bool,
    /// What makes a file durable makes each of its names durable, whichever it was opened by. Seen on a disk that loses its
    /// power (`tests/tests/durability/power_loss.rs`); of btrfs it is not true, nor of what lies over one.
    pub(crate) fsync_keeps_names: bool,
    /// An inode that was removed has no links. Not on overlayfs, where a directory's links are those of one layer.
    pub(crate) counts_links: bool,
    /// A file handle leads to its inode also when the host has forgotten that; on others (FUSE, FAT) only as long as
    /// the host has it in memory.
    lasting_handles: bool,
}

impl Traits {
    /// By the kinds of `statfs(2)` (`linux/magic.h`).
    fn of(mount: BorrowedFd<'_>) -> Self {
        Self::of_kind(rustix::fs::fstatfs(mount).map_or(0, |figures| figures.f_type))
    }

    fn of_kind(kind: i64) -> Self {
        const TMPFS: i64 = 0x0102_1994;
        const RAMFS: i64 = 0x8584_58f6;
        const EXT: i64 = 0xef53;
        const XFS: i64 = 0x5846_5342;
        const BTRFS: i64 = 0x9123_683e;
        const NFS: i64 = 0x6969;
        const CIFS: i64 = 0xff53_4d42;
        const SMB2: i64 = 0xfe53_4d42;
        const CEPH: i64 = 0x00c3_6400;
        const V9FS: i64 = 0x0102_1997;
        const FUSE: i64 = 0x6573_5546;
        const F2FS: i64 = 0xf2f5_2010;
        const ZFS: i64 = 0x2fc1_2fc1;
        const BCACHEFS: i64 = 0xca45_1a4e;
        const OVERLAYFS: i64 = 0x794c_7630;
        const SMB: i64 = 0x517b;
        const FAT: i64 = 0x4d44;
        const EXFAT: i64 = 0x2011_bab0;
        const NTFS: i64 = 0x5346_544e;
        const NTFS3: i64 = 0x7366_746e;
        const HFS: i64 = 0x4244;
        const HFS_PLUS: i64 = 0x482b;
        const HPFS: i64 = 0xf995_e849;
        const ISO9660: i64 = 0x9660;
        const AFFS: i64 = 0xadff;
        const ADFS: i64 = 0xadf5;
        let in_memory = matches!(kind, TMPFS | RAMFS);
        let local = in_memory || matches!(kind, EXT | XFS | BTRFS | F2FS | ZFS | BCACHEFS | OVERLAYFS);
        Self {
            in_memory,
            closes_silently: in_memory || matches!(kind, EXT | XFS | BTRFS),
            folds_names: matches!(
                kind,
                CIFS | SMB2
                    | SMB
                    | FAT
                    | EXFAT
                    | NTFS
                    | NTFS3
                    | HFS
                    | HFS_PLUS
                    | HPFS
                    | ISO9660
                    | AFFS
                    | ADFS
            ),
            remote: matches!(kind, NFS | CIFS | SMB2 | CEPH | V9FS | FUSE),
            fsync_keeps_names: in_memory || matches!(kind, EXT | XFS),
            stable_numbers: local || matches!(kind, NFS | CEPH),
            counts_links: local && kind != OVERLAYFS,
            lasting_handles: local,
        }
    }
}

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
pub(crate) struct Reached<'r> {
    /// Of an inode on it: of its root, where it is reached for the first time.
    pub(crate) inode: BorrowedFd<'r>,
    pub(crate) stat: &'r Stat,
    /// Where that stands, and the device of the mount around it. `None`: it is the share itself.
    pub(crate) place: Option<(MountPoint, (u32, u32))>,
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

fn read(mounts: &RwLock<Mounts>) -> RwLockReadGuard<'_, Mounts> {
    mounts.read().unwrap_or_else(PoisonError::into_inner)
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
    unsaid: Mutex<Answer<()>>,
}

impl MountTable {
    pub(crate) fn new(handles: bool, syncs: bool) -> Self {
        Self { mounts: RwLock::default(), handles, syncs, unsaid: Mutex::new(Ok(())) }
    }

    /// The mount, if it was reached before. One whose number may have been given to another mount meanwhile has to be
    /// reached again.
    pub(crate) fn find(&self, key: MountKey) -> Option<Arc<Mount>> {
        read(&self.mounts)
            .find(key)
            .filter(|mount| mount.access.root.id_lasts || mount.access.stays() || !mount.access.is_closed())
    }

    /// The mount on which an inode is, opened with `open` when it is first reached, or for the first time since it was
    /// closed for not being used.
    ///
    /// # Errors
    /// That of `open`, where it is no error of opening.
    pub(crate) fn reach(
        &self,
        reached: Reached<'_>,
        open: impl FnOnce() -> Answer<Option<Result<MountFd, Errno>>>,
    ) -> Answer<Arc<Mount>> {
        let key = reached.stat.mount();
        if let Some(known) = self.find(key) {
            return Ok(known);
        }
        self.lose_what_had_this_number(&reached);
        let traits = Traits::of(reached.inode);
        let sibling = read(&self.mounts).access_of(key.id);
        let access = if let Some(access) = sibling {
            access
        } else {
            let state = match open()? {
                Some(Ok(fd)) => State::Open(Arc::new(fd)),
                Some(Err(errno)) => State::Refused(errno),
                None => State::Unopenable,
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
        let mut mounts = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
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
    fn lose_what_had_this_number(&self, reached: &Reached<'_>) {
        let id = reached.stat.mount().id;
        let Some(access) = read(&self.mounts).access_of(id).filter(|access| access.is_closed()) else {
            return;
        };
        if access.root.is(reached.inode, reached.stat) {
            return;
        }
        access.lose();
        let mut mounts = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
        mounts.list.retain(|mount| !Arc::ptr_eq(&mount.access, &access));
    }

    /// Makes every reached mount durable. Those whose descriptor is closed have been since they were changed.
    ///
    /// # Errors
    /// The first error, after all were tried.
    pub(crate) fn sync(&self) -> Answer<()> {
        let mut outcome = Ok(());
        let reached = read(&self.mounts).accesses();
        for access in &reached {
            // A mount that could not be opened is not durable, and the guest must not believe so.
            outcome = outcome.and(match access.open() {
                Some(fd) => retry_on_intr(|| rustix::fs::syncfs(fd.as_fd())).map_err(sync_errno),
                None => access.refused().map_or(Ok(()), Err),
            });
        }
        outcome.and(std::mem::replace(&mut *self.unsaid(), Ok(())))
    }

    /// Lets go of the mounts that no node lives on, but not of those that have to be made durable first.
    pub(crate) fn let_go(&self) {
        drop(self.take_unused(|mount| !mount.access.is_changed()));
    }

    /// The same for a guest that is gone: what it wrote is made durable in the host's own time.
    pub(crate) fn let_go_of_all(&self) {
        drop(self.take_unused(|_| true));
        // Where a mount is being made durable, its error comes to a guest that did not ask for it.
        if let Ok(mut unsaid) = self.unsaid.try_lock() {
            *unsaid = Ok(());
        }
    }

    fn take_unused(&self, may_go: impl Fn(&Mount) -> bool) -> Vec<Arc<Mount>> {
        let mut mounts = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
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
        let mut unsaid = self.unsaid();
        for mount in self.take_unused(|mount| !mount.access.stays()) {
            *unsaid = unsaid.and(make_durable(&mount.access));
        }
        let below = read(&self.mounts).accesses().into_iter().filter(|access| !access.stays());
        let below: Vec<_> = below.collect();
        let idle: Vec<_> = below.iter().filter(|access| !access.take_used()).map(Arc::clone).collect();
        close(&idle);
        for access in idle.iter().filter(|access| access.is_free()) {
            *unsaid = unsaid.and(make_durable(access));
            access.close();
        }
        below.iter().any(|access| access.open().is_some())
    }

    // A panic while the lock is held breaks nothing: it is one value.
    fn unsaid(&self) -> MutexGuard<'_, Answer<()>> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_folds_names_is_known_by_its_kind() {
        // vfat, exfat, ntfs3, cifs, smb2, hfsplus, iso9660 of `linux/magic.h` and the file systems' own sources.
        for kind in [0x4d44, 0x2011_bab0, 0x7366_746e, 0xff53_4d42, 0xfe53_4d42, 0x482b, 0x9660] {
            assert!(Traits::of_kind(kind).folds_names, "{kind:#x}");
        }
        // ext4, XFS, btrfs, tmpfs, overlayfs, NFS, and what nobody knows.
        for kind in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x6969, 0] {
            assert!(!Traits::of_kind(kind).folds_names, "{kind:#x}");
        }
    }
}
