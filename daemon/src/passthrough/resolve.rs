//! Finds inodes of the host by a directory and a name, and reads their attributes. No other file
//! resolves names of the guest.

use crate::file_id::DeviceId;
use crate::filesystem::Answer;
use pinhole_protocol::{Attr, Errno, Name, Statx, Timestamp};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::path::DecInt;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// Every resolution stays beneath its directory and follows no link.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// `STATX_MNT_ID_UNIQUE`: a mount id that no other mount ever gets (Linux 6.8). Older kernels
/// ignore it.
const LASTING_MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Every `statx` asks for ids, attributes and birth time.
const WANTED: StatxFlags =
    StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID).union(LASTING_MOUNT_ID);

/// Ending of the path that /proc shows for an inode that has lost its name.
pub(crate) const DELETED: &[u8] = b" (deleted)";

/// Returns the guest's errno for an error of the host.
pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// Returns the guest's errno for an error of `fsync(2)` or a similar call. It is never ENOSYS,
/// which a filter on the host can cause: a guest treats ENOSYS as success, and never sends the
/// request again.
pub(crate) fn sync_errno(error: rustix::io::Errno) -> Errno {
    match errno(error) {
        Errno::ENOSYS => Errno::EIO,
        other => other,
    }
}

/// Returns the guest's errno for an error of the host.
pub(crate) fn io_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Identifies a mount by the ids of `statx(2)`. A mount of btrfs has a device for each subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountKey {
    /// The file system.
    pub(crate) device: DeviceId,
    /// Mount id of the kernel. From Linux 6.8 on, no other mount ever gets it. It is 0 before Linux
    /// 5.8.
    pub(crate) id: u64,
}

/// Attributes of an inode on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat(rustix::fs::Statx);

/// Opens a component beneath a directory.
pub(crate) fn open_beneath(
    directory: BorrowedFd<'_>,
    name: Name<'_>,
    flags: OFlags,
    mode: Mode,
) -> Answer<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(directory, name.as_c_str(), flags, mode, BENEATH).map_err(errno)
}

/// Opens a component beneath a directory with O_PATH.
pub(crate) fn find_beneath(directory: BorrowedFd<'_>, name: Name<'_>) -> Answer<OwnedFd> {
    open_beneath(directory, name, OFlags::PATH, Mode::empty())
}

/// Opens the directory that has the path of a removed directory now, beneath `root`. The host
/// remembers the path of a removed directory.
///
/// # Errors
/// ENOENT if nothing has that path. Another errno if the file with that path is not a directory, or
/// the path is unknown.
pub(crate) fn successor_of(
    proc_fds: &ProcFds,
    root: BorrowedFd<'_>,
    removed: BorrowedFd<'_>,
) -> Answer<OwnedFd> {
    let (root_path, path) = (proc_fds.path_of(root), proc_fds.path_of(removed));
    let below = root_path.as_deref().zip(path.as_deref()).and_then(|(root, path)| below(root, path));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, below.ok_or(Errno::EIO)?, flags, Mode::empty(), BENEATH).map_err(errno)
}

/// Returns the path of a removed directory, relative to a directory above it.
fn below<'p>(root: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    let path = path.strip_suffix(DELETED)?;
    // The path of a process's root is "/". No other path ends in "/".
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root)?.strip_prefix(b"/").filter(|below| !below.is_empty())
}

/// Returns the attributes of a component of a directory. It opens nothing and follows no link.
pub(crate) fn stat_beneath(directory: BorrowedFd<'_>, name: Name<'_>) -> Answer<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name.as_c_str(), flags, WANTED).map(Stat).map_err(errno)
}

/// Returns the attributes of the inode of a descriptor.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> Answer<Stat> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(fd, c"", flags, WANTED).map(Stat).map_err(errno)
}

/// Checks that an inode may be opened for its content: only regular files and directories. To open
/// a device, FIFO or socket could block, or have an effect on the host.
pub(crate) const fn check_openable(kind: FileType) -> Answer<()> {
    match kind {
        FileType::RegularFile | FileType::Directory => Ok(()),
        FileType::Symlink => Err(Errno::ELOOP),
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(Errno::ENXIO),
    }
}

/// `/proc/self/fd`, through which a descriptor is opened again with other rights. Only numbers of
/// the daemon's own descriptors are looked up in it.
#[derive(Debug)]
pub(crate) struct ProcFds(OwnedFd);

