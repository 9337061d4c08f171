//! Programs: sequences of file operations and persistence operations, as data.
//!
//! | file | task |
//! |---|---|
//! | `text` | programs as lines of text, and back |
//! | `covered` | which files have no changes that the program left unsynced |

pub(crate) mod covered;
mod text;

use std::collections::BTreeSet;

/// File that an operation acts on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Path below the folder of the program. `.` is that folder.
    Path(String),
    /// File that [`Operation::Open`] opened under this number. Written as `@1`.
    Open(u8),
}

/// Way to write data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// `pwrite`.
    Buffered,
    /// `pwrite` with O_DIRECT.
    Direct,
    /// Store through a shared mapping.
    Mapped,
    /// `pwrite` with O_SYNC.
    Sync,
    /// `pwrite` with O_DSYNC.
    DataSync,
    /// `pwritev2` with RWF_SYNC.
    CallSync,
    /// `pwritev2` with RWF_DSYNC.
    CallDataSync,
    /// `pwrite` with O_DIRECT and O_DSYNC.
    DirectDataSync,
}

impl How {
    /// Returns whether data is durable when the write returns.
    pub(crate) const fn is_durable(self) -> bool {
        match self {
            Self::Buffered | Self::Direct | Self::Mapped => false,
            Self::Sync | Self::DataSync | Self::CallSync | Self::CallDataSync | Self::DirectDataSync => true,
        }
    }
}

/// Place of written bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    /// Offset of the first byte.
    pub(crate) at: u64,
    /// Number of bytes.
    pub(crate) len: u64,
}

/// Mode of `fallocate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Allocation {
    /// Reserves blocks and extends the file.
    Reserve,
    /// Reserves blocks without a new length.
    Keep,
    /// Removes blocks.
    Punch,
    /// Replaces data by zeros.
    Zero,
    /// The same without a new length.
    ZeroKeep,
    /// Removes a range.
    Collapse,
    /// Inserts a range.
    Insert,
}

/// Kind of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Move {
    /// Replaces the new name.
    Replace,
    /// Exchanges both names.
    Exchange,
}

/// Operation of a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// Creates an empty file.
    Create(String),
    /// Makes a directory.
    MakeDir(String),
    /// Writes bytes of one letter. Creates a path that does not exist.
    Write {
        /// File.
        target: Target,
        /// Place of the bytes. `None` appends `len` bytes.
        at: Option<u64>,
        /// Number of bytes.
        len: u64,
        /// Letter.
        fill: u8,
        /// Way to write.
        how: How,
    },
    /// Sets the length of a file.
    Truncate(Target, u64),
    /// Calls `fallocate`.
    Allocate(Target, Allocation, Range),
    /// Makes a hard link: existing name, new name.
    Link(String, String),
    /// Makes a symbolic link: text, name.
    SymLink(String, String),
    /// Removes a file.
    Unlink(String),
    /// Removes a directory.
    RemoveDir(String),
    /// Renames: old name, new name.
    Rename(String, String, Move),
    /// Sets an extended attribute: file, name, value.
    SetXattr(String, String, String),
    /// Removes an extended attribute.
    RemoveXattr(String, String),
    /// Opens a nameless file (O_TMPFILE) in the parent of the path, writes `len` bytes of a letter,
    /// and links it under the path.
    TempFile {
        /// Path of the link.
        path: String,
        /// Number of bytes.
        len: u64,
        /// Letter.
        fill: u8,
    },
    /// Sets the permission bits.
    SetMode(String, u32),
    /// Opens a file to read and write, under a number. A directory is opened to read.
    Open(u8, String),
    /// Closes a file.
    Close(u8),
    /// `fsync` of a file or directory.
    Sync(Target),
    /// `fdatasync`.
    DataSync(Target),
    /// `sync`.
    SyncAll,
    /// `syncfs`.
    SyncFs,
}

impl Operation {
    /// Returns whether data or names are durable when the operation returns.
    pub(crate) const fn is_persistence(&self) -> bool {
        match self {
            Self::Sync(_) | Self::DataSync(_) | Self::SyncAll | Self::SyncFs => true,
            Self::Write { how, .. } => how.is_durable(),
            Self::Create(_)
            | Self::MakeDir(_)
            | Self::Truncate(..)
            | Self::Allocate(..)
            | Self::Link(..)
            | Self::SymLink(..)
            | Self::Unlink(_)
            | Self::RemoveDir(_)
            | Self::Rename(..)
            | Self::SetXattr(..)
            | Self::RemoveXattr(..)
            | Self::TempFile { .. }
            | Self::SetMode(..)
            | Self::Open(..)
            | Self::Close(_) => false,
        }
    }
}

impl Operation {
    /// Returns the paths that the operation names.
    pub(crate) fn paths(&self) -> Vec<&str> {
        match self {
            Self::Create(path)
            | Self::MakeDir(path)
            | Self::SymLink(_, path)
            | Self::Unlink(path)
            | Self::RemoveDir(path)
            | Self::SetXattr(path, ..)
            | Self::RemoveXattr(path, _)
            | Self::TempFile { path, .. }
            | Self::SetMode(path, _)
            | Self::Open(_, path) => vec![path],
            Self::Link(from, to) | Self::Rename(from, to, _) => vec![from, to],
            Self::Write { target, .. }
            | Self::Truncate(target, _)
            | Self::Allocate(target, ..)
            | Self::Sync(target)
            | Self::DataSync(target) => match target {
                Target::Path(path) => vec![path],
                Target::Open(_) => Vec::new(),
            },
            Self::Close(_) | Self::SyncAll | Self::SyncFs => Vec::new(),
        }
    }
}

/// Operation of one guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// Number of the guest: 1, or 2 for the second guest of the same directory.
    pub(crate) guest: u8,
    /// Operation.
    pub(crate) operation: Operation,
}

/// Program: what exists and is durable at the start, and what is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Program {
    /// Operations before the start. All of them are durable at the start.
    pub(crate) setup: Vec<Operation>,
    /// Steps.
    pub(crate) steps: Vec<Step>,
}

impl Program {
    /// Returns all operations, those of the setup first.
    fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.setup.iter().chain(self.steps.iter().map(|step| &step.operation))
    }

    /// Returns all paths that the operations name.
    pub(crate) fn paths(&self) -> BTreeSet<String> {
        self.operations().flat_map(Operation::paths).filter(|path| *path != ".").map(str::to_owned).collect()
    }

    /// Returns the names of all extended attributes.
    pub(crate) fn attributes(&self) -> BTreeSet<String> {
        let name = |operation: &Operation| {
            if let Operation::SetXattr(_, name, _) | Operation::RemoveXattr(_, name) = operation {
                Some(name.clone())
            } else {
                None
            }
        };
        self.operations().filter_map(name).collect()
    }
}
