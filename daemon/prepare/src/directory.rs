//! A directory as the source: one layer, its entries in the order of their paths.
//!
//! Every file is reached from the descriptor of its directory, and no symlink is followed. A file
//! that changes while it is read is an error, because the image would show a state that never was.

use crate::attributes::{Attributes, device_number};
use crate::data_file::{DataWriter, regions};
use crate::error::{DirectoryError, PrepareError};
use crate::limits;
use crate::progress::Progress;
use crate::tree::{FileData, LayerTree, Leaf, NodeIndex, ROOT};
use crate::tree_error::{TreeError, within};
use crate::xattrs::{self, Holder};
use pinhole_erofs::Time;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// How a directory is read.
#[derive(Debug)]
pub(crate) struct WalkOptions<'a> {
    /// Do not enter directories on other file systems than that of the source.
    pub(crate) one_file_system: bool,
    /// Device and inode of the folders that are written, which must not be in the source.
    pub(crate) outputs: &'a [(u64, u64)],
}

/// Reads a directory into the tree and its data into the data file.
pub(crate) fn read(
    path: &Path,
    options: &WalkOptions<'_>,
    (tree, data): (&mut LayerTree, &mut DataWriter),
    progress: &mut dyn Progress,
) -> Result<(), PrepareError> {
    let wrong = |errno: Errno| DirectoryError::Read { path: path.to_owned(), source: errno.into() };
    let descriptor = rustix::fs::open(path, DIRECTORY_FLAGS, Mode::empty()).map_err(wrong)?;
    let stat = rustix::fs::fstat(&descriptor).map_err(wrong)?;
    let root_device = stat.st_dev;
    let mut walk =
        Walk { path, root_device, options, tree, data, progress, linked: HashMap::new(), levels: Vec::new() };
    walk.descend(c"", descriptor, stat)?;
    while let Some(level) = walk.levels.last_mut() {
        match level.names.pop() {
            Some(name) => walk.entry(&name)?,
            None => walk.leave()?,
        }
    }
    Ok(())
}

const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A directory that is being read.
#[derive(Debug)]
struct Level {
    name: CString,
    descriptor: OwnedFd,
    stat: Stat,
    node: NodeIndex,
    /// The names that are left, the first one last.
    names: Vec<CString>,
}

struct Walk<'a> {
    path: &'a Path,
    root_device: u64,
    options: &'a WalkOptions<'a>,
    tree: &'a mut LayerTree,
    data: &'a mut DataWriter,
    progress: &'a mut dyn Progress,
    /// Inodes with several names, by device and inode.
    linked: HashMap<(u64, u64), NodeIndex>,
    levels: Vec<Level>,
}

