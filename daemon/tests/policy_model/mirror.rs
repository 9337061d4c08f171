//! The second tree. Plain system calls carry out there what the model permits.

use pinhole::filesystem::Answer;
use pinhole_protocol::Errno;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

pub(crate) fn path_fd(path: &std::path::Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn find(directory: &OwnedFd, name: &str) -> Answer<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(errno)
}

pub(crate) fn inode(fd: &OwnedFd) -> (u64, FileType) {
    let stat = rustix::fs::fstat(fd).unwrap();
    (stat.st_ino, FileType::from_raw_mode(stat.st_mode))
}

pub(crate) fn reopen(fd: &OwnedFd, flags: OFlags) -> Answer<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
}

/// Returns the names of a listing without "." and "..".
pub(crate) fn names_in(mut bytes: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    while let Some(len) = bytes.get(16..20) {
        let len = usize::try_from(u32::from_le_bytes(len.try_into().unwrap())).unwrap();
        names.insert(String::from_utf8(bytes[24..24 + len].to_vec()).unwrap());
        bytes = &bytes[(24 + len).next_multiple_of(8)..];
    }
    names.retain(|name| name != "." && name != "..");
    names
}

/// Returns the type of each file in a tree, by its path.
pub(crate) fn tree(path: &std::path::Path) -> BTreeMap<String, FileType> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let kind = inode(&find(&path_fd(path), &name).unwrap()).1;
        if kind == FileType::Directory {
            all.extend(
                tree(&entry.path()).into_iter().map(|(below, kind)| (format!("{name}/{below}"), kind)),
            );
        }
        all.insert(name, kind);
    }
    all
}
