//! What is known of a file system of the host by its identity and kind.

use crate::file_id::DeviceId;
use std::os::fd::BorrowedFd;

/// Tells a file system from all others that are mounted now, and, where it has an id of its own, from those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystemId {
    pub(crate) device: DeviceId,
    /// `f_fsid` of `statfs(2)`; 0 where it has none.
    pub(crate) id: u64,
}

impl FileSystemId {
    /// Of any descriptor on it.
    pub(crate) fn of(fd: BorrowedFd<'_>, device: DeviceId) -> Self {
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
    pub(crate) lasting_handles: bool,
}

impl Traits {
    /// By the kinds of `statfs(2)` (`linux/magic.h`).
    pub(crate) fn of(mount: BorrowedFd<'_>) -> Self {
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
