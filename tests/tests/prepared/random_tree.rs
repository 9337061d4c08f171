//! Random trees from a seed: as input of the writer, as real files, and as the facts that an image
//! of them must have.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pinhole_erofs::Time;
use pinhole_erofs::write::{Content, DataExtent, InodeIndex, NewDevice, NewFile, NewInode, Tree};
use pinhole_tests::crash::Random;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::facts::{self, Facts};

const BLOCK: u64 = 4096;

/// Access control list with one more user, as Linux stores it: version 2, then tag, permissions and
/// id of each entry.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 4, 0, 0xe8, 3, 0, 0, 4, 0, 4, 0, 0xff, 0xff, 0xff,
    0xff, 0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, 0x20, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
];

/// `security.capability` of version 2 with CAP_NET_BIND_SERVICE.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where the tree is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Written by the writer: any values that the format allows.
    Image,
    /// Made of real files: times, sizes and attributes that a file system of the host stores.
    Files,
}

/// Tree with the bytes of its data files.
#[derive(Debug)]
pub(crate) struct RandomTree {
    pub(crate) tree: Tree,
    /// Bytes of each device.
    pub(crate) data: Vec<Vec<u8>>,
}

impl RandomTree {
    /// Makes a tree of some hundred inodes.
    pub(crate) fn new(seed: u64, purpose: Purpose) -> Self {
        let mut maker = Maker { random: Random::new(seed), purpose, inodes: Vec::new() };
        let data: Vec<Vec<u8>> = [300, 70, 1].map(|blocks| maker.bytes(blocks * BLOCK)).to_vec();
        let device = |(index, bytes): (u8, &Vec<u8>)| NewDevice {
            tag: [b'a' + index; 64],
            blocks: bytes.len() as u64 / BLOCK,
        };
        let devices = (0..).zip(&data).map(device).collect();
        maker.directory(0);
        Self { tree: Tree { inodes: maker.inodes, devices }, data }
    }

