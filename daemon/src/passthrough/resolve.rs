//! From a directory and a name to a host inode, and what the host says of it. The only place where names meet the
//! host's name resolution.

use crate::file_id::DeviceId;
use pinhole_protocol::{Attr, Errno, Name, Statx, Timestamp};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::path::DecInt;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// Every resolution stays beneath its directory, follows no link of any kind.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// `STATX_MNT_ID_UNIQUE`: a mount id that no other mount ever gets (Linux 6.8). Older kernels do not see it.
const LASTING_MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What `statx` is asked for, always: identity, attributes and birth time.
const WANTED: StatxFlags =
    StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID).union(LASTING_MOUNT_ID);

/// What stands in /proc behind the last name of what has none any more.
pub(crate) const DELETED: &[u8] = b" (deleted)";

/// The guest's errno for a host error.
pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// The guest's errno for an error of `fsync(2)` and its relatives. Never ENOSYS (a filter on the host can give it):
/// to a guest that means success, now and without asking for ever after.
pub(crate) fn sync_errno(error: rustix::io::Errno) -> Errno {
    match errno(error) {
        Errno::ENOSYS => Errno::EIO,
        other => other,
    }
}

/// The guest's errno for a host error.
pub(crate) fn io_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// What tells one mount from another, as `statx(2)` says it. A mount of btrfs has a device for each subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountKey {
    /// The file system.
    pub(crate) device: DeviceId,
    /// The kernel's mount id: one that no other mount ever gets, where the kernel has such (Linux 6.8). 0 where the kernel
    /// tells none (before Linux 5.8).
    pub(crate) id: u64,
}

/// What the host says of an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat(rustix::fs::Statx);

/// Opens a component beneath a directory.
pub(crate) fn open_beneath(
    directory: BorrowedFd<'_>,
    name: Name<'_>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(directory, name.as_c_str(), flags, mode, BENEATH).map_err(errno)
}

/// Finds a component beneath a directory, without opening what it names.
pub(crate) fn find_beneath(directory: BorrowedFd<'_>, name: Name<'_>) -> Result<OwnedFd, Errno> {
    open_beneath(directory, name, OFlags::PATH, Mode::empty())
}

/// What stands now where a removed directory was, beneath `root`: the host remembers the path of a removed directory.
///
/// # Errors
/// ENOENT where nothing stands there; others where it is no directory, or the path is not known.
pub(crate) fn successor_of(
    proc_fds: &ProcFds,
    root: BorrowedFd<'_>,
    removed: BorrowedFd<'_>,
) -> Result<OwnedFd, Errno> {
    let (root_path, path) = (proc_fds.path_of(root), proc_fds.path_of(removed));
    let below = root_path.as_deref().zip(path.as_deref()).and_then(|(root, path)| below(root, path));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, below.ok_or(Errno::EIO)?, flags, Mode::empty(), BENEATH).map_err(errno)
}

/// The way from the path of a directory to that of a removed one below it.
fn below<'p>(root: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    let path = path.strip_suffix(DELETED)?;
    // The root of a process is "/", which ends as other paths do not.
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root)?.strip_prefix(b"/").filter(|below| !below.is_empty())
}

/// Asks the host about a component of a directory, without opening what it names and without following a link.
pub(crate) fn stat_beneath(directory: BorrowedFd<'_>, name: Name<'_>) -> Result<Stat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name.as_c_str(), flags, WANTED).map(Stat).map_err(errno)
}

/// Asks the host about what a descriptor names.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(fd, c"", flags, WANTED).map(Stat).map_err(errno)
}