impl ProcFds {
    /// Takes a descriptor of `/proc/self/fd`.
    pub(crate) const fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the inode of a descriptor again.
    pub(crate) fn reopen_fd(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Answer<OwnedFd> {
        // openat2 refuses O_NOCTTY with O_PATH.
        let flags = if flags.contains(OFlags::PATH) { flags } else { flags | OFlags::NOCTTY };
        // The link of the number must be followed. There is nothing else to resolve.
        let resolve = ResolveFlags::empty();
        rustix::fs::openat2(&self.0, DecInt::from_fd(fd), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(errno)
    }

    /// Opens a readable descriptor of a mount. Returns `None` if its root must not be opened.
    pub(crate) fn open_for_sync(&self, fd: BorrowedFd<'_>) -> Option<Answer<OwnedFd>> {
        let kind = stat(fd).ok()?.kind();
        check_openable(kind).is_ok().then(|| self.reopen_fd(fd, OFlags::RDONLY | OFlags::NONBLOCK))
    }

    /// Returns whether the name by which a descriptor was opened may have been removed. It also
    /// returns true for a name that ends in " (deleted)", and for a path that is too long for the
    /// host to return.
    pub(crate) fn may_have_lost_its_name(&self, fd: BorrowedFd<'_>) -> bool {
        self.path_of(fd).is_none_or(|path| path.ends_with(DELETED))
    }

    /// Returns the path by which a descriptor was opened, or its present path.
    pub(crate) fn path_of(&self, fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
        let path = rustix::fs::readlinkat(&self.0, DecInt::from_fd(fd), Vec::new()).ok()?;
        Some(path.into_bytes())
    }
}

impl AsFd for ProcFds {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Stat {
    /// Returns the mount of the inode.
    pub(crate) const fn mount(&self) -> MountKey {
        MountKey { device: DeviceId::of_stat(&self.0), id: self.0.stx_mnt_id }
    }

    /// Returns whether no other mount ever gets the id of [`Stat::mount`].
    pub(crate) fn has_lasting_mount_id(&self) -> bool {
        StatxFlags::from_bits_retain(self.0.stx_mask).contains(LASTING_MOUNT_ID)
    }

    pub(crate) const fn inode(&self) -> u64 {
        self.0.stx_ino
    }

    /// Returns the birth time in seconds and nanoseconds, if the file system has one.
    pub(crate) fn birth(&self) -> Option<(i64, u32)> {
        let has_birth = StatxFlags::from_bits_retain(self.0.stx_mask).contains(StatxFlags::BTIME);
        has_birth.then_some((self.0.stx_btime.tv_sec, self.0.stx_btime.tv_nsec))
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(u32::from(self.0.stx_mode))
    }

    /// Returns the number of blocks of 512 bytes.
    pub(crate) const fn blocks(&self) -> u64 {
        self.0.stx_blocks
    }

    pub(crate) const fn is_deleted(&self) -> bool {
        self.0.stx_nlink == 0
    }

    pub(crate) const fn size(&self) -> u64 {
        self.0.stx_size
    }

    /// Returns a mark of the last change of data, names or attributes (`ctime`): the low bits of
    /// the time in nanoseconds. It is never 0.
    pub(crate) fn changed(&self) -> NonZero<u32> {
        let time = self.0.stx_ctime;
        let time = time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.into());
        u32::try_from(time & u64::from(u32::MAX)).ok().and_then(NonZero::new).unwrap_or(NonZero::<u32>::MIN)
    }

    /// Returns the time of the last change of data, names or attributes. It is `None` before 1970.
    pub(crate) fn changed_at(&self) -> Option<SystemTime> {
        let time = self.0.stx_ctime;
        let since = Duration::new(u64::try_from(time.tv_sec).ok()?, time.tv_nsec);
        SystemTime::UNIX_EPOCH.checked_add(since)
    }

    /// Returns the attributes for a FUSE reply.
    pub(crate) fn attr(&self) -> Attr {
        let stat = &self.0;
        Attr {
            ino: stat.stx_ino,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: timestamp(stat.stx_atime),
            mtime: timestamp(stat.stx_mtime),
            ctime: timestamp(stat.stx_ctime),
            mode: u32::from(stat.stx_mode),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: DeviceId { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor }.pack(),
            blksize: stat.stx_blksize,
            submount: false,
            dax: true,
        }
    }

    /// Returns the attributes for a reply to STATX.
    pub(crate) fn statx(&self) -> Statx {
        let stat = &self.0;
        // A guest does not learn mount ids of the host.
        let visible = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        Statx {
            mask: stat.stx_mask & visible.bits(),
            blksize: stat.stx_blksize,
            attributes: stat.stx_attributes.bits(),
            attributes_mask: stat.stx_attributes_mask.bits(),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mode: stat.stx_mode,
            ino: stat.stx_ino,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: timestamp(stat.stx_atime),
            btime: timestamp(stat.stx_btime),
            ctime: timestamp(stat.stx_ctime),
            mtime: timestamp(stat.stx_mtime),
            rdev_major: stat.stx_rdev_major,
            rdev_minor: stat.stx_rdev_minor,
            dev_major: stat.stx_dev_major,
            dev_minor: stat.stx_dev_minor,
        }
    }
}

const fn timestamp(time: rustix::fs::StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_a_removed_directory_is_relative_to_the_root() {
        let below = |root: &str, path: &'static str| below(root.as_bytes(), path.as_bytes());
        assert_eq!(below("/", "/a/b (deleted)"), Some(&b"a/b"[..]));
        assert_eq!(below("/share", "/share/a (deleted)"), Some(&b"a"[..]));
        for (root, path) in [
            ("/share", "/shared/a (deleted)"),
            ("/share", "/other/a (deleted)"),
            ("/share", "/share (deleted)"),
            ("/share", "/share/a"),
            ("/", "/ (deleted)"),
            ("/", "(unreachable)/a (deleted)"),
        ] {
            assert_eq!(below(root, path), None, "{root} {path}");
        }
    }
}
