//! The id of a file system of the host, and the properties of its kind.

use crate::file_id::DeviceId;
use std::os::fd::BorrowedFd;

/// Identifies a file system. The device number is unique among the file systems that are mounted
/// now. If the file system has an id, the pair also differs from file systems that are mounted
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSystemId {
    pub(super) device: DeviceId,
    /// `f_fsid` of `statfs(2)`; 0 if it has none.
    pub(super) id: u64,
}

impl FileSystemId {
    /// Reads the id by any descriptor on the file system.
    pub(super) fn of(fd: BorrowedFd<'_>, device: DeviceId) -> Self {
        Self { device, id: rustix::fs::fstatvfs(fd).map_or(0, |figures| figures.f_fsid) }
    }
}

/// Properties of a file system that follow from its kind. An unknown kind has none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// The data is in memory, so reading never waits for a disk.
    pub(crate) in_memory: bool,
    /// Closing a descriptor has no other effect: the file system has no `flush` operation.
    pub(crate) closes_silently: bool,
    /// A server or another process has to answer, and may never do so.
    pub(crate) remote: bool,
    /// An inode keeps its number when the host forgets and reads it again.
    pub(super) stable_numbers: bool,
    /// A look-up of a name may find a file with another name: in another letter case, in a short
    /// form, or with a dot at its end. `false` if only some directories, or only a server, do this.
    pub(super) folds_names: bool,
    /// An fsync of a file makes all of its names durable, whichever name it was opened by. Tested
    /// on a disk that loses power (`tests/tests/durability/power_loss.rs`). It is false for btrfs,
    /// and for overlayfs, which may have its files on btrfs.
    pub(crate) fsync_keeps_names: bool,
    /// A removed inode has no links. It is false for overlayfs, which counts a directory's links in
    /// one layer.
    pub(super) counts_links: bool,
    /// The host can open an inode by its inode handle even after it has dropped the inode from
    /// memory. Some file systems, such as FUSE and FAT, cannot.
    pub(super) lasting_handles: bool,
}

impl Traits {
    /// Reads the kind with `statfs(2)`; see `linux/magic.h`.
    pub(super) fn of(mount: BorrowedFd<'_>) -> Self {
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
        const FOLDING: [i64; 13] =
            [CIFS, SMB2, SMB, FAT, EXFAT, NTFS, NTFS3, HFS, HFS_PLUS, HPFS, ISO9660, AFFS, ADFS];
        let in_memory = matches!(kind, TMPFS | RAMFS);
        let local = in_memory || matches!(kind, EXT | XFS | BTRFS | F2FS | ZFS | BCACHEFS | OVERLAYFS);
        Self {
            in_memory,
            closes_silently: in_memory || matches!(kind, EXT | XFS | BTRFS),
            folds_names: FOLDING.contains(&kind),
            remote: matches!(kind, NFS | CIFS | SMB2 | CEPH | V9FS | FUSE),
            fsync_keeps_names: in_memory || matches!(kind, EXT | XFS),
            stable_numbers: local || matches!(kind, NFS | CEPH),
            counts_links: local && kind != OVERLAYFS,
            lasting_handles: local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_fold_names() {
        // vfat, exfat, ntfs3, cifs, smb2, hfsplus, iso9660 of `linux/magic.h` and the file systems'
        // own sources.
        for kind in [0x4d44, 0x2011_bab0, 0x7366_746e, 0xff53_4d42, 0xfe53_4d42, 0x482b, 0x9660] {
            assert!(Traits::of_kind(kind).folds_names, "{kind:#x}");
        }
        // ext4, XFS, btrfs, tmpfs, overlayfs, NFS, unknown.
        for kind in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x6969, 0] {
            assert!(!Traits::of_kind(kind).folds_names, "{kind:#x}");
        }
    }
}
