//! Directories: sorted blocks of entries and names.
//!
//! A block begins with entries of 12 bytes. The first entry's name offset is the end of the
//! entries, so it tells their number. The names follow in the same order without a separator. The
//! last name ends at a NUL or at the end of the block.

use core::cmp::Ordering;
use core::ops::ControlFlow;

use arrayvec::ArrayVec;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use crate::abi::Dirent;
use crate::error::{Corruption, ReadError};
use crate::image::Image;
use crate::inode::{Inode, Kind, Nid};
use crate::limits::{BLOCK_LEN, BLOCK_SIZE, MAX_NAME};
use crate::source::Source;

/// Bytes of an entry without its name.
const ENTRY: usize = size_of::<Dirent>();

/// Cookie behind the `.` of a directory that has no entry for it.
const BEHIND_OMITTED_DOT: u64 = 1;

/// Entry that a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its inode.
    pub nid: Nid,
    /// Its kind, as the directory says.
    pub kind: Kind,
}

/// Entry of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'n> {
    /// Its inode.
    pub nid: Nid,
    /// Its kind, as the directory says.
    pub kind: Kind,
    /// Its name: 1 to 255 bytes, without `/` and NUL.
    pub name: &'n [u8],
    /// Cookie of the entry behind this one.
    pub next: u64,
}

/// Block of a directory.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Byte in the image.
    start: u64,
    /// Bytes in use.
    len: usize,
}

/// Decoded entry, with the place of its name in the block.
#[derive(Debug, Clone, Copy)]
struct Entry {
    nid: u64,
    file_type: u8,
    name_start: usize,
    /// End of the name, or of the bytes that hold it and a NUL.
    name_limit: usize,
    is_last: bool,
}

type Name = ArrayVec<u8, MAX_NAME>;

