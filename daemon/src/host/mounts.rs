//! The host mounts that the guest has reached: where each node's file handle is good, and what SYNCFS covers.

use super::inode_handle::InodeHandle;
use super::resolve::sync_errno;
use pinhole_protocol::Errno;
use rustix::fs::OFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// What tells one mount from another, as `statx(2)` says it. A mount of btrfs has a device for each subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountKey {
    /// Major and minor number of the file system.
    pub(crate) device: (u32, u32),
    /// The kernel's mount id; 0 where the kernel does not tell (before Linux 5.8).
    pub(crate) id: u64,
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
    /// power (`tests/tests/power_loss.rs`); of btrfs it is not true, nor of what lies over one.
    pub(crate) fsync_keeps_names: bool,
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
            lasting_handles: local,
        }
    }
}

/// A descriptor of a mount; one for all subvolumes that it shows.
type MountFd = Option<Result<Arc<OwnedFd>, Errno>>;

/// One host mount.
#[derive(Debug)]
pub(crate) struct Mount {
    /// Our own number for it, never given to another.
    pub(crate) number: u32,
    pub(crate) key: MountKey,
    /// Readable, as `syncfs(2)` and `open_by_handle_at(2)` want it, or why not. `None` where the mount is a
    /// bind-mounted device or socket, which has nothing of its own to sync.
    fd: MountFd,
    /// Whether file handles find inodes here.
    handles: bool,
    pub(crate) traits: Traits,
}

impl Mount {
    /// Whether inodes of this mount are found by file handles.
    pub(crate) const fn has_handles(&self) -> bool {
        self.handles
    }

    fn shares_fd(&self, other: &Self) -> bool {
        matches!((&self.fd, &other.fd), (Some(Ok(own)), Some(Ok(other))) if Arc::ptr_eq(own, other))
    }

    /// Opens an inode of this mount.
    ///
    /// # Errors
    /// ESTALE where the inode is no more.
    pub(crate) fn open(&self, handle: &InodeHandle, flags: OFlags) -> Result<OwnedFd, Errno> {
        let Some(Ok(fd)) = &self.fd else { return Err(Errno::ESTALE) };
        handle.open(fd.as_fd(), flags).map_err(|error| super::resolve::io_errno(&error))
    }
}

#[derive(Debug, Default)]
struct Mounts {
    list: Vec<Arc<Mount>>,
    /// The next one's number.
    next: u32,
}

impl Mounts {
    /// The descriptor of another subvolume of the same mount. Before Linux 5.8 mounts have no id.
    fn fd_of(&self, id: u64) -> Option<Arc<OwnedFd>> {
        let mut siblings = self.list.iter().filter(|mount| id != 0 && mount.key.id == id);
        siblings.find_map(|mount| match &mount.fd {
            Some(Ok(fd)) => Some(Arc::clone(fd)),
            Some(Err(_)) | None => None,
        })
    }

    fn find(&self, key: MountKey) -> Option<Arc<Mount>> {
        self.list.iter().find(|mount| mount.key == key).map(Arc::clone)
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
}

impl MountTable {
    pub(crate) fn new(handles: bool) -> Self {
        Self { mounts: RwLock::default(), handles }
    }

    /// The mount, if it was reached before.
    pub(crate) fn find(&self, key: MountKey) -> Option<Arc<Mount>> {
        read(&self.mounts).find(key)
    }

    /// The mount on which `inode` is, opened with `open` when it is first reached.
    pub(crate) fn reach(
        &self,
        key: MountKey,
        inode: BorrowedFd<'_>,
        open: impl FnOnce() -> Option<Result<OwnedFd, Errno>>,
    ) -> Arc<Mount> {
        if let Some(known) = self.find(key) {
            return known;
        }
        let sibling = read(&self.mounts).fd_of(key.id);
        let fd = sibling.map_or_else(|| open().map(|opened| opened.map(Arc::new)), |fd| Some(Ok(fd)));
        let (handles, traits) = match &fd {
            Some(Ok(fd)) => {
                let traits = Traits::of(fd.as_fd());
                let wanted = self.handles && traits.lasting_handles;
                (wanted && handles_work(fd.as_fd(), inode, key.id), traits)
            }
            Some(Err(_)) | None => (false, Traits::default()),
        };
        let mut mounts = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = mounts.find(key) {
            return known;
        }
        let mount = Arc::new(Mount { number: mounts.next, key, fd, handles, traits });
        mounts.next = mounts.next.saturating_add(1);
        mounts.list.push(Arc::clone(&mount));
        mount
    }

    /// Makes every reached mount durable, then lets go of those that no node lives on.
    ///
    /// # Errors
    /// The first error, after all were tried.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        let mut outcome = Ok(());
        let reached = read(&self.mounts).list.clone();
        for (at, mount) in reached.iter().enumerate() {
            if reached.iter().take(at).any(|earlier| earlier.shares_fd(mount)) {
                continue;
            }
            // A mount that could not be opened is not durable, and the guest must not believe so.
            outcome = outcome.and(match &mount.fd {
                Some(Ok(fd)) => rustix::fs::syncfs(fd).map_err(sync_errno),
                Some(Err(errno)) => Err(*errno),
                None => Ok(()),
            });
        }
        drop(reached);
        self.let_go();
        outcome
    }

    /// Lets go of the mounts that no node lives on.
    pub(crate) fn let_go(&self) {
        let mut mounts = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
        mounts.list.retain(|mount| Arc::strong_count(mount) > 1);
        mounts.list.shrink_to_fit();
    }
}

/// Tries whether a handle of `inode` leads back: the file system may have none, this process may lack
/// CAP_DAC_READ_SEARCH, a filter may forbid the call.
fn handles_work(mount: BorrowedFd<'_>, inode: BorrowedFd<'_>, id: u64) -> bool {
    let tried = InodeHandle::of(inode)
        .and_then(|(handle, seen)| handle.open(mount, OFlags::PATH | OFlags::NOFOLLOW).map(|_| seen));
    tried.is_ok_and(|seen| seen == id)
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