/// Only regular files and directories are ever opened for what is in them: opening a device, FIFO or socket could
/// block or act on the host.
pub(crate) const fn check_openable(kind: FileType) -> Result<(), Errno> {
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

/// `/proc/self/fd`, through which a descriptor is opened again with other rights. A number of our own is looked up
/// in it, never a name.
#[derive(Debug)]
pub(crate) struct ProcFds(OwnedFd);

impl ProcFds {
    /// From a descriptor of it.
    pub(crate) const fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens what one of our own descriptors names, once more.
    pub(crate) fn reopen_fd(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        // What names and does not open has no terminal to take, and openat2 says so.
        let flags = if flags.contains(OFlags::PATH) { flags } else { flags | OFlags::NOCTTY };
        // The link of the number is what is to be followed; there is nothing else to resolve.
        let resolve = ResolveFlags::empty();
        rustix::fs::openat2(&self.0, DecInt::from_fd(fd), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(errno)
    }

    /// A readable descriptor of a mount, if the file is of a kind that may be opened.
    pub(crate) fn open_for_sync(&self, fd: BorrowedFd<'_>) -> Option<Result<OwnedFd, Errno>> {
        let kind = stat(fd).ok()?.kind();
        check_openable(kind).is_ok().then(|| self.reopen_fd(fd, OFlags::RDONLY | OFlags::NONBLOCK))
    }

    /// Whether the name by which one of our own descriptors was opened is no name of its file any more, as far as the host
    /// tells. A file whose name ends like that is taken for one; so is one with a name that is too long to be told.
    pub(crate) fn may_have_lost_its_name(&self, fd: BorrowedFd<'_>) -> bool {
        self.path_of(fd).is_none_or(|path| path.ends_with(DELETED))
    }

    /// The name under which one of our own descriptors was opened or is now known, after the path to it.
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
    /// On which mount it is.
    pub(crate) const fn mount(&self) -> MountKey {
        MountKey { device: DeviceId::of_stat(&self.0), id: self.0.stx_mnt_id }
    }

    /// Whether no other mount ever gets the id of [`Stat::mount`].
    pub(crate) fn has_lasting_mount_id(&self) -> bool {
        StatxFlags::from_bits_retain(self.0.stx_mask).contains(LASTING_MOUNT_ID)
    }

    pub(crate) const fn inode(&self) -> u64 {
        self.0.stx_ino
    }

    /// Birth time in seconds and nanoseconds, where the file system keeps one.
    pub(crate) fn birth(&self) -> Option<(i64, u32)> {
        let told = StatxFlags::from_bits_retain(self.0.stx_mask).contains(StatxFlags::BTIME);
        told.then_some((self.0.stx_btime.tv_sec, self.0.stx_btime.tv_nsec))
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(u32::from(self.0.stx_mode))
    }

    /// Blocks of 512 bytes.
    pub(crate) const fn blocks(&self) -> u64 {
        self.0.stx_blocks
    }

    pub(crate) const fn is_deleted(&self) -> bool {
        self.0.stx_nlink == 0
    }

    pub(crate) const fn size(&self) -> u64 {
        self.0.stx_size
    }

    /// Tells a change of anything of it (data, names, owner: `ctime`) from another: the low bits of the time in nanoseconds,
    /// never zero.
    pub(crate) fn changed(&self) -> NonZero<u32> {
        let time = self.0.stx_ctime;
        let time = time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.into());
        u32::try_from(time & u64::from(u32::MAX)).ok().and_then(NonZero::new).unwrap_or(NonZero::<u32>::MIN)
    }

    /// When anything of it was changed last; `None` before 1970.
    pub(crate) fn changed_at(&self) -> Option<SystemTime> {
        let time = self.0.stx_ctime;
        let since = Duration::new(u64::try_from(time.tv_sec).ok()?, time.tv_nsec);
        SystemTime::UNIX_EPOCH.checked_add(since)
    }

    /// As a FUSE attribute reply says it.
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
            dax: false,
        }
    }

    /// As a FUSE statx reply says it.
    pub(crate) fn statx(&self) -> Statx {
        let stat = &self.0;
        // The mount id is the host's own business.
        let told = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        Statx {
            mask: stat.stx_mask & told.bits(),
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
    fn way_to_a_removed_directory_starts_at_the_root() {
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
