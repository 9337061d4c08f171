//! Packs directory entries for READDIR and READDIRPLUS.

use crate::reply::entry_out;
use crate::{Attr, DirentKind, Entry, NodeId, Timeouts, abi};
use std::fmt;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// Inode number.
    pub ino: u64,
    /// Cookie with which READDIR continues after this entry.
    pub offset: u64,
    /// File type.
    pub kind: DirentKind,
    /// Name as the host's file system returns it, 1 to 255 bytes.
    pub name: &'a [u8],
}

/// The error for an entry that does not fit into the rest of the guest's buffer.
///
/// The entries that were packed before make a complete reply. If none were, the whole buffer is too
/// small for this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory buffer is full")]
pub struct Full;

/// A function that returns whether the guest may map a node's file through the DAX window.
type DaxPredicate<'b> = &'b dyn Fn(NodeId, &Attr) -> bool;

/// The body of a READDIR or READDIRPLUS reply, built entry by entry.
pub struct DirentBuffer<'b> {
    bytes: &'b mut Vec<u8>,
    /// Maximum length of `bytes`.
    capacity: usize,
    /// Timeouts of READDIRPLUS entries. `None` means READDIR.
    timeouts: Option<Timeouts>,
    dax_predicate: Option<DaxPredicate<'b>>,
}

impl fmt::Debug for DirentBuffer<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, capacity, timeouts, dax_predicate: _ } = self;
        out.debug_struct("DirentBuffer")
            .field("bytes", bytes)
            .field("capacity", capacity)
            .field("timeouts", timeouts)
            .finish_non_exhaustive()
    }
}

impl<'b> DirentBuffer<'b> {
    /// Clears `bytes` and returns a buffer that packs at most `capacity` bytes into it.
    ///
    /// `capacity` is the smaller of the size that the guest asked for and the space in its reply
    /// buffer. Memory grows with the entries, not with `capacity`. With `timeouts`, the body is
    /// that of a READDIRPLUS reply, else of a READDIR reply.
    pub fn new(bytes: &'b mut Vec<u8>, capacity: usize, timeouts: Option<Timeouts>) -> Self {
        bytes.clear();
        Self { bytes, capacity, timeouts, dax_predicate: None }
    }

    /// Sets the predicate for the flag `dax`. An entry keeps this flag only if the predicate
    /// returns true.
    pub fn set_dax_predicate(&mut self, dax_predicate: DaxPredicate<'b>) {
        self.dax_predicate = Some(dax_predicate);
    }

    /// Returns whether the entries carry attributes (READDIRPLUS).
    pub const fn is_plus(&self) -> bool {
        self.timeouts.is_some()
    }

    /// Returns whether no entry was packed yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the number of bytes packed so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the number of bytes that still fit.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    /// Returns whether an entry with a name of `name_len` bytes fits.
    ///
    /// Callers check this before they take a lookup reference for the entry.
    pub fn fits(&self, name_len: usize) -> bool {
        self.end_after(name_len).is_some()
    }

    /// Packs one entry of READDIR. In a READDIRPLUS reply, the entry has no attributes.
    ///
    /// # Errors
    /// [`Full`] if the entry does not fit. Nothing was packed then.
    pub fn push(&mut self, dirent: &Dirent<'_>) -> Result<(), Full> {
        self.push_plus(None, dirent)
    }

    /// Packs one entry of READDIRPLUS.
    ///
    /// Without `entry`, the record has node 0 and takes no lookup reference: the guest looks the
    /// name up when it needs the node. A READDIR reply ignores `entry`.
    ///
    /// # Errors
    /// [`Full`] if the entry does not fit. Nothing was packed then.
    pub fn push_plus(&mut self, entry: Option<&Entry>, dirent: &Dirent<'_>) -> Result<(), Full> {
        let end = self.end_after(dirent.name.len()).ok_or(Full)?;
        let name_len = u32::try_from(dirent.name.len()).map_err(|_too_long| Full)?;
        if let Some(timeouts) = self.timeouts {
            let marked = entry.map(|entry| {
                let may_map = self.dax_predicate.is_none_or(|may_map| may_map(entry.node, &entry.attr));
                let attr = Attr { dax: entry.attr.dax && may_map, ..entry.attr };
                entry_out(&Entry { attr, ..*entry }, timeouts)
            });
            self.bytes.extend_from_slice(marked.unwrap_or_default().as_bytes());
        }
        let head = abi::RawDirent {
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

    /// Returns the length of the buffer after one more entry, padded to eight bytes, or `None` if
    /// that exceeds the capacity.
    fn end_after(&self, name_len: usize) -> Option<usize> {
        let head_len =
            if self.is_plus() { size_of::<abi::Direntplus>() } else { size_of::<abi::RawDirent>() };
        let record_len = head_len.checked_add(name_len)?.checked_next_multiple_of(8)?;
        self.bytes.len().checked_add(record_len).filter(|&end| end <= self.capacity)
    }
}

impl Entry {
    /// Returns a negative entry: a reply to a failed LOOKUP that the guest may cache.
    pub fn negative() -> Self {
        Self { node: NodeId(0), generation: 0, attr: Attr::default() }
    }
}
