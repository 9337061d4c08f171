//! A walk through an image that checks the promises of the reader, for tests and for fuzzing.
//!
//! The image may be hostile. The walk itself is bounded, and it asserts that each call makes a
//! bounded number of copies and that each result is inside the image or a device.

use core::cell::Cell;
use core::ops::ControlFlow;
use std::collections::BTreeSet;

use crate::data::Place;
use crate::error::ReadError;
use crate::image::Image;
use crate::inode::{Inode, Kind, Nid};
use crate::source::{Source, SourceError};
use crate::superblock::Device;

/// Inodes that a walk visits.
const INODES: usize = 64;

/// Entries of one directory, and extents of one file, that a walk visits.
const PARTS: usize = 64;

/// Copies that each call may make.
mod bound {
    /// The two halves of an inode.
    pub(super) const INODE: u64 = 2;
    /// At most 51 blocks in a binary search and 9 entries in a block, with 4 copies each.
    pub(super) const LOOKUP: u64 = 4 * (51 + 9 + 2);
    /// A block and its address, for each entry that is returned.
    pub(super) const LIST: u64 = 2;
    /// The target and its address.
    pub(super) const LINK: u64 = 2;
    /// 1,024 own attributes and 255 shared ones with two copies each, two headers and a value.
    pub(super) const XATTRS: u64 = 2 * (1024 + 255) + 3;
    /// 512 chunks, 64 at once.
    pub(super) const EXTENT: u64 = 8;
    /// 65,536 chunks, 64 at once.
    pub(super) const SEEK: u64 = 1024;
}

/// Source that counts the copies from it.
#[derive(Debug)]
pub struct Counted<S> {
    source: S,
    copies: Cell<u64>,
}

impl<S> Counted<S> {
    /// Counts the copies from a source.
    pub fn new(source: S) -> Self {
        Self { source, copies: Cell::new(0) }
    }
}

impl<S: Source> Source for Counted<S> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.copies.set(self.copies.get().saturating_add(1));
        self.source.copy(offset, into)
    }
}

/// Opens an image with data files of the lengths that it needs, and reads what it can reach. `nids`
/// are more inode numbers to try, as a guest may forge them. Returns the number of inodes that it
/// could read.
///
/// # Panics
///
/// If the reader breaks a promise.
pub fn walk<S: Source>(source: S, nids: &[u64]) -> usize {
    let source = Counted::new(source);
    let Ok(superblock) = Image::probe(&source) else { return 0 };
    let lengths: Vec<u64> = superblock.devices.iter().map(Device::bytes).collect();
    let Ok(image) = Image::open(source, &lengths) else { return 0 };
    let mut waiting: Vec<Nid> = nids.iter().copied().map(Nid).collect();
    waiting.push(image.superblock().root);
    let mut seen = BTreeSet::new();
    let mut read = 0;
    while let Some(nid) = waiting.pop() {
        if seen.len() < INODES && seen.insert(nid) && visit(&image, nid, &mut waiting) {
            read += 1;
        }
    }
    read
}

/// Calls `call`, and checks that it copies at most `limit` times.
fn bounded<S: Source, R>(image: &Image<Counted<S>>, limit: u64, call: impl FnOnce() -> R) -> R {
    let before = image.source().copies.get();
    let result = call();
    let copies = image.source().copies.get().saturating_sub(before);
    assert!(copies <= limit, "{copies} copies, limit {limit}");
    result
}

/// Reads everything about one inode. Returns whether it is one.
fn visit<S: Source>(image: &Image<Counted<S>>, nid: Nid, waiting: &mut Vec<Nid>) -> bool {
    let Ok(inode) = bounded(image, bound::INODE, || image.inode(nid)) else { return false };
    assert!(i64::try_from(inode.size).is_ok(), "size {}", inode.size);
    visit_xattrs(image, &inode);
    match inode.kind {
        Kind::Directory => visit_entries(image, &inode, waiting),
        Kind::Regular => visit_data(image, &inode),
        Kind::Symlink | Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {}
    }
    let mut target = Vec::new();
    if bounded(image, bound::LINK, || image.read_link(&inode, &mut target)).is_ok() {
        assert!(inode.kind == Kind::Symlink && (1..=4095).contains(&target.len()), "{inode:?}");
    }
    true
}

