//! Mount namespaces of tests and of the programs that they start.
//!
//! A new namespace holds a copy of each mount of the host, also of those that another test made.
//! Such a copy keeps the file system in use after the other test has unmounted it: its daemon does
//! not end and its disk stays busy. So a namespace gives these copies up at once.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

/// Mount of the calling thread's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Path of the mount point.
    pub point: PathBuf,
    /// Flags that a remount has to repeat, because it would drop them otherwise.
    pub flags: MountFlags,
}

/// Gives the calling thread, and the processes that it starts later, a mount namespace of its own.
/// The namespace does not have the mounts below the folder for temporary files, unless a mount
/// contains a path of `kept` or lies below one.
///
/// # Errors
/// Fails if the process lacks the right to do this, which root has.
pub fn enter_new(kept: &[PathBuf]) -> io::Result<()> {
    #[expect(deprecated, reason = "the safe form; only file tables could break I/O safety, mounts cannot")]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let temporary = std::env::temp_dir();
    // Later mounts first: they may lie in earlier ones.
    for Mount { point, .. } in mounts()?.into_iter().rev() {
        let is_below = point != temporary && point.starts_with(&temporary);
        if !is_below || kept.iter().any(|kept| kept.starts_with(&point) || point.starts_with(kept)) {
            continue;
        }
        match rustix::mount::unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Another mount covers it, or it was inside a mount that is already gone.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns the mounts of the calling thread's namespace, in the order in which they were made.
///
/// # Errors
/// Fails if /proc cannot be read.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let table = fs::read("/proc/thread-self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// Reads a line of mountinfo, `proc_pid_mountinfo(5)`: the fifth field is the mount point, the
/// sixth its options.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let mut flags = MountFlags::empty();
    for option in fields.next()?.split(|byte| *byte == b',') {
        flags |= match option {
            b"nosuid" => MountFlags::NOSUID,
            b"nodev" => MountFlags::NODEV,
            b"noexec" => MountFlags::NOEXEC,
            b"noatime" => MountFlags::NOATIME,
            b"nodiratime" => MountFlags::NODIRATIME,
            b"relatime" => MountFlags::RELATIME,
            _ => MountFlags::empty(),
        };
    }
    Some(Mount { point: Path::new(OsStr::from_bytes(&point)).to_path_buf(), flags })
}

/// Decodes a field of mountinfo, in which space, tab, newline and backslash are written as a
/// backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) if first == b'\\' => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            Some(_) | None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_space_in_a_mount_point_is_a_space() {
        assert_eq!(unescape(br"/a\040b"), b"/a b");
    }

    #[test]
    fn flags_of_a_mount_survive_its_remount() {
        let mount = parse(b"22 1 0:20 / /sys ro,nosuid,noexec - sysfs sysfs rw").unwrap();
        assert_eq!(mount.point, Path::new("/sys"));
        assert_eq!(mount.flags, MountFlags::NOSUID | MountFlags::NOEXEC);
    }

    #[test]
    fn new_namespace_has_no_mounts_of_other_tests() {
        let (kept, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [kept.path().to_path_buf(), other.path().to_path_buf()];
        let among = |folders: &[PathBuf]| {
            let points = mounts().unwrap().into_iter().map(|mount| mount.point);
            points.filter(|point| folders.contains(point)).collect::<Vec<_>>()
        };
        // In threads, whose namespaces end with them: no mount stays behind if the test fails.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                enter_new(&[]).unwrap();
                for folder in &folders {
                    rustix::mount::mount_bind(folder, folder).unwrap();
                }
                assert_eq!(among(&folders), folders);
                let kept = folders[0].join("inside");
                scope.spawn(|| {
                    enter_new(&[kept]).unwrap();
                    assert_eq!(among(&folders), [folders[0].clone()]);
                });
            });
        });
    }
}
