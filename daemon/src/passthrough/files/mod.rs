//! Files and directories that the guest has open.

pub(in crate::passthrough) mod deferred_close;
pub(in crate::passthrough) mod handles;
pub(in crate::passthrough) mod large;

use self::handles::{DIRECTORY_MARK, DirHandle, FileHandle, HandleTable};
use crate::filesystem::Answer;
use crate::passthrough::slots::Entry;
use crate::sync::budget::{Budget, Ticket};
use pinhole_policy::Limits;
use pinhole_protocol::Handle;
use std::sync::Arc;

/// Holds what the guest has opened and not released.
#[derive(Debug)]
pub(in crate::passthrough) struct Files {
    regular: HandleTable<FileHandle>,
    directories: HandleTable<DirHandle>,
    /// Counts handles, if the policy limits them.
    budget: Option<Budget>,
}

impl Files {
    /// Returns empty tables under the policy's limit of open handles.
    pub(in crate::passthrough) fn new(limits: &Limits) -> Self {
        Self {
            regular: HandleTable::new(0),
            directories: HandleTable::new(DIRECTORY_MARK),
            budget: limits.open_handles.map(|limit| Budget::new(limit.get())),
        }
    }

    /// Takes the right to one more handle, if the policy counts them.
    ///
    /// # Errors
    /// ENFILE past the policy's limit.
    pub(in crate::passthrough) fn ticket(&self) -> Answer<Option<Ticket>> {
        self.budget.as_ref().map(Budget::ticket).transpose()
    }

    /// Returns the open file of a handle.
    ///
    /// # Errors
    /// EBADF for a handle that is released, names a directory, or was never given out.
    pub(in crate::passthrough) fn file(&self, handle: Handle) -> Answer<Arc<Entry<FileHandle>>> {
        self.regular.get(handle)
    }

    /// Returns the open directory of a handle.
    ///
    /// # Errors
    /// As for [`Files::file`], for a handle that names a file.
    pub(in crate::passthrough) fn directory(&self, handle: Handle) -> Answer<Arc<Entry<DirHandle>>> {
        self.directories.get(handle)
    }

    /// Gives out a new handle for a file.
    ///
    /// # Errors
    /// ENFILE if the table is full.
    pub(in crate::passthrough) fn insert_file(&self, file: FileHandle) -> Answer<Handle> {
        self.regular.insert(file)
    }

    /// Gives out a new handle for a directory.
    ///
    /// # Errors
    /// ENFILE if the table is full.
    pub(in crate::passthrough) fn insert_directory(&self, directory: DirHandle) -> Answer<Handle> {
        self.directories.insert(directory)
    }

    /// Takes back the handle of a file. Operations under way keep the file open.
    ///
    /// # Errors
    /// As for [`Files::file`].
    pub(in crate::passthrough) fn remove_file(&self, handle: Handle) -> Answer<Arc<Entry<FileHandle>>> {
        self.regular.remove(handle)
    }

    /// Takes back the handle of a directory and closes it, once no operation uses it.
    ///
    /// # Errors
    /// As for [`Files::directory`].
    pub(in crate::passthrough) fn close_directory(&self, handle: Handle) -> Answer<()> {
        self.directories.remove(handle).map(drop)
    }

    /// Returns whether the handle of a file has not been taken back.
    pub(in crate::passthrough) fn is_open(&self, file: &Entry<FileHandle>) -> bool {
        self.regular.holds(file)
    }

    /// Takes back every handle.
    pub(in crate::passthrough) fn clear(&self) {
        self.regular.clear();
        self.directories.clear();
    }

    /// Returns how many handles are given out.
    pub(in crate::passthrough) fn len(&self) -> usize {
        self.regular.len().saturating_add(self.directories.len())
    }
}
