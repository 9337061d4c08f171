//! The facts of every file of a tree, from a mount of the kernel or from the reader, for a
//! comparison.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use pinhole_erofs::{Image, Inode, Kind, Place, ReadError, Source};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

/// Facts of all files, by their path from the root. The root has the empty path.
pub(crate) type Tree = BTreeMap<PathBuf, Facts>;

/// Facts of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    /// File type and permissions, as `st_mode`.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Number of links.
    pub(crate) nlink: u64,
    /// Size in bytes.
    pub(crate) size: u64,
    /// Modification time: seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Device number, as `new_encode_dev` of Linux.
    pub(crate) rdev: u32,
    /// Inode number.
    pub(crate) inode: u64,
    /// Extended attributes.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Target of a symbolic link.
    pub(crate) target: Option<Vec<u8>>,
    /// Data of a regular file between its holes: offset and bytes.
    pub(crate) data: Vec<(u64, Vec<u8>)>,
    /// Entries of a directory: name, inode number, kind. `.` is first, because Linux lists it last
    /// if the image omits it. The others are in their order, `..` included.
    pub(crate) entries: Vec<(Vec<u8>, u64, u32)>,
}

/// Asserts that two trees are equal, and names the first file and field that differ.
pub(crate) fn assert_equal(found: &Tree, expected: &Tree) {
    let paths = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(found), paths(expected), "other paths");
    for (path, expected) in expected {
        let found = &found[path];
        if found.data != expected.data {
            let places =
                |facts: &Facts| facts.data.iter().map(|(at, bytes)| (*at, bytes.len())).collect::<Vec<_>>();
            assert_eq!(places(found), places(expected), "{}: holes", path.display());
            for ((at, found), (_, expected)) in found.data.iter().zip(&expected.data) {
                let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
                assert_eq!(first, None, "{}: first wrong byte behind {at}", path.display());
            }
        }
        let without_data = |facts: &Facts| Facts { data: Vec::new(), ..facts.clone() };
        assert_eq!(without_data(found), without_data(expected), "{}", path.display());
    }
}

/// Returns the facts of a mounted tree.
pub(crate) fn of_mount(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let facts = of_path(&root.join(&path))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        waiting.extend(children(&path, &facts));
        tree.insert(path, facts);
    }
    Ok(tree)
}

/// Returns the paths of the entries of a directory.
fn children(path: &Path, facts: &Facts) -> impl Iterator<Item = PathBuf> {
    let names =
        facts.entries.iter().map(|(name, ..)| name).filter(|name| !matches!(name.as_slice(), b"." | b".."));
    names.map(|name| path.join(OsStr::from_bytes(name)))
}

/// Returns the facts of one file of a mounted tree.
fn of_path(path: &Path) -> io::Result<Facts> {
    let status = fs::symlink_metadata(path)?;
    let (major, minor) = (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev()));
    let kind = status.file_type();
    Ok(Facts {
        mode: status.mode(),
        uid: status.uid(),
        gid: status.gid(),
        nlink: status.nlink(),
        size: status.size(),
        mtime: (status.mtime(), u32::try_from(status.mtime_nsec()).unwrap_or(u32::MAX)),
        rdev: minor & 0xff | major << 8 | (minor & !0xff) << 12,
        inode: status.ino(),
        xattrs: xattrs(path)?,
        target: if kind.is_symlink() { Some(fs::read_link(path)?.into_os_string().into_vec()) } else { None },
        data: if kind.is_file() { segments(&File::open(path)?)? } else { Vec::new() },
        entries: if kind.is_dir() { entries(path)? } else { Vec::new() },
    })
}

/// Returns the extended attributes of a file.
fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut list)?;
    let mut xattrs = BTreeMap::new();
    for name in list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(len);
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}

/// Returns the data of a file between its holes.
fn segments(file: &File) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut segments = Vec::new();
    let mut position = 0;
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(segments),
            Err(error) => return Err(error.into()),
        };
        position = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        let mut bytes = vec![0; usize::try_from(position - start).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, start)?;
        segments.push((start, bytes));
    }
}

/// Returns the entries of a directory.
fn entries(path: &Path) -> io::Result<Vec<(Vec<u8>, u64, u32)>> {
    let directory = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
    let mut buffer = Vec::with_capacity(65_536);
    let mut listing = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        entries.push((name, entry.ino(), entry.file_type().as_raw_mode()));
    }
    entries.sort_by_key(|(name, ..)| name != b".");
    Ok(entries)
}

