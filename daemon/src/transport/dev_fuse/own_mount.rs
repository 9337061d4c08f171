//! The mount that root makes by itself, found again by the number that the kernel gave it.
//!
//! At the end the path may lead elsewhere: a process that may rename a directory above the mount
//! point can put another mount in its place. A descriptor of the mount cannot be kept either,
//! because it would keep other processes from unmounting it. So the number is kept, and the mount
//! is unmounted through a descriptor for which the kernel returns that number.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// `STATX_MNT_ID_UNIQUE`, Linux 6.8.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A mount that this process has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnMount {
    /// The number in the mount table. The kernel reuses it when this mount is gone.
    id: u64,
    /// The number that no other mount ever has, if the kernel supports it.
    unique: Option<u64>,
}

impl OwnMount {
    /// Mounts what `device` serves on `mountpoint`. `source` is the first column of the mount
    /// table.
    pub(super) fn new(
        (source, options): (&Path, &[String]),
        device: BorrowedFd<'_>,
        mountpoint: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let (mount, own) = detached((source, options), device)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&mount, c"", mountpoint, c"", flags)?;
        Ok(own)
    }

    /// Unmounts. Returns true if programs still use the mount. Then no path leads to it any more,
    /// and these programs keep it.
    ///
    /// # Errors
    /// No path leads to the mount any more, or another mount hides it.
    pub(super) fn unmount(self, device: BorrowedFd<'_>) -> io::Result<bool> {
        let table = std::fs::read("/proc/self/mountinfo")?;
        let path = table.split(|byte| *byte == b'\n').find_map(|line| self.place_in(line));
        let path = path.ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
        if Self::of(found.as_fd())? != self {
            return Err(io::Error::other("another mount lies in its place"));
        }
        // No NOFOLLOW: the path is a link to the mount.
        rustix::mount::unmount(format!("/proc/self/fd/{}", found.as_raw_fd()), UnmountFlags::DETACH)?;
        // An unused mount is gone after this, and the device then reports it.
        drop(found);
        let mut polled = [PollFd::new(&device, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let [polled] = polled;
        Ok(!polled.revents().contains(PollFlags::ERR))
    }

    /// Returns the mount of a descriptor. Sends no request to its server, which may not serve yet.
    fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        let number = |wanted: StatxFlags| {
            let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
            let stat = rustix::fs::statx(file, c"", flags, wanted)?;
            Ok::<_, io::Error>((stat.stx_mask & wanted.bits() != 0).then_some(stat.stx_mnt_id))
        };
        let id = number(StatxFlags::MNT_ID)?.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { id, unique: number(MNT_ID_UNIQUE)? })
    }

    /// Returns the mount point in a line of the mount table, if that line is for this mount.
    fn place_in(self, line: &[u8]) -> Option<PathBuf> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?;
        (id.parse() == Ok(self.id)).then(|| fields.nth(3).map(unescaped)).flatten()
    }
}

/// Makes a mount that is not attached yet. Returns it with its number.
fn detached(
    (source, options): (&Path, &[String]),
    device: BorrowedFd<'_>,
) -> io::Result<(OwnedFd, OwnMount)> {
    let fs = rustix::mount::fsopen(c"fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let text = |key, value: &str| rustix::mount::fsconfig_set_string(&fs, key, value);
    rustix::mount::fsconfig_set_string(&fs, "source", source.as_os_str().as_bytes())?;
    text("subtype", "pinhole")?;
    text("fd", &device.as_raw_fd().to_string())?;
    for (key, value) in [("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
        text(key, value)?;
    }
    for key in ["default_permissions", "allow_other"].into_iter().chain(of_the_file_system(options)) {
        rustix::mount::fsconfig_set_flag(&fs, key)?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes(options))?;
    let own = OwnMount::of(mount.as_fd())?;
    Ok((mount, own))
}

/// Returns the options that apply to the whole file system, not to one mount of it.
fn of_the_file_system(options: &[String]) -> impl Iterator<Item = &'static str> {
    let last = |one: &str, other: &str| {
        options
            .iter()
            .rev()
            .find(|word| [one, other].contains(&word.as_str()))
            .is_some_and(|word| word == one)
    };
    let wanted = [
        ("ro", last("ro", "rw")),
        ("sync", last("sync", "async")),
        ("dirsync", options.iter().any(|word| word == "dirsync")),
    ];
    wanted.into_iter().filter_map(|(word, wanted)| wanted.then_some(word))
}

fn attributes(options: &[String]) -> MountAttrFlags {
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
    let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
    options.iter().fold(nosuid | nodev, |flags, word| match word.as_str() {
        "ro" => flags | MountAttrFlags::MOUNT_ATTR_RDONLY,
        "rw" => flags - MountAttrFlags::MOUNT_ATTR_RDONLY,
        "nosuid" => flags | nosuid,
        "suid" => flags - nosuid,
        "nodev" => flags | nodev,
        "dev" => flags - nodev,
        "noexec" => flags | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "exec" => flags - MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "noatime" => flags | MountAttrFlags::MOUNT_ATTR_NOATIME,
        "atime" => flags - MountAttrFlags::MOUNT_ATTR_NOATIME,
        "nodiratime" => flags | MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        _ => flags,
    })
}

/// Decodes a path of the mount table, which has blanks, line ends and backslashes as `\` and three
/// octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let escaped =
            behind.split_first_chunk::<3>().filter(|_| *first == b'\\').and_then(|(digits, behind)| {
                let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
                Some((byte, behind))
            });
        let (byte, behind) = escaped.unwrap_or((*first, behind));
        path.push(byte);
        rest = behind;
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::super::mount::MOUNT_OPTIONS;
    use super::*;

    fn options(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn both(words: &[&str]) -> (MountAttrFlags, Vec<&'static str>) {
        let options = options(words);
        (attributes(&options), of_the_file_system(&options).collect())
    }

    #[test]
    fn a_mount_ignores_suid_and_devices_unless_told_otherwise() {
        let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        assert_eq!(both(&[]), (plain, vec![]));
        assert_eq!(both(&["suid", "dev", "ro"]), (MountAttrFlags::MOUNT_ATTR_RDONLY, vec!["ro"]));
        assert_eq!(both(&["suid", "dev", "ro", "rw"]), (MountAttrFlags::empty(), vec![]));
    }

    #[test]
    fn every_mount_option_does_something_or_undoes_it() {
        for word in MOUNT_OPTIONS.split(", ") {
            let kept = ["nosuid", "nodev", "rw", "exec", "atime", "async"].contains(&word);
            assert!(both(&[word]) != both(&[]) || kept, "{word}");
        }
    }

    #[test]
    fn a_path_of_the_mount_table_is_read_back() {
        let own = OwnMount { id: 36, unique: None };
        let line = br"36 35 98:0 / /mnt\040a\134b rw,noatime shared:1 - fuse.pinhole /srv rw";
        assert_eq!(own.place_in(line), Some(PathBuf::from(r"/mnt a\b")));
        assert_eq!(OwnMount { id: 3, unique: None }.place_in(line), None);
    }
}
