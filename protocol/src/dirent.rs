//! Directory entries packed for READDIR and READDIRPLUS.

use crate::reply::entry_out;
use crate::{Attr, Entry, NodeId, Timeouts, abi};
use std::fmt;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

/// What an entry is, in the `DT_` numbers of `getdents64(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DirentKind(u32);

#[expect(missing_docs, reason = "the DT_ constants of readdir(3)")]
impl DirentKind {
    pub const UNKNOWN: Self = Self(0);
    pub const FIFO: Self = Self(1);
    pub const CHARACTER: Self = Self(2);
    pub const DIRECTORY: Self = Self(4);
    pub const BLOCK: Self = Self(6);
    pub const REGULAR: Self = Self(8);
    pub const SYMLINK: Self = Self(10);
    pub const SOCKET: Self = Self(12);
    pub const WHITEOUT: Self = Self(14);

    /// The kind with this `DT_` number.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The kind in the file type bits of `st_mode`.
    pub const fn from_mode(mode: u32) -> Self {
        Self((mode & 0o170_000) >> 12)
    }

    /// Its `DT_` number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// Inode number.
    pub ino: u64,
    /// The cookie that continues after this entry.
    pub offset: u64,
    /// What it is.
    pub kind: DirentKind,
    /// Its name, 1 to 255 bytes as the host's file system gives it.
    pub name: &'a [u8],
}

/// The entry does not fit the guest's buffer; the reply is complete without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory buffer is full")]
pub struct Full;

/// Whether the guest may map a node's file through the DAX window.
type TellDax<'b> = &'b dyn Fn(NodeId, &Attr) -> bool;

/// A READDIR or READDIRPLUS reply body while it grows.
pub struct DirentBuffer<'b> {
    bytes: &'b mut Vec<u8>,
    capacity: usize,
    timeouts: Option<Timeouts>,
    tell_dax: Option<TellDax<'b>>,
}

impl fmt::Debug for DirentBuffer<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, capacity, timeouts, tell_dax: _ } = self;
        out.debug_struct("DirentBuffer")
            .field("bytes", bytes)
            .field("capacity", capacity)
            .field("timeouts", timeouts)
            .finish_non_exhaustive()
    }
}

impl<'b> DirentBuffer<'b> {
    /// Empties `bytes` and packs into them, at most `capacity` bytes: the smaller of what the guest asked for and
    /// what its reply buffer holds. Memory grows with the entries, not with `capacity`.
    ///
    /// `timeouts` makes it a READDIRPLUS reply.
    pub fn new(bytes: &'b mut Vec<u8>, capacity: usize, timeouts: Option<Timeouts>) -> Self {
        bytes.clear();
        Self { bytes, capacity, timeouts, tell_dax: None }
    }

    /// Has each entry's `FUSE_ATTR_DAX` said by this.
    pub fn tell_dax(&mut self, tell_dax: TellDax<'b>) {
        self.tell_dax = Some(tell_dax);
    }

    /// Whether the entries carry attributes.
    pub const fn is_plus(&self) -> bool {
        self.timeouts.is_some()
    }

    /// Whether nothing was packed yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes packed so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that are left.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    /// Whether an entry with a name of so many bytes fits. Ask before a lookup reference is taken for it.
    pub fn fits(&self, name_len: usize) -> bool {
        self.end_after(name_len).is_some()
    }

    /// Packs one entry of READDIR. In a READDIRPLUS reply it is one without attributes.
    ///
    /// # Errors
    /// [`Full`] if it does not fit; nothing was packed.
    pub fn push(&mut self, dirent: &Dirent<'_>) -> Result<(), Full> {
        self.push_plus(None, dirent)
    }

    /// Packs one entry of READDIRPLUS. `None` takes no lookup reference (node 0): the guest asks when it needs to.
    ///
    /// # Errors
    /// [`Full`] if it does not fit; nothing was packed.
    pub fn push_plus(&mut self, entry: Option<&Entry>, dirent: &Dirent<'_>) -> Result<(), Full> {
        let end = self.end_after(dirent.name.len()).ok_or(Full)?;
        let name_len = u32::try_from(dirent.name.len()).map_err(|_too_long| Full)?;
        if let Some(timeouts) = self.timeouts {
            let mut entry_out = entry.map_or_else(abi::EntryOut::default, |entry| entry_out(entry, timeouts));
            if let (Some(tell_dax), Some(entry)) = (self.tell_dax, entry) {
                let dax = if tell_dax(entry.node, &entry.attr) { abi::FUSE_ATTR_DAX } else { 0 };
                entry_out.attr.flags |= U32::new(dax);
            }
            self.bytes.extend_from_slice(entry_out.as_bytes());
        }
        let head = abi::Dirent {
            ino: U64::new(dirent.ino),
            off: U64::new(dirent.offset),
            namelen: U32::new(name_len),
            r#type: U32::new(dirent.kind.raw()),
        };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(dirent.name);
        self.bytes.resize(end, 0);
        Ok(())
    }

    /// Where the buffer would end after such an entry, padded to eight bytes, if that is within the capacity.
    fn end_after(&self, name_len: usize) -> Option<usize> {
        let head_len = if self.is_plus() { size_of::<abi::Direntplus>() } else { size_of::<abi::Dirent>() };
        let record_len = head_len.checked_add(name_len)?.checked_next_multiple_of(8)?;
        self.bytes.len().checked_add(record_len).filter(|&end| end <= self.capacity)
    }
}

impl Entry {
    /// "No such name, and remember that": the answer to a failed LOOKUP that the guest may cache.
    pub fn negative() -> Self {
        Self { node: NodeId(0), generation: 0, attr: Attr::default() }
    }
}