/// Reads the attributes of an inode.
fn visit_xattrs<S: Source>(image: &Image<Counted<S>>, inode: &Inode) {
    let mut names = Vec::new();
    let listed = bounded(image, bound::XATTRS, || {
        image.xattrs(inode, &mut |name, length| {
            names.push((name.to_vec(), length));
            ControlFlow::Continue(())
        })
    });
    for (name, _) in names.iter().take(PARTS) {
        assert!(name.len() <= 255 && !name.contains(&0), "{name:?}");
        let mut value = Vec::new();
        let found = bounded(image, bound::XATTRS, || image.get_xattr(inode, name, &mut value));
        assert!(found.is_err() || found == Ok(None) || found == Ok(Some(value.len())), "{found:?}");
    }
    if listed.is_ok() {
        let found = image.get_xattr(inode, b"user.absent", &mut Vec::new());
        let is_listed = names.iter().any(|(name, _)| name == b"user.absent");
        assert!(is_listed || !matches!(found, Ok(Some(_))), "{found:?}");
    }
}

/// Reads the entries of a directory, and looks each up.
fn visit_entries<S: Source>(image: &Image<Counted<S>>, directory: &Inode, waiting: &mut Vec<Nid>) {
    let mut cookie = 0;
    for _ in 0..PARTS {
        let mut found = None;
        let listed = bounded(image, bound::LIST, || {
            image.read_dir(directory, cookie, &mut |entry| {
                found = Some((entry.name.to_vec(), entry.nid, entry.next));
                ControlFlow::Break(())
            })
        });
        let Some((name, nid, next)) = found else { break };
        assert_eq!(listed, Ok(()), "an entry and an error");
        assert!(next > cookie, "cookie {next} behind {cookie}");
        assert!((1..=255).contains(&name.len()), "{name:?}");
        assert!(!name.contains(&0) && !name.contains(&b'/'), "{name:?}");
        cookie = next;
        waiting.push(nid);
        // In a hostile image the names may be unsorted, so any result is right.
        let looked_up = bounded(image, bound::LOOKUP, || image.lookup(directory, &name));
        if let Ok(Some(found)) = looked_up {
            waiting.push(found.nid);
        }
    }
    let absent = bounded(image, bound::LOOKUP, || image.lookup(directory, b"an absent name/"));
    assert!(!matches!(absent, Ok(Some(_))), "{absent:?}");
}