impl Walk<'_> {
    /// Adds a directory to the tree and begins to read it.
    fn descend(&mut self, name: &CStr, descriptor: OwnedFd, stat: Stat) -> Result<(), PrepareError> {
        let holder = Holder::Descriptor(descriptor.as_fd());
        let attributes = self.attributes(name, &stat, &holder)?;
        let node = match self.levels.last() {
            None => {
                let done = self.tree.set_root(attributes);
                self.in_tree(name, done)?;
                ROOT
            }
            Some(parent) => {
                let parent = parent.node;
                let added = self.tree.add_directory(parent, name.to_bytes(), attributes);
                self.in_tree(name, added)?
            }
        };
        if self.options.outputs.contains(&(stat.st_dev, stat.st_ino)) {
            return Err(DirectoryError::Inside { path: self.path_of(name) }.into());
        }
        let is_elsewhere = self.options.one_file_system && stat.st_dev != self.root_device;
        let names = if is_elsewhere { Vec::new() } else { self.names(name, descriptor.as_fd())? };
        self.levels.push(Level { name: name.to_owned(), descriptor, stat, node, names });
        Ok(())
    }

    /// Returns the names in a directory, in descending order.
    fn names(&self, name: &CStr, directory: BorrowedFd<'_>) -> Result<Vec<CString>, PrepareError> {
        let mut listing = Vec::with_capacity(LISTING_LEN);
        let mut entries = RawDir::new(directory, listing.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.wrong(name, errno))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
            let counted = within("the directory", "names", names.len(), limits::NAMES_MAX);
            self.in_tree(name, counted)?;
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// Ends the directory of the last level.
    fn leave(&mut self) -> Result<(), PrepareError> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let now = rustix::fs::fstat(&level.descriptor).map_err(|errno| self.wrong(&level.name, errno))?;
        self.unchanged(&level.name, &level.stat, &now)
    }

    /// Reads one name of the last level.
    fn entry(&mut self, name: &CStr) -> Result<(), PrepareError> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let (parent, directory) = (level.node, level.descriptor.as_fd());
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statat(directory, name, flags).map_err(|errno| self.wrong(name, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = DIRECTORY_FLAGS | OFlags::NOFOLLOW;
            let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
            let opened = opened.map_err(|errno| self.wrong(name, errno))?;
            let stat = rustix::fs::fstat(&opened).map_err(|errno| self.wrong(name, errno))?;
            return self.descend(name, opened, stat);
        }
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(&node) = self.linked.get(&identity).filter(|_| stat.st_nlink > 1) {
            let named = self.tree.name(parent, name.to_bytes(), node);
            return self.in_tree(name, named);
        }
        let (attributes, leaf) = match kind {
            FileType::RegularFile => self.file(name, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new());
                let target = target.map_err(|errno| self.wrong(name, errno))?.into_bytes();
                (self.attributes_by_name(name, &stat)?, Leaf::Symlink(target))
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let number = device_number(major, minor);
                let is_character = kind == FileType::CharacterDevice;
                let leaf =
                    if is_character { Leaf::CharacterDevice(number) } else { Leaf::BlockDevice(number) };
                (self.attributes_by_name(name, &stat)?, leaf)
            }
            FileType::Fifo => (self.attributes_by_name(name, &stat)?, Leaf::Fifo),
            FileType::Socket => (self.attributes_by_name(name, &stat)?, Leaf::Socket),
            FileType::Directory | FileType::Unknown => {
                return Err(DirectoryError::Kind { path: self.path_of(name) }.into());
            }
        };
        let added = self.tree.add_leaf(parent, name.to_bytes(), attributes, leaf);
        let node = self.in_tree(name, added)?;
        if stat.st_nlink > 1 {
            self.linked.insert(identity, node);
        }
        Ok(())
    }

    /// Reads a regular file.
    fn file(&mut self, name: &CStr, known: &Stat) -> Result<(Attributes, Leaf), PrepareError> {
        let Some(level) = self.levels.last() else { return Err(self.changed(name)) };
        let opened = rustix::fs::openat(&level.descriptor, name, FILE_FLAGS, Mode::empty());
        let file = opened.map_err(|errno| self.wrong(name, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.wrong(name, errno))?;
        if (known.st_dev, known.st_ino, known.st_mode) != (stat.st_dev, stat.st_ino, stat.st_mode) {
            return Err(self.changed(name));
        }
        let attributes = self.attributes(name, &stat, &Holder::Descriptor(file.as_fd()))?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let ranges = self.data_ranges(name, &file, &stat)?;
        let placed = self.data.place(size, &regions(size, &ranges))?;
        self.copy(name, &file, &placed)?;
        // A file of /proc has data beyond its length.
        if size == 0 && rustix::io::pread(&file, &mut [0], 0) != Ok(0) {
            return Err(self.changed(name));
        }
        let now = rustix::fs::fstat(&file).map_err(|errno| self.wrong(name, errno))?;
        self.unchanged(name, &stat, &now)?;
        Ok((attributes, Leaf::File(placed)))
    }

    /// Copies the regions of a file to the data file.
    fn copy(&mut self, name: &CStr, file: &OwnedFd, placed: &FileData) -> Result<(), PrepareError> {
        for region in &placed.regions {
            self.data.seek(region.start)?;
            let (mut at, end) = (region.offset, region.offset.saturating_add(region.len));
            while at < end {
                let read = match self.data.write_from(file, at, end - at)? {
                    Ok(0) => return Err(self.changed(name)),
                    Ok(read) => read,
                    Err(errno) => return Err(self.wrong(name, errno)),
                };
                let read = u64::try_from(read).unwrap_or(u64::MAX);
                self.progress.advance(read);
                at = at.saturating_add(read);
            }
        }
        Ok(())
    }

    /// Returns the ranges of a file that are not holes.
    fn data_ranges(&self, name: &CStr, file: &OwnedFd, stat: &Stat) -> Result<Vec<Range<u64>>, PrepareError> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let (mut ranges, mut at) = (Vec::new(), 0);
        while at < size {
            let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(begin) => begin,
                Err(Errno::NXIO) => break,
                // A file system without holes.
                Err(Errno::INVAL) => at,
                Err(errno) => return Err(self.wrong(name, errno)),
            };
            let end = match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
                Ok(end) => end.min(size),
                Err(Errno::INVAL | Errno::NXIO) => size,
                Err(errno) => return Err(self.wrong(name, errno)),
            };
            if end <= at {
                return Err(self.changed(name));
            }
            ranges.push(begin..end);
            let counted = within("the file", "regions of data", ranges.len(), limits::REGIONS_MAX);
            self.in_tree(name, counted)?;
            at = end;
        }
        Ok(ranges)
    }

    fn attributes_by_name(&mut self, name: &CStr, stat: &Stat) -> Result<Attributes, PrepareError> {
        let Some(level) = self.levels.last() else { return Err(self.changed(name)) };
        // The folder of the descriptor is resolved, and the last name is not followed.
        let path = xattrs::path_beneath(level.descriptor.as_fd(), name);
        self.attributes(name, stat, &Holder::Name(path))
    }

    fn attributes(&self, name: &CStr, stat: &Stat, holder: &Holder<'_>) -> Result<Attributes, PrepareError> {
        let mut attributes = Attributes {
            permissions: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            },
            xattrs: Vec::new(),
        };
        let mut failure = Ok(());
        let read = xattrs::each(holder, &mut |name, value| {
            if failure.is_ok() {
                failure = attributes.add_xattr(name, value);
            }
        });
        read.map_err(|errno| self.wrong(name, errno))?;
        self.in_tree(name, failure)?;
        Ok(attributes)
    }

    /// Compares the state of a file before and after it was read.
    fn unchanged(&self, name: &CStr, before: &Stat, after: &Stat) -> Result<(), PrepareError> {
        let state = |stat: &Stat| {
            (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
        };
        if state(before) == state(after) { Ok(()) } else { Err(self.changed(name)) }
    }

    /// Adds the path to an error of the tree.
    fn in_tree<T>(&self, name: &CStr, done: Result<T, TreeError>) -> Result<T, PrepareError> {
        done.map_err(|source| DirectoryError::Entry { path: self.path_of(name), source }.into())
    }

    fn wrong(&self, name: &CStr, errno: Errno) -> PrepareError {
        DirectoryError::Read { path: self.path_of(name), source: errno.into() }.into()
    }

    fn changed(&self, name: &CStr) -> PrepareError {
        DirectoryError::Changed { path: self.path_of(name) }.into()
    }

    /// Returns the path of a name in the last level.
    fn path_of(&self, name: &CStr) -> PathBuf {
        let names = self.levels.iter().map(|level| level.name.as_c_str()).chain([name]);
        let mut path = self.path.to_owned();
        path.extend(names.filter(|name| !name.is_empty()).map(|name| OsStr::from_bytes(name.to_bytes())));
        path
    }
}

/// Bytes of directory entries that are read at once.
const LISTING_LEN: usize = 64 << 10;

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
