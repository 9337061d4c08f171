//! Inode numbers as the guest sees them.
//!
//! A guest's kernel shows one device number for everything that it has not mounted itself. It
//! mounts a directory that is announced as a submount. It cannot mount a single file that the host
//! has mounted over another. So such a file may have the inode number of a file around it, which is
//! of another file system. Programs (`cp`, `diff`, `tar`) treat two files with the same device and
//! inode number as one file.
//!
//! Such a file gets a number from 2^63 on: a base that is computed from its file system's id, plus
//! its own number, modulo 2^63. A file system has the same base in each daemon, so the number
//! survives a restart. Two files of one file system never get the same number. Two files of two
//! file systems do with a probability of 2^-63. Numbers below 2^63 are those of the file system
//! around the file. ext4, XFS, btrfs and tmpfs use no others. A file system that does (overlayfs
//! with `xino`, some servers) has the number of such a file with a probability of 2^-63 for each
//! pair.

use crate::file_id::DeviceId;
use crate::passthrough::inodes::host_fs::FileSystemId;

/// Lowest number that the daemon computes.
const FIRST: u64 = 1 << 63;

/// Computes the numbers of the inodes of one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InodeNumbers {
    base: u64,
    /// The mount is a single file of another file system than the mount around it.
    is_foreign_file: bool,
    /// The mount is of another file system than the share.
    is_foreign_to_share: bool,
}

/// Devices of the file systems around a mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outside {
    /// Device of the directory that contains the mount point.
    pub(super) around: DeviceId,
    /// Device of the shared directory.
    pub(super) share: DeviceId,
}

impl InodeNumbers {
    /// Describes a mount. `outside` is `None` for the mount of the share.
    pub(super) fn of(file_system: FileSystemId, outside: Option<Outside>, is_directory: bool) -> Self {
        let own = file_system.device;
        Self {
            base: base(file_system),
            is_foreign_file: !is_directory && outside.is_some_and(|outside| outside.around != own),
            is_foreign_to_share: outside.is_some_and(|outside| outside.share != own),
        }
    }

    /// Returns the number of an inode. `announced` is true if the guest mounts submounts itself.
    pub(super) const fn guest_number(self, inode: u64, announced: bool) -> u64 {
        let is_foreign = if announced { self.is_foreign_file } else { self.is_foreign_to_share };
        if is_foreign { self.base.wrapping_add(inode) | FIRST } else { inode }
    }
}

/// Returns the base of a file system's numbers. The result must never change: numbers survive an
/// update of the daemon.
fn base(file_system: FileSystemId) -> u64 {
    let DeviceId { major, minor } = file_system.device;
    let device = u64::from(major) << 32 | u64::from(minor);
    mixed(mixed(device) ^ file_system.id)
}

/// Mixes bits one to one, so that each bit of the result depends on all of them. This is the
/// finalizer of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
/// Generators", 2014).
const fn mixed(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: DeviceId = device(8, 1);

    const fn device(major: u32, minor: u32) -> DeviceId {
        DeviceId { major, minor }
    }

    fn numbers(device: DeviceId, around: DeviceId, is_directory: bool) -> InodeNumbers {
        let outside = Some(Outside { around, share: SHARE });
        InodeNumbers::of(FileSystemId { device, id: 7 }, outside, is_directory)
    }

    #[test]
    fn only_files_among_those_of_another_file_system_are_renumbered() {
        let other = device(7, 0);
        for (device, around, is_directory, announced, renumbered) in [
            // A single file, in the share and in an announced submount.
            (other, SHARE, false, true, true),
            (other, other, false, true, false),
            (SHARE, other, false, true, true),
            // A directory has a device of its own where it is announced.
            (other, SHARE, true, true, false),
            (other, SHARE, true, false, true),
            // If nothing is announced, everything is among the share's files.
            (other, other, false, false, true),
            (SHARE, other, false, false, false),
            (SHARE, SHARE, false, false, false),
        ] {
            let shown = numbers(device, around, is_directory).guest_number(12, announced);
            assert_eq!(shown != 12, renumbered, "{device:?} in {around:?}, {is_directory}, {announced}");
            assert_eq!(shown >= FIRST, renumbered);
        }
    }

    #[test]
    fn files_of_one_file_system_never_share_a_number() {
        let numbers = numbers(device(7, 0), SHARE, false);
        let near_the_end = FIRST - (numbers.base & (FIRST - 1));
        for inode in [1, 2, near_the_end - 1, near_the_end, near_the_end + 1, FIRST - 1] {
            assert_ne!(numbers.guest_number(inode, true), numbers.guest_number(0, true), "{inode}");
            assert!(numbers.guest_number(inode, true) >= FIRST);
        }
    }

    #[test]
    fn file_systems_differ_by_device_and_by_id() {
        let shown = |device, id| {
            let outside = Some(Outside { around: SHARE, share: SHARE });
            InodeNumbers::of(FileSystemId { device, id }, outside, false).guest_number(12, true)
        };
        let all = [
            shown(device(7, 0), 1),
            shown(device(7, 1), 1),
            shown(device(0, 7), 1),
            shown(device(7, 0), 2),
            shown(device(7, 0), 0),
        ];
        for (at, number) in all.iter().enumerate() {
            assert!(!all[..at].contains(number), "{all:x?}");
        }
    }

    #[test]
    fn number_of_a_file_never_changes() {
        // An update of the daemon must not renumber what a guest knows.
        let outside = Some(Outside { around: SHARE, share: SHARE });
        let numbers =
            InodeNumbers::of(FileSystemId { device: device(7, 3), id: 0x1234_5678 }, outside, false);
        assert_eq!(numbers.guest_number(12, true), 0xafc2_6ff2_1709_ff26);
    }
}
