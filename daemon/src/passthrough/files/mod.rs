//! The files and directories that the guest has open.

pub(super) mod deferred_close;
pub(super) mod handles;
pub(super) mod sync_thread;

use self::handles::{DirHandle, FileHandle};
use crate::filesystem::Answer;
use crate::limits::HANDLES_MAX;
use crate::passthrough::slots::{Keyed, SlotTable, first_generation};
use crate::sync::budget::{Budget, Ticket};
use pinhole_policy::Limits;
use pinhole_protocol::{Errno, Handle};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open file, whose key is the guest's handle.
pub(super) type FileRef = Arc<Keyed<FileHandle>>;

/// Handles of directories differ from their keys in this bit. No index of a key has it, because
/// each handle holds a descriptor and no process has 2^31 of them. So no handle of a file is also
/// one of a directory.
const DIRECTORY_MARK: u64 = 1 << 31;

/// The files and directories that the guest has opened and not released.
#[derive(Debug)]
pub(super) struct Files {
    regular: SlotTable<FileHandle>,
    directories: SlotTable<DirHandle>,
    /// Counts handles, if the policy limits them.
    budget: Option<Budget>,
    /// Number of names that the guest has removed from files.
    names_removed: AtomicU64,
}

impl Files {
    /// Starts with no open file, under the policy's limit of open handles.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            regular: SlotTable::new(HANDLES_MAX, first_generation()),
            directories: SlotTable::new(HANDLES_MAX, first_generation()),
            budget: limits.open_handles.map(|limit| Budget::new(limit.get())),
            names_removed: AtomicU64::new(0),
        }
    }

    /// Takes the right to one more handle, if the policy counts them.
    ///
    /// # Errors
    /// ENFILE past the policy's limit.
    pub(super) fn ticket(&self) -> Answer<Option<Ticket>> {
        self.budget.as_ref().map(Budget::ticket).transpose()
    }

    /// Returns the open file of a handle.
    ///
    /// # Errors
    /// EBADF for a handle that is released, names a directory, or was never given out.
    pub(super) fn file(&self, handle: Handle) -> Answer<FileRef> {
        self.regular.get(handle.0).ok_or(Errno::EBADF)
    }

    /// Returns the open directory of a handle.
    ///
    /// # Errors
    /// EBADF for a handle that is released, names a file, or was never given out.
    pub(super) fn directory(&self, handle: Handle) -> Answer<Arc<Keyed<DirHandle>>> {
        self.directories.get(handle.0 ^ DIRECTORY_MARK).ok_or(Errno::EBADF)
    }

    /// Gives out a handle for a file.
    ///
    /// # Errors
    /// ENFILE if the table is full.
    pub(super) fn insert_file(&self, file: FileHandle) -> Answer<Handle> {
        self.regular.insert(file).map(|file| Handle(file.id())).map_err(|_full| Errno::ENFILE)
    }

    /// Gives out a handle for a directory.
    ///
    /// # Errors
    /// ENFILE if the table is full.
    pub(super) fn insert_directory(&self, directory: DirHandle) -> Answer<Handle> {
        let directory = self.directories.insert(directory).map_err(|_full| Errno::ENFILE)?;
        Ok(Handle(directory.id() ^ DIRECTORY_MARK))
    }

    /// Takes back the handle of a file. Operations under way keep the file open.
    ///
    /// # Errors
    /// As for [`Files::file`].
    pub(super) fn remove_file(&self, handle: Handle) -> Answer<FileRef> {
        self.regular.remove(handle.0).ok_or(Errno::EBADF)
    }

    /// Takes back the handle of a directory. It is closed once no operation uses it.
    ///
    /// # Errors
    /// As for [`Files::directory`].
    pub(super) fn close_directory(&self, handle: Handle) -> Answer<()> {
        self.directories.remove(handle.0 ^ DIRECTORY_MARK).map(drop).ok_or(Errno::EBADF)
    }

    /// Returns whether the handle of a file has not been taken back.
    pub(super) fn is_open(&self, file: &Keyed<FileHandle>) -> bool {
        self.regular.get(file.id()).is_some()
    }

    /// Takes back every handle.
    pub(super) fn clear(&self) {
        drop(self.regular.retain(|_| false));
        self.regular.shrink();
        drop(self.directories.retain(|_| false));
        self.directories.shrink();
    }

    /// Returns the number of handles.
    pub(super) fn len(&self) -> usize {
        self.regular.len().saturating_add(self.directories.len())
    }

    /// Notes that the guest removes a name, by UNLINK or by RENAME over it.
    pub(super) fn note_removed_name(&self) {
        self.names_removed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many names the guest has removed.
    pub(super) fn names_removed(&self) -> u64 {
        self.names_removed.load(Ordering::Relaxed)
    }
}
