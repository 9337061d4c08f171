//! Open file descriptions of the host that hold locks.

use crate::filesystem::Answer;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::resolve::DELETED;
use crate::sync::budget::Ticket;
use pinhole_protocol::{Errno, LockKind};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, OwnedFd};

/// An open file description of the host that holds the locks of one owner, or of one guest.
///
/// Two owners exclude each other because each has its own, and the locks of an owner end when it is
/// closed.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) fd: OwnedFd,
    /// Read locks need a description that reads, write locks need a description that writes.
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) _ticket: Ticket,
}

impl Description {
    /// Opens a description for one owner.
    ///
    /// If it writes, it also reads where the host permits that, so that it never has to be replaced
    /// while it holds a write lock. A lease of another process cannot prevent this open: the guest
    /// has the file open with the same access.
    ///
    /// # Errors
    /// ENOLCK if the file cannot be opened again.
    pub(super) fn for_owner(inodes: &Inodes, file: &FileHandle) -> Answer<Self> {
        let ticket = inodes.descriptor_ticket().map_err(no_lock)?;
        let open = |flags| reopen(inodes, file, flags).map_err(no_lock);
        let (fd, reads, writes) = match (file.readable, file.writable) {
            (_, false) => (open(OFlags::RDONLY)?, true, false),
            (true, true) => (open(OFlags::RDWR)?, true, true),
            (false, true) => match open(OFlags::RDWR) {
                Ok(fd) => (fd, true, true),
                Err(_) => (open(OFlags::WRONLY)?, false, true),
            },
        };
        Ok(Self { fd, reads, writes, _ticket: ticket })
    }

    /// Opens a description that can hold a write lock, even if the guest has opened the file with
    /// another access. If the daemon may not write to the file, it holds a read lock: a guest that
    /// cannot store anything does not disturb other readers.
    ///
    /// # Errors
    /// EAGAIN if a process of the host has a lease on the file, which the host then tells to give
    /// it up; ENOLCK if the file cannot be opened again.
    pub(super) fn for_guest(inodes: &Inodes, file: &FileHandle) -> Answer<Self> {
        let ticket = inodes.descriptor_ticket().map_err(no_lock)?;
        let (fd, writes) = match reopen(inodes, file, OFlags::RDWR) {
            Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => {
                (reopen(inodes, file, OFlags::RDONLY).map_err(no_lock)?, false)
            }
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            opened => (opened.map_err(no_lock)?, true),
        };
        Ok(Self { fd, reads: true, writes, _ticket: ticket })
    }

    /// Returns whether the description can hold a lock of this kind.
    pub(super) const fn allows(&self, kind: LockKind) -> bool {
        match kind {
            LockKind::Read => self.reads,
            LockKind::Write => self.writes,
        }
    }
}

/// Returns whether programs share the content of a file by mapping it and coordinate that by its
/// locks: the index of SQLite's write-ahead log, the table of readers of LMDB.
///
/// Two guests share no page of it, except in a DAX window, so they would destroy what the locks
/// protect. Such a file is locked for one guest as a whole. If the host does not return the name,
/// which may happen for a file that was opened by its inode handle, the file is treated the same
/// way: programs of other guests find it locked, and no data is lost.
pub(super) fn is_shared_by_memory(inodes: &Inodes, file: &FileHandle) -> bool {
    let path = inodes.proc_fds().path_of(file.as_fd()).unwrap_or_default();
    let path = path.strip_suffix(DELETED).unwrap_or(&path);
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.is_empty() || name.ends_with(b"-shm") || name == b"lock.mdb"
}

fn reopen(inodes: &Inodes, file: &FileHandle, flags: OFlags) -> Answer<OwnedFd> {
    inodes.proc_fds().reopen_fd(file.as_fd(), flags | OFlags::NONBLOCK)
}

/// Returns ENOLCK for every error, and logs the error.
fn no_lock(errno: Errno) -> Errno {
    tracing::debug!(%errno, "cannot open a description for a lock");
    Errno::ENOLCK
}
