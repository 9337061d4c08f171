//! Directories as blocks of entries.

use zerocopy::IntoBytes as _;

use crate::abi::Dirent;
use crate::inode::Kind;
use crate::limits::{BLOCK_LEN, BLOCK_SIZE};

/// NamedInode of a directory with its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedInode<'t> {
    pub(super) name: &'t [u8],
    pub(super) nid: u64,
    pub(super) kind: Kind,
}

/// Bytes of a directory: full blocks, and the bytes of the last block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DirectorySize {
    pub(super) blocks: u64,
    pub(super) tail: usize,
}

impl DirectorySize {
    /// Returns all bytes.
    pub(super) fn bytes(self) -> u64 {
        self.blocks * BLOCK_SIZE + u64::try_from(self.tail).unwrap_or_default()
    }
}

/// Returns the size of a directory with these sorted names, and `.` and `..`.
pub(super) fn size<'t>(names: impl Iterator<Item = &'t [u8]>) -> DirectorySize {
    let mut size = DirectorySize::default();
    let mut dots = [b".".as_slice(), b".."].into_iter().peekable();
    let mut add = |name: &[u8]| {
        let bytes = size_of::<Dirent>() + name.len();
        if size.tail + bytes > BLOCK_LEN {
            size = DirectorySize { blocks: size.blocks + 1, tail: 0 };
        }
        size.tail += bytes;
    };
    for name in names {
        while let Some(dot) = dots.next_if(|dot| *dot < name) {
            add(dot);
        }
        add(name);
    }
    dots.for_each(&mut add);
    if size.tail == BLOCK_LEN {
        size = DirectorySize { blocks: size.blocks + 1, tail: 0 };
    }
    size
}

/// Calls `each` with the bytes of each block of a directory. The last block may be short.
pub(super) fn each_block<E>(
    entries: &[NamedInode<'_>],
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = |entry: &&NamedInode<'_>| {
            used += size_of::<Dirent>() + entry.name.len();
            used <= BLOCK_LEN
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (block, next) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        let mut bytes = encode(block);
        if !next.is_empty() {
            bytes.resize(BLOCK_LEN, 0);
        }
        each(&bytes)?;
        rest = next;
    }
    Ok(())
}

/// Encodes the entries of one block, which begin at byte 0 of it.
fn encode(entries: &[NamedInode<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_LEN);
    let mut offset = entries.len() * size_of::<Dirent>();
    for entry in entries {
        let nameoff = u16::try_from(offset).unwrap_or(u16::MAX).into();
        let dirent = Dirent { nid: entry.nid.into(), nameoff, file_type: file_type(entry.kind), reserved: 0 };
        bytes.extend_from_slice(dirent.as_bytes());
        offset += entry.name.len();
    }
    for entry in entries {
        bytes.extend_from_slice(entry.name);
    }
    bytes
}

/// Returns the number of a kind in an entry.
fn file_type(kind: Kind) -> u8 {
    match kind {
        Kind::Regular => 1,
        Kind::Directory => 2,
        Kind::CharacterDevice => 3,
        Kind::BlockDevice => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink => 7,
    }
}