impl<S: Source> Image<S> {
    /// Finds a name in a directory. `.` is the directory itself.
    ///
    /// # Errors
    ///
    /// The inode is no directory, or a block on the way to the name is malformed.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<Found>, ReadError> {
        let blocks = block_count(directory)?;
        if name == b"." {
            return Ok(Some(Found { nid: directory.nid, kind: Kind::Directory }));
        }
        let Some(number) = self.last_block_before(directory, blocks, name)? else { return Ok(None) };
        let block = self.directory_block(directory, number)?;
        let count = self.entry_count(directory, block)?;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = usize::midpoint(low, high);
            let entry = self.entry(directory, block, middle, count)?;
            match self.name(directory, block, entry)?.as_slice().cmp(name) {
                Ordering::Less => low = middle.saturating_add(1),
                Ordering::Greater => high = middle,
                Ordering::Equal => {
                    let kind = kind(directory, entry.file_type)?;
                    return Ok(Some(Found { nid: Nid(entry.nid), kind }));
                }
            }
        }
        Ok(None)
    }

    /// Returns the last block whose first name is not behind `name`.
    fn last_block_before(
        &self,
        directory: &Inode,
        blocks: u64,
        name: &[u8],
    ) -> Result<Option<u64>, ReadError> {
        let (mut low, mut high) = (0, blocks);
        while low < high {
            let middle = u64::midpoint(low, high);
            let block = self.directory_block(directory, middle)?;
            let count = self.entry_count(directory, block)?;
            let first = self.entry(directory, block, 0, count)?;
            if self.name(directory, block, first)?.as_slice() <= name {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1))
    }

    /// Calls `each` for the entries of a directory from `cookie` on, until it returns `Break`.
    ///
    /// Cookie 0 is the start. Other cookies are those in [`DirEntry::next`].
    ///
    /// # Errors
    ///
    /// The inode is no directory, the cookie is no entry's, or a block is malformed. Entries before
    /// a malformed block were then listed.
    pub fn read_dir(
        &self,
        directory: &Inode,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let blocks = block_count(directory)?;
        let mut cookie = cookie;
        if directory.dot_omitted {
            if cookie == 0 {
                let kind = Kind::Directory;
                let next = BEHIND_OMITTED_DOT;
                if each(DirEntry { nid: directory.nid, kind, name: b".", next }).is_break() {
                    return Ok(());
                }
                cookie = BEHIND_OMITTED_DOT;
            }
            if cookie == BEHIND_OMITTED_DOT {
                cookie = 0;
            }
        }
        let (mut number, within) = (cookie / BLOCK_SIZE, cookie % BLOCK_SIZE);
        let mut index = usize::try_from(within).unwrap_or(BLOCK_LEN) / ENTRY;
        if within % 12 != 0 || number > blocks || (number == blocks && within != 0) {
            return Err(ReadError::Cookie);
        }
        while number < blocks {
            if self.list_block(directory, number, index, each)?.is_break() {
                return Ok(());
            }
            index = 0;
            number = number.saturating_add(1);
        }
        Ok(())
    }

    /// Calls `each` for the entries of one block from `first` on.
    fn list_block(
        &self,
        directory: &Inode,
        number: u64,
        first: usize,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let block = self.directory_block(directory, number)?;
        let mut buffer = [0; BLOCK_LEN];
        let bytes = buffer.get_mut(..block.len).unwrap_or_default();
        self.source.copy(block.start, bytes)?;
        let bytes: &[u8] = bytes;
        let count = copied_entry(bytes, 0).and_then(|entry| count(entry, block.len));
        let count = count.ok_or_else(|| directory.corrupt(Corruption::EntryOffset))?;
        if first >= count {
            return Err(ReadError::Cookie);
        }
        let base = number.saturating_mul(BLOCK_SIZE);
        for index in first..count {
            let behind = index.saturating_add(1);
            let following = if behind < count { copied_entry(bytes, behind) } else { None };
            let entry = copied_entry(bytes, index).and_then(|raw| entry(raw, following, count, block.len));
            let entry = entry.ok_or_else(|| directory.corrupt(Corruption::EntryOffset))?;
            let name = bytes.get(entry.name_start..entry.name_limit).unwrap_or_default();
            let name =
                if entry.is_last { name.split(|byte| *byte == 0).next().unwrap_or_default() } else { name };
            if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                return Err(directory.corrupt(Corruption::EntryName));
            }
            let kind = kind(directory, entry.file_type)?;
            let next =
                if entry.is_last { BLOCK_SIZE } else { u64::try_from(behind * ENTRY).unwrap_or(BLOCK_SIZE) };
            let next = base.saturating_add(next);
            if each(DirEntry { nid: Nid(entry.nid), kind, name, next }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Finds a block of a directory.
    fn directory_block(&self, directory: &Inode, number: u64) -> Result<Block, ReadError> {
        let offset = number.saturating_mul(BLOCK_SIZE);
        let len = directory.size.saturating_sub(offset).min(BLOCK_SIZE);
        let (start, contiguous) = self.content(directory, offset)?;
        if contiguous < len {
            return Err(directory.corrupt(Corruption::ContentPlace));
        }
        Ok(Block { start, len: usize::try_from(len).unwrap_or(BLOCK_LEN) })
    }

    /// Reads the number of entries of a block.
    fn entry_count(&self, directory: &Inode, block: Block) -> Result<usize, ReadError> {
        let corrupt = || directory.corrupt(Corruption::EntryOffset);
        if block.len < ENTRY {
            return Err(corrupt());
        }
        let mut first = Dirent::new_zeroed();
        self.source.copy(block.start, first.as_mut_bytes())?;
        count(first, block.len).ok_or_else(corrupt)
    }

    /// Reads entry `index` of `count` in a block.
    fn entry(&self, directory: &Inode, block: Block, index: usize, count: usize) -> Result<Entry, ReadError> {
        let mut pair = [Dirent::new_zeroed(); 2];
        let has_following = index.saturating_add(1) < count;
        let read = pair.get_mut(..if has_following { 2 } else { 1 }).unwrap_or_default();
        let offset = u64::try_from(index.saturating_mul(ENTRY)).unwrap_or(BLOCK_SIZE);
        self.source.copy(block.start.saturating_add(offset), read.as_mut_bytes())?;
        let [raw, following] = pair;
        let entry = entry(raw, has_following.then_some(following), count, block.len);
        entry.ok_or_else(|| directory.corrupt(Corruption::EntryOffset))
    }

    /// Reads the name of an entry.
    fn name(&self, directory: &Inode, block: Block, entry: Entry) -> Result<Name, ReadError> {
        let mut buffer = [0; MAX_NAME + 1];
        let len = entry.name_limit.saturating_sub(entry.name_start).min(buffer.len());
        let bytes = buffer.get_mut(..len).unwrap_or_default();
        let offset = u64::try_from(entry.name_start).unwrap_or(BLOCK_SIZE);
        self.source.copy(block.start.saturating_add(offset), bytes)?;
        let end = if entry.is_last { bytes.iter().position(|byte| *byte == 0) } else { None };
        let name = bytes.get(..end.unwrap_or(len)).unwrap_or_default();
        let valid = Name::try_from(name).ok().filter(|name| !name.is_empty());
        valid.ok_or_else(|| directory.corrupt(Corruption::EntryName))
    }
}

/// Returns the number of blocks of a directory.
fn block_count(directory: &Inode) -> Result<u64, ReadError> {
    if directory.kind == Kind::Directory {
        Ok(directory.size.div_ceil(BLOCK_SIZE))
    } else {
        Err(ReadError::Kind)
    }
}

/// Returns entry `index` of a copied block.
fn copied_entry(block: &[u8], index: usize) -> Option<Dirent> {
    let bytes = block.get(index.checked_mul(ENTRY)?..)?;
    Some(Dirent::read_from_prefix(bytes).ok()?.0)
}

/// Returns the number of entries of a block of `len` bytes, by its first entry.
fn count(first: Dirent, len: usize) -> Option<usize> {
    let end = usize::from(first.nameoff.get());
    (end >= ENTRY && end < len && end.is_multiple_of(ENTRY)).then_some(end / ENTRY)
}

/// Checks the offsets of an entry in a block of `count` entries and `len` bytes.
fn entry(raw: Dirent, following: Option<Dirent>, count: usize, len: usize) -> Option<Entry> {
    let name_start = usize::from(raw.nameoff.get());
    let name_limit = following.map_or(len, |following| usize::from(following.nameoff.get()));
    let ordered = count * ENTRY <= name_start && name_start < name_limit && name_limit <= len;
    ordered.then_some(Entry {
        nid: raw.nid.get(),
        file_type: raw.file_type,
        name_start,
        name_limit,
        is_last: following.is_none(),
    })
}

/// Decodes the file type of an entry.
fn kind(directory: &Inode, file_type: u8) -> Result<Kind, ReadError> {
    match file_type {
        1 => Ok(Kind::Regular),
        2 => Ok(Kind::Directory),
        3 => Ok(Kind::CharacterDevice),
        4 => Ok(Kind::BlockDevice),
        5 => Ok(Kind::Fifo),
        6 => Ok(Kind::Socket),
        7 => Ok(Kind::Symlink),
        other => Err(directory.corrupt(Corruption::EntryType(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::InodeExtended;
    use crate::fixture::{Fixture, OwnedBytes, directory_block};

    /// Returns an image whose root has two full blocks and an inline tail, with `names` in each.
    fn three_blocks(dot_omitted: bool) -> (Image<OwnedBytes>, Vec<Vec<u8>>) {
        let mut names: Vec<Vec<u8>> =
            (0..400).map(|at| format!("{at:03}{}", "n".repeat(at % 20)).into_bytes()).collect();
        names.insert(0, b"..".to_vec());
        if !dot_omitted {
            names.insert(0, b".".to_vec());
        }
        names.sort();
        let entries: Vec<_> = names.iter().map(|name| (name.as_slice(), 0, 2)).collect();
        let mut fixture = Fixture::new();
        let (first, rest) = entries.split_at(150);
        let (second, tail) = rest.split_at(150);
        fixture.block(&directory_block(first));
        fixture.block(&directory_block(second));
        let tail = directory_block(tail);
        let set = |inode: &mut InodeExtended| {
            inode.i_format = (1 | 2 << 1 | u16::from(dot_omitted) << 4).into();
            inode.i_mode = 0o040_755.into();
            inode.i_size = (8192 + tail.len() as u64).into();
            inode.i_u = 3.into();
        };
        fixture.extended(set, &tail);
        assert_eq!(fixture.data_start(), 3);
        (fixture.open(), names)
    }

    fn root(image: &Image<OwnedBytes>) -> Inode {
        image.inode(image.superblock().root).unwrap()
    }

    #[test]
    fn each_name_is_found_and_no_other() {
        for dot_omitted in [false, true] {
            let (image, names) = three_blocks(dot_omitted);
            let root = root(&image);
            for name in &names {
                assert!(image.lookup(&root, name).unwrap().is_some(), "{name:?}");
            }
            for absent in [b"".as_slice(), b"00", b"999", b"...", b"150", &[255; 256]] {
                assert_eq!(image.lookup(&root, absent).unwrap(), None, "{absent:?}");
            }
            assert_eq!(image.lookup(&root, b".").unwrap().unwrap().nid, root.nid);
        }
    }

    #[test]
    fn listing_resumes_at_each_cookie() {
        for dot_omitted in [false, true] {
            let (image, mut names) = three_blocks(dot_omitted);
            if dot_omitted {
                names.insert(0, b".".to_vec());
            }
            let root = root(&image);
            let mut cookie = 0;
            for expected in &names {
                let mut seen = None;
                let mut take = |entry: DirEntry<'_>| {
                    seen = Some((entry.name.to_vec(), entry.next));
                    ControlFlow::Break(())
                };
                image.read_dir(&root, cookie, &mut take).unwrap();
                let (name, next) = seen.unwrap();
                assert_eq!(&name, expected);
                cookie = next;
            }
            image.read_dir(&root, cookie, &mut |entry| panic!("{entry:?}")).unwrap();
        }
    }

    #[test]
    fn unknown_cookie_is_an_error() {
        let (image, _) = three_blocks(false);
        let root = root(&image);
        for cookie in [1, 11, 150 * 12, 4096 + 13, 3 * 4096 + 12, 4 * 4096, u64::MAX] {
            let found = image.read_dir(&root, cookie, &mut |_| ControlFlow::Break(()));
            assert_eq!(found, Err(ReadError::Cookie), "{cookie}");
        }
    }

    /// Returns an image whose root has one inline block.
    fn one_block(block: &[u8]) -> Image<OwnedBytes> {
        let mut fixture = Fixture::new();
        let set = |inode: &mut InodeExtended| {
            inode.i_format = (1 | 2 << 1).into();
            inode.i_mode = 0o040_755.into();
            inode.i_size = (block.len() as u64).into();
        };
        fixture.extended(set, block);
        fixture.open()
    }

    #[test]
    fn name_behind_the_block_is_an_error() {
        let mut block = directory_block(&[(b"a", 0, 1), (b"b", 0, 1)]);
        let end = u16::try_from(block.len()).unwrap();
        for offset in [end, end + 1, u16::MAX] {
            block[20..22].copy_from_slice(&offset.to_le_bytes());
            let image = one_block(&block);
            let root = root(&image);
            let corrupt = root.corrupt(Corruption::EntryOffset);
            assert_eq!(image.lookup(&root, b"b"), Err(corrupt), "{offset}");
            assert_eq!(image.read_dir(&root, 0, &mut |_| ControlFlow::Continue(())), Err(corrupt));
        }
    }

    #[test]
    fn malformed_entries_are_errors() {
        let list = |block: &[u8]| {
            let image = one_block(block);
            image.read_dir(&root(&image), 0, &mut |_| ControlFlow::Continue(()))
        };
        let corrupt = |what| Err(ReadError::Corrupt { nid: 0, what });
        assert_eq!(list(&directory_block(&[(b"a/b", 0, 1)])), corrupt(Corruption::EntryName));
        assert_eq!(list(&directory_block(&[(b"a\0b", 0, 1), (b"c", 0, 1)])), corrupt(Corruption::EntryName));
        assert_eq!(list(&directory_block(&[(&[b'a'; 256], 0, 1)])), corrupt(Corruption::EntryName));
        assert_eq!(list(&directory_block(&[(b"a", 0, 8)])), corrupt(Corruption::EntryType(8)));
        assert_eq!(list(&directory_block(&[(b"", 0, 1), (b"b", 0, 1)])), corrupt(Corruption::EntryOffset));
        assert_eq!(list(&[0; 11]), corrupt(Corruption::EntryOffset));
        assert_eq!(list(&[0; 40]), corrupt(Corruption::EntryOffset));
    }
}