/// Reads where the data of a file is.
fn visit_data<S: Source>(image: &Image<Counted<S>>, inode: &Inode) {
    let mut offset = 0;
    for _ in 0..PARTS {
        let Ok(extent) = bounded(image, bound::EXTENT, || image.extent(inode, offset)) else { break };
        assert!(extent.length > 0 && extent.length <= inode.size.saturating_sub(offset), "{extent:?}");
        let (start, bytes) = match extent.place {
            Place::Hole => (0, u64::MAX),
            Place::Image { offset } => (offset, image.source().len()),
            Place::Device { index, offset } => {
                let device = image.devices().get(usize::from(index));
                (offset, device.map_or(0, Device::bytes))
            }
        };
        assert!(start.checked_add(extent.length).is_some_and(|end| end <= bytes), "{extent:?}");
        for at in [offset, offset.saturating_add(extent.length / 2)] {
            let data = bounded(image, bound::SEEK, || image.seek_data(inode, at));
            let hole = bounded(image, bound::SEEK, || image.seek_hole(inode, at));
            let inside = |found: Option<u64>| found.is_none_or(|found| (at..=inode.size).contains(&found));
            assert!(data.is_err() || data.is_ok_and(inside), "{data:?} from {at}");
            assert!(hole.is_err() || hole.is_ok_and(inside), "{hole:?} from {at}");
        }
        offset = offset.saturating_add(extent.length);
    }
    assert_eq!(image.extent(inode, inode.size), Err(ReadError::Offset));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{DeviceSlot, InodeCompact, InodeExtended};
    use crate::fixture::{Fixture, directory_block};
    use crate::write::{Content, DataExtent, InodeIndex, NewDevice, NewFile, NewInode, Tree, write};
    use zerocopy::FromZeros as _;

    /// Byte of `feature_compat`, whose lowest bit is SB_CHKSUM.
    const FEATURES: usize = 1024 + 8;

    /// Random numbers from a seed (xorshift64*).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit
        }
    }

    /// Returns an image of the writer with every kind, chunks, attributes and a full block, without
    /// a checksum, which would hide changes to the first block.
    fn written() -> Vec<u8> {
        let inode = |content, xattrs: &[(&str, &str)]| NewInode {
            permissions: 0o644,
            uid: 0,
            gid: 0,
            mtime: crate::Time::default(),
            xattrs: xattrs
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect(),
            content,
        };
        let extent = |offset| DataExtent { offset, device: 0, start: 8192, length: 4096 };
        let shared = [("trusted.label", "system_u:object_r:usr_t:s0"), ("user.a", "own")];
        let names = |count: u32| {
            let name = |at: u32| (format!("name {at:03}").into_bytes(), InodeIndex(1 + at % 6));
            Content::Directory(
                (0..count).map(name).chain([(b"a directory".to_vec(), InodeIndex(7))]).collect(),
            )
        };
        let file = |extents: Vec<DataExtent>| Content::File(NewFile { size: 20_000, extents });
        let inodes = vec![
            inode(names(230), &shared),
            inode(file(vec![extent(0)]), &shared),
            inode(file(vec![extent(4096), extent(12_288)]), &shared[..1]),
            inode(Content::Symlink(b"target".to_vec()), &[]),
            inode(Content::CharacterDevice(3), &[]),
            inode(Content::Fifo, &[]),
            inode(Content::Symlink(vec![b'x'; 4095]), &[]),
            inode(Content::Directory([(b"up".to_vec(), InodeIndex(1))].into()), &[]),
        ];
        let tree = Tree { inodes, devices: vec![NewDevice { tag: [1; 64], blocks: 50 }] };
        let mut bytes = Vec::new();
        write(&tree, [0; 16], &mut bytes).unwrap();
        bytes[FEATURES] &= !1;
        bytes
    }

    /// Returns an image with the forms that the writer does not use.
    fn foreign() -> Vec<u8> {
        let mut fixture = Fixture::new();
        fixture.superblock.feature_incompat = 0xcc.into();
        fixture.shared = vec![4, 1, 3, 0, b'n', b'a', b'm', b'e', b'v', b'a', b'l', 0];
        fixture.shared.extend([8, 0, 4, b'o', b'v', b'e', b'r', b'l', b'a', b'y']);
        fixture.superblock.xattr_prefix_count = 1;
        fixture.superblock.xattr_prefix_start = ((4096 + 12) / 4).into();
        let mut slot = DeviceSlot::new_zeroed();
        (slot.blocks_lo, slot.uniaddr_lo) = (9.into(), 1000.into());
        fixture.devices.push(slot);
        let xattrs = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 2, 0, b'x', b'y', b'z', 0];
        let compact = |inode: &mut InodeCompact| {
            (inode.i_format, inode.i_mode) = ((2 << 1).into(), 0o100_644.into());
            (inode.i_size, inode.i_xattr_icount) = (100.into(), 4.into());
        };
        let file = fixture.compact(compact, &[&xattrs[..], &[9; 100]].concat());
        let table = [[0, 0, 1, 0, 2, 0, 0, 0], [0xff; 8], [0, 0, 0, 0, 0xe8, 3, 0, 0]].concat();
        let chunks = |inode: &mut InodeExtended| {
            (inode.i_format, inode.i_mode) = ((1 | 4 << 1).into(), 0o100_644.into());
            (inode.i_size, inode.i_u) = (12_000.into(), 0x60.into());
        };
        let chunked = fixture.extended(chunks, &table);
        let block = directory_block(&[(b"..", 0, 2), (b"a", file, 1), (b"b", chunked, 1)]);
        fixture.block(&block);
        let map = |inode: &mut InodeExtended| {
            (inode.i_format, inode.i_mode) = ((1 | 4 << 1 | 1 << 4).into(), 0o040_755.into());
            inode.i_size = (block.len() as u64).into();
        };
        let directory = fixture.extended(map, &[3, 0, 0, 0]);
        fixture.root(&[(b".", 0, 2), (b"..", 0, 2), (b"chunked", chunked, 1), (b"directory", directory, 2)]);
        assert_eq!(fixture.data_start(), 3);
        fixture.bytes()
    }

    fn nids(image: &[u8]) -> [u64; 6] {
        let length = image.len() as u64;
        [0, 1, length / 32 - 1, length / 32, u64::MAX / 32, u64::MAX]
    }

    #[test]
    fn every_inode_of_the_images_is_visited() {
        assert_eq!(walk(written().as_slice(), &[]), 8);
        assert_eq!(walk(foreign().as_slice(), &[]), 4);
    }

    #[test]
    fn every_single_changed_byte_is_survived() {
        for image in [written(), foreign()] {
            let nids = nids(&image);
            let mut image = image;
            for at in 1024..image.len() {
                let original = image[at];
                let is_padding = image[at.saturating_sub(16)..].iter().take(32).all(|byte| *byte == 0);
                for changed in [original ^ 0xff, original ^ 1, original ^ 0x80, 0] {
                    if changed != original && !(is_padding && at % 32 != 0) {
                        image[at] = changed;
                        walk(image.as_slice(), &nids);
                    }
                }
                image[at] = original;
            }
        }
    }

    #[test]
    fn every_length_of_the_image_is_survived() {
        for image in [written(), foreign()] {
            for length in (0..image.len()).step_by(37) {
                walk(&image[..length], &nids(&image));
                // With a superblock that expects no more.
                let mut cut = image[..length].to_vec();
                if let Some(blocks) = cut.get_mut(1024 + 36..1024 + 40) {
                    blocks.fill(0);
                }
                walk(cut.as_slice(), &nids(&image));
            }
        }
    }

    #[test]
    fn many_changed_bytes_are_survived() {
        let mut random = Random(0x5eed);
        for image in [written(), foreign()] {
            for _ in 0..3000 {
                let mut changed = image.clone();
                for _ in 0..=random.below(20) {
                    let at = 1024 + random.below(image.len() - 1024);
                    let word = [0, 1, 0xff, u8::try_from(random.below(256)).unwrap()][random.below(4)];
                    for byte in changed.iter_mut().skip(at).take(1 + random.below(4)) {
                        *byte = word;
                    }
                }
                walk(changed.as_slice(), &nids(&image));
            }
        }
    }

    /// Source whose bytes differ from copy to copy.
    struct Changing {
        bytes: Vec<u8>,
        random: Cell<u64>,
    }

    impl Source for Changing {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
            self.bytes.as_slice().copy(offset, into)?;
            let mut random = Random(self.random.get());
            if random.below(8) == 0 && !into.is_empty() {
                let at = random.below(into.len());
                into[at] ^= u8::try_from(random.below(256)).unwrap();
            }
            self.random.set(random.0);
            Ok(())
        }
    }

    #[test]
    fn bytes_that_change_between_copies_are_survived() {
        for image in [written(), foreign()] {
            for seed in 1..3000 {
                let source = Changing { bytes: image.clone(), random: Cell::new(seed * 0x9e37_79b9) };
                walk_changing(source, &nids(&image));
            }
        }
    }

    /// Calls the reader as [`walk`] does, without the promises that need one content.
    fn walk_changing(source: Changing, nids: &[u64]) {
        let Ok(superblock) = Image::probe(&source) else { return };
        let lengths: Vec<u64> = superblock.devices.iter().map(Device::bytes).collect();
        let Ok(image) = Image::open(source, &lengths) else { return };
        let mut waiting: Vec<u64> = nids.to_vec();
        waiting.push(image.superblock().root.0);
        for _ in 0..40 {
            let Some(nid) = waiting.pop() else { break };
            let Ok(inode) = image.inode(Nid(nid)) else { continue };
            image.xattrs(&inode, &mut |_, _| ControlFlow::Continue(())).unwrap_or_default();
            image.get_xattr(&inode, b"user.a", &mut Vec::new()).unwrap_or_default();
            image.read_link(&inode, &mut Vec::new()).unwrap_or_default();
            image.lookup(&inode, b"name 100").unwrap_or_default();
            image.extent(&inode, inode.size / 2).ok();
            image.seek_data(&inode, 0).unwrap_or_default();
            image.seek_hole(&inode, 0).unwrap_or_default();
            let mut take = |entry: crate::DirEntry<'_>| {
                waiting.push(entry.nid.0);
                ControlFlow::Continue(())
            };
            image.read_dir(&inode, 0, &mut take).unwrap_or_default();
        }
    }
}