    /// Writes the data files into a folder, and returns their paths.
    pub(crate) fn write_data_files(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for (index, bytes) in self.data.iter().enumerate() {
            let path = folder.join(format!("{index}.data"));
            fs::write(&path, bytes)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Returns the facts that an image must have. Inode numbers, and sizes and entries of
    /// directories, depend on the image and are not set.
    pub(crate) fn facts(&self) -> facts::Tree {
        let mut nlinks = vec![0; self.tree.inodes.len()];
        let mut paths = vec![(PathBuf::new(), 0)];
        let mut at = 0;
        while let Some((path, index)) = paths.get(at).cloned() {
            at += 1;
            nlinks[index] += 1;
            if let Content::Directory(names) = &self.tree.inodes[index].content {
                nlinks[index] += 1;
                for (name, child) in names {
                    let child = child.0 as usize;
                    if matches!(self.tree.inodes[child].content, Content::Directory(_)) {
                        nlinks[index] += 1;
                    }
                    paths.push((path.join(OsStr::from_bytes(name)), child));
                }
            }
        }
        let facts = |(path, index): (PathBuf, usize)| {
            let facts = Facts { nlink: nlinks[index], ..self.facts_of(&self.tree.inodes[index]) };
            (path, facts)
        };
        paths.into_iter().map(facts).collect()
    }

    fn facts_of(&self, inode: &NewInode) -> Facts {
        let mut facts = Facts {
            mode: facts::file_type(inode.content.kind()) | u32::from(inode.permissions),
            uid: inode.uid,
            gid: inode.gid,
            mtime: (inode.mtime.seconds, inode.mtime.nanoseconds),
            xattrs: inode.xattrs.iter().cloned().collect(),
            ..Facts::default()
        };
        match &inode.content {
            Content::Symlink(target) => {
                facts.size = target.len() as u64;
                facts.target = Some(target.clone());
            }
            Content::File(file) => {
                facts.size = file.size;
                facts.data = self.segments(file);
            }
            Content::CharacterDevice(number) | Content::BlockDevice(number) => facts.rdev = *number,
            Content::Directory(_) | Content::Fifo | Content::Socket => {}
        }
        facts
    }

    /// Returns the data of a file between its holes.
    fn segments(&self, file: &NewFile) -> Vec<(u64, Vec<u8>)> {
        let mut segments: Vec<(u64, Vec<u8>)> = Vec::new();
        for extent in &file.extents {
            let length = (file.size - extent.offset).min(extent.length);
            let (start, length) = (index_of(extent.start), index_of(length));
            let bytes = &self.data[usize::from(extent.device)][start..start + length];
            match segments.last_mut() {
                Some((at, before)) if *at + before.len() as u64 == extent.offset => {
                    before.extend_from_slice(bytes);
                }
                _ => segments.push((extent.offset, bytes.to_vec())),
            }
        }
        segments
    }

    /// Makes the files of the tree in the folder `root`, which exists.
    pub(crate) fn make_files(&self, root: &Path) -> io::Result<()> {
        let mut made: BTreeMap<u32, PathBuf> = BTreeMap::new();
        let mut waiting = vec![(root.to_path_buf(), 0)];
        let mut at = 0;
        while let Some((path, index)) = waiting.get(at).cloned() {
            at += 1;
            if let Some(earlier) = made.get(&index) {
                fs::hard_link(earlier, &path)?;
                continue;
            }
            let inode = &self.tree.inodes[index as usize];
            self.make_content(&path, inode, index == 0)?;
            if let Content::Directory(names) = &inode.content {
                let child =
                    |(name, child): (&Vec<u8>, &InodeIndex)| (path.join(OsStr::from_bytes(name)), child.0);
                waiting.extend(names.iter().map(child));
            }
            made.insert(index, path);
        }
        // From the leaves to the root, because each new name changes the time of its directory.
        for (path, index) in waiting.iter().rev() {
            set_attributes(path, &self.tree.inodes[*index as usize])?;
        }
        Ok(())
    }

    fn make_content(&self, path: &Path, inode: &NewInode, is_root: bool) -> io::Result<()> {
        let special = |kind, number: u32| {
            let device = rustix::fs::makedev(number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
            rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, device)
        };
        match &inode.content {
            Content::Directory(_) if is_root => {}
            Content::Directory(_) => fs::create_dir(path)?,
            Content::Symlink(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), path)?,
            Content::File(file) => {
                let made = File::create(path)?;
                for (offset, bytes) in self.segments(file) {
                    made.write_all_at(&bytes, offset)?;
                }
                made.set_len(file.size)?;
            }
            Content::CharacterDevice(number) => special(FileType::CharacterDevice, *number)?,
            Content::BlockDevice(number) => special(FileType::BlockDevice, *number)?,
            Content::Fifo => special(FileType::Fifo, 0)?,
            Content::Socket => special(FileType::Socket, 0)?,
        }
        Ok(())
    }
}

/// Returns a byte of a data file as an index.
fn index_of(byte: u64) -> usize {
    usize::try_from(byte).unwrap()
}

/// Sets owner, permissions, extended attributes and time of a file, in the order in which none
/// undoes another.
fn set_attributes(path: &Path, inode: &NewInode) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    for (name, value) in &inode.xattrs {
        rustix::fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty())?;
    }
    if !matches!(inode.content, Content::Symlink(_)) {
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(inode.permissions.into()), AtFlags::empty())?;
    }
    let time = Timespec { tv_sec: inode.mtime.seconds, tv_nsec: inode.mtime.nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Random choices of one tree.
struct Maker {
    random: Random,
    purpose: Purpose,
    inodes: Vec<NewInode>,
}

impl Maker {
    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    /// Returns a number below a limit that fits in `T`.
    fn number<T: TryFrom<u64, Error: Debug>>(&mut self, limit: u64) -> T {
        self.below(limit).try_into().unwrap()
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| self.number(256)).collect()
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Adds a directory with entries, and returns its index. Those at `depth` 3 have no others.
    fn directory(&mut self, depth: u64) -> InodeIndex {
        let index = self.add(Content::Directory(BTreeMap::new()));
        let entries = match depth {
            0 => 40,
            1 if self.one_in(6) => 600,
            _ => self.below(25),
        };
        let mut names = BTreeMap::new();
        for _ in 0..entries {
            let name = self.name();
            // Half of a large directory are links, so that the tree stays small.
            let linked = if entries > 100 { self.one_in(2) } else { self.one_in(10) };
            let child = if linked { self.linked() } else { None };
            let child = match child {
                Some(child) => child,
                None if depth < 3 && self.one_in(6 + entries / 4) => self.directory(depth + 1),
                None => self.leaf(),
            };
            names.insert(name, child);
        }
        self.inodes[index.0 as usize].content = Content::Directory(names);
        index
    }

    /// Returns an earlier inode that may get another name.
    fn linked(&mut self) -> Option<InodeIndex> {
        let index: u32 = self.number(self.inodes.len() as u64);
        let is_directory = matches!(self.inodes[index as usize].content, Content::Directory(_));
        (!is_directory).then_some(InodeIndex(index))
    }

    fn add(&mut self, content: Content) -> InodeIndex {
        let permissions = match content {
            Content::Symlink(_) => 0o777,
            Content::Directory(_)
            | Content::File(_)
            | Content::CharacterDevice(_)
            | Content::BlockDevice(_)
            | Content::Fifo
            | Content::Socket => self.number(0o10_000),
        };
        let xattrs = self.xattrs(&content);
        let inode =
            NewInode { permissions, uid: self.id(), gid: self.id(), mtime: self.time(), xattrs, content };
        self.inodes.push(inode);
        InodeIndex(u32::try_from(self.inodes.len()).unwrap() - 1)
    }

    fn leaf(&mut self) -> InodeIndex {
        let content = match self.below(14) {
            0 | 1 => {
                let length = if self.one_in(5) { 1 + self.below(4095) } else { 1 + self.below(80) };
                let target = self.bytes(length);
                Content::Symlink(target.into_iter().map(|byte| byte.max(1)).collect())
            }
            2 => Content::CharacterDevice(self.device_number()),
            3 => Content::BlockDevice(self.device_number()),
            4 => Content::Fifo,
            5 => Content::Socket,
            _ => Content::File(self.file()),
        };
        self.add(content)
    }

    fn device_number(&mut self) -> u32 {
        if self.one_in(2) { self.number(1 << 16) } else { (self.number::<u32>(1 << 31)) << 1 }
    }

    fn id(&mut self) -> u32 {
        match self.below(3) {
            0 => 0,
            1 => self.number(1 << 16),
            _ => u32::MAX - 1 - self.number::<u32>(1 << 16),
        }
    }

    fn time(&mut self) -> Time {
        let nanoseconds = if self.one_in(3) { 0 } else { self.number(1_000_000_000) };
        let seconds = self.below(1 << 31).cast_signed();
        let seconds = match (self.below(4), self.purpose) {
            (0, _) => -seconds,
            (1, Purpose::Image) => seconds << 20,
            _ => seconds,
        };
        Time { seconds, nanoseconds }
    }

    fn name(&mut self) -> Vec<u8> {
        let length = if self.one_in(20) { 255 } else { 1 + self.below(24) };
        let any = self.one_in(4);
        let mut name = self.bytes(length);
        for byte in &mut name {
            if !any {
                *byte = b"abcdefghijklmnopqrstuvwxyz.-_0123456789"[usize::from(*byte) % 39];
            }
            if matches!(*byte, 0 | b'/') {
                *byte = b'+';
            }
        }
        if name.iter().all(|byte| *byte == b'.') { b"dots".to_vec() } else { name }
    }

    /// Returns extended attributes that the kind may have: `user.*` is for files and directories.
    fn xattrs(&mut self, content: &Content) -> Vec<(Vec<u8>, Vec<u8>)> {
        if self.one_in(2) {
            return Vec::new();
        }
        let mut xattrs = BTreeMap::new();
        let labels = [b"usr_t".to_vec(), b"system_u:object_r:bin_t:s0\0".to_vec()];
        let label = labels[self.number::<usize>(2)].clone();
        xattrs.insert(b"trusted.label".to_vec(), label);
        if self.one_in(4) {
            let value = self.below(200);
            xattrs.insert(b"trusted.overlay.origin".to_vec(), self.bytes(value));
        }
        let is_directory = matches!(content, Content::Directory(_));
        if is_directory || matches!(content, Content::File(_)) {
            if self.one_in(3) {
                let large = self.purpose == Purpose::Image && self.one_in(10);
                let length = if large { self.below(60_000) } else { self.below(100) };
                xattrs.insert(b"user.comment".to_vec(), self.bytes(length));
            }
            if self.one_in(3) {
                xattrs.insert(b"system.posix_acl_access".to_vec(), ACL.to_vec());
            }
            if is_directory && self.one_in(2) {
                xattrs.insert(b"system.posix_acl_default".to_vec(), ACL.to_vec());
            }
            if !is_directory && self.one_in(4) {
                xattrs.insert(b"security.capability".to_vec(), CAPABILITY.to_vec());
            }
        }
        xattrs.into_iter().collect()
    }

    /// Returns a file: empty, contiguous, scattered, or with holes.
    fn file(&mut self) -> NewFile {
        let shape = self.below(8);
        if shape == 0 {
            return NewFile::default();
        }
        if shape < 5 {
            let size = 1 + if self.one_in(2) { self.below(BLOCK) } else { self.below(20 * BLOCK) };
            return NewFile { size, extents: vec![self.extent(0, size)] };
        }
        if shape == 5 {
            let exponent = if self.purpose == Purpose::Image { 60 } else { 24 };
            let limit = 1 << self.below(exponent);
            return NewFile { size: 1 + self.below(limit), extents: Vec::new() };
        }
        // Parts of full length allow large chunks. Distant parts need many small ones.
        let distant = self.purpose == Purpose::Image && self.one_in(4);
        let unit = BLOCK << self.below(if distant { 12 } else { 7 });
        let count = 1 + self.below(12);
        let mut extents = Vec::new();
        for index in 0..count {
            if shape == 6 && self.one_in(2) {
                continue;
            }
            let length = if distant { unit.min(BLOCK * (1 + self.below(4))) } else { unit };
            extents.push(self.extent(index * unit, length));
        }
        let end = extents.last().map_or(0, |extent: &DataExtent| extent.offset + extent.length);
        let size = match self.below(3) {
            0 if end > 0 => end - self.below(BLOCK),
            _ => (count * unit).max(end),
        };
        NewFile { size, extents }
    }

    /// Returns an extent with data from a random place.
    fn extent(&mut self, offset: u64, length: u64) -> DataExtent {
        let device = self.number(2);
        let blocks = [300, 70][usize::from(device)] - length.div_ceil(BLOCK);
        DataExtent { offset, device, start: self.below(blocks + 1) * BLOCK, length }
    }
}