/// Returns the facts of an image, as the reader finds them. `data_files` holds the bytes of the
/// extra devices.
pub(crate) fn of_image<S: Source>(image: &Image<S>, data_files: &[Vec<u8>]) -> Result<Tree, ReadError> {
    let mut tree = Tree::new();
    let mut waiting = vec![(PathBuf::new(), image.superblock().root)];
    while let Some((path, nid)) = waiting.pop() {
        let inode = image.inode(nid)?;
        let facts = of_inode(image, &inode, data_files)?;
        for child in children(&path, &facts) {
            let name = child.file_name().unwrap_or_default().as_bytes();
            let found = image.lookup(&inode, name)?;
            let listed = facts.entries.iter().find(|(listed, ..)| listed == name);
            let listed = listed.map(|(_, nid, kind)| (*nid, *kind));
            assert_eq!(
                found.map(|found| (found.nid.0, file_type(found.kind))),
                listed,
                "{}",
                child.display()
            );
            waiting.extend(found.map(|found| (child.clone(), found.nid)));
        }
        assert_absent(image, &inode, &facts)?;
        tree.insert(path, facts);
    }
    Ok(tree)
}

/// Asserts that a lookup finds no name that is near a name of the directory, but not in it.
fn assert_absent<S: Source>(image: &Image<S>, inode: &Inode, facts: &Facts) -> Result<(), ReadError> {
    for (name, ..) in &facts.entries {
        let shorter = name[..name.len() - 1].to_vec();
        let longer = [name, b"\x01".as_slice()].concat();
        let mut next = name.clone();
        next[name.len() - 1] ^= 1;
        for near in [shorter, longer, next] {
            let is_listed = facts.entries.iter().any(|(listed, ..)| *listed == near);
            assert_eq!(image.lookup(inode, &near)?.is_some(), is_listed, "{near:?}");
        }
    }
    Ok(())
}

/// Returns the facts of one inode.
fn of_inode<S: Source>(image: &Image<S>, inode: &Inode, data_files: &[Vec<u8>]) -> Result<Facts, ReadError> {
    let mut facts = Facts {
        mode: inode.mode.into(),
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink.into(),
        size: inode.size,
        mtime: (inode.mtime.seconds, inode.mtime.nanoseconds),
        rdev: inode.rdev,
        inode: inode.nid.0,
        ..Facts::default()
    };
    let mut names = Vec::new();
    image.xattrs(inode, &mut |name, length| {
        names.push((name.to_vec(), length));
        ControlFlow::Continue(())
    })?;
    for (name, length) in names {
        let mut value = Vec::new();
        image.get_xattr(inode, &name, &mut value)?;
        assert_eq!(value.len(), usize::try_from(length).unwrap_or(usize::MAX));
        facts.xattrs.insert(name, value);
    }
    match inode.kind {
        Kind::Directory => {
            image.read_dir(inode, 0, &mut |entry| {
                facts.entries.push((entry.name.to_vec(), entry.nid.0, file_type(entry.kind)));
                ControlFlow::Continue(())
            })?;
            facts.entries.sort_by_key(|(name, ..)| name != b".");
        }
        Kind::Symlink => {
            let mut target = Vec::new();
            image.read_link(inode, &mut target)?;
            facts.target = Some(target);
        }
        Kind::Regular => {
            let mut position = 0;
            while let Some(start) = image.seek_data(inode, position)? {
                position = image.seek_hole(inode, start)?.unwrap_or(inode.size);
                facts.data.push((start, read(image, inode, start..position, data_files)?));
            }
        }
        Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {}
    }
    Ok(facts)
}

/// Reads bytes of a file that are in no hole.
fn read<S: Source>(
    image: &Image<S>,
    inode: &Inode,
    range: std::ops::Range<u64>,
    data_files: &[Vec<u8>],
) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let mut position = range.start;
    while position < range.end {
        let extent = image.extent(inode, position)?;
        let length = extent.length.min(range.end - position);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let before = bytes.len();
        match extent.place {
            Place::Hole => panic!("a hole at {position} in data of nid {}", inode.nid.0),
            Place::Image { offset } => {
                bytes.resize(before + length, 0);
                image.source().copy(offset, &mut bytes[before..])?;
            }
            Place::Device { index, offset } => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                bytes.extend_from_slice(&data_files[usize::from(index)][start..start + length]);
            }
        }
        position += extent.length;
    }
    Ok(bytes)
}

/// Returns the bits of a kind in `st_mode`.
pub(crate) fn file_type(kind: Kind) -> u32 {
    match kind {
        Kind::Regular => 0o100_000,
        Kind::Directory => 0o040_000,
        Kind::Symlink => 0o120_000,
        Kind::CharacterDevice => 0o020_000,
        Kind::BlockDevice => 0o060_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
    }
}
