//! The interface between a session and a file system: one function for each permitted operation.
//!
//! The session uses only [`FileSystem`]. `passthrough` implements it for a directory of the host,
//! fuzz targets for a model in memory. No implementation uses messages, queues or replies, and each
//! operation needs a [`Permitted`] from the policy check.

#[cfg(test)]
pub(crate) mod failing;
mod permission;
mod sync_turn;

use crate::file_id::FileId;
use crate::io_vectors::IoVectors;
use crate::sync::budget::Ticket;
use pinhole_policy::{Access, Permitted, Places, Refusal};
use pinhole_protocol as protocol;
use pinhole_protocol::{
    Attr, Created, DirentBuffer, Entry, Errno, FileLock, Groups, Handle, InitFlags, LockOwner, LockRange,
    NodeId, OpenReply, Statfs, Statx,
};
use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub(crate) use permission::permits;
pub use sync_turn::{Durable, SyncTurn};

/// The identity of the calling process, as the guest claims it.
#[derive(Clone, Debug, Default)]
pub struct Caller<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The supplementary group that a new file may get, if the guest sent one.
    pub groups: Option<Groups<'a>>,
    /// The guest's number for the thread, or 0.
    pub pid: u32,
}

impl Caller<'_> {
    /// Returns the user, or `None` if the request does not contain it. With `ALLOW_IDMAP`, Linux
    /// sends the user only in requests that create something.
    pub(crate) const fn known_uid(&self) -> Option<u32> {
        if self.uid == u32::MAX { None } else { Some(self.uid) }
    }

    /// Returns the group, or `None` if the request does not contain it; see [`Self::known_uid`].
    pub(crate) const fn known_gid(&self) -> Option<u32> {
        if self.gid == u32::MAX { None } else { Some(self.gid) }
    }

    /// Returns whether the caller may have `CAP_FSETID`, for requests that do not contain it. By
    /// default only root has it.
    pub(crate) const fn may_have_fsetid(&self) -> bool {
        matches!(self.known_uid(), Some(0))
    }
}

/// One operation with its node and its caller.
#[derive(Clone, Debug)]
pub struct Call<'a, T> {
    /// Node that the operation acts on, unverified.
    pub node: NodeId,
    /// Calling process in the guest.
    pub caller: Caller<'a>,
    /// The decoded request body.
    pub operation: T,
}

/// Whether a call may wait for the host: for a disk, a lease or a lock of another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The call must not wait. It returns [`Paced::WouldBlock`] or [`Paced::Leased`] instead.
    Now,
    /// The call may wait.
    Patient,
}

/// The result of an operation with a [`Pace`] or a [`StopCheck`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an operation that is not ready has not been carried out"]
pub enum Paced<T> {
    /// The operation is done.
    Ready(T),
    /// The operation would have to wait for the host and had no effect. Only with [`Pace::Now`].
    WouldBlock,
    /// Another process holds a lease on the file (`F_SETLEASE` of `fcntl(2)`), and the host has
    /// told it to give up the lease. The operation had no effect and must be served again later.
    /// Only with [`Pace::Now`].
    Leased,
    /// The [`StopCheck`] ended the operation between two of its steps.
    Stopped,
}

impl<T> Paced<T> {
    /// Returns the result of an operation with [`Pace::Patient`] that was not stopped.
    ///
    /// # Errors
    /// EAGAIN if it is not ready.
    pub fn ready(self) -> Answer<T> {
        match self {
            Self::Ready(done) => Ok(done),
            Self::WouldBlock | Self::Leased | Self::Stopped => Err(Errno::EAGAIN),
        }
    }

    /// Applies a function to the result of an operation that is done.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Paced<U> {
        match self {
            Self::Ready(done) => Paced::Ready(change(done)),
            Self::WouldBlock => Paced::WouldBlock,
            Self::Leased => Paced::Leased,
            Self::Stopped => Paced::Stopped,
        }
    }
}

/// Whether an operation that was stopped between two steps may start again from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// A second run of a step has no effect, even if the file has changed in between.
    Harmless,
    /// A second run of a step could undo a write that came in between.
    Harmful,
}

/// Tells a long operation between two steps whether to stop there, without a reply.
#[derive(Clone, Copy)]
pub struct StopCheck<'s> {
    asked: &'s dyn Fn(Repeat) -> bool,
    /// The byte at which an operation that was stopped continues.
    reached: Option<&'s Cell<Option<u64>>>,
}

impl<'s> StopCheck<'s> {
    /// Never stops the operation.
    pub const NEVER: StopCheck<'static> = StopCheck { asked: &|_| false, reached: None };

    /// Stops the operation when `asked` returns true. The file system stores its progress in
    /// `reached` and continues there when it gets the same operation again.
    pub const fn new(asked: &'s dyn Fn(Repeat) -> bool, reached: &'s Cell<Option<u64>>) -> Self {
        Self { asked, reached: Some(reached) }
    }

    /// Stops the operation when `asked` returns true. A later attempt starts from the beginning.
    pub const fn once(asked: &'s dyn Fn(Repeat) -> bool) -> Self {
        Self { asked, reached: None }
    }

    /// Returns a check with the same progress and another condition.
    #[must_use]
    pub const fn with<'a>(self, asked: &'a dyn Fn(Repeat) -> bool) -> StopCheck<'a>
    where
        's: 'a,
    {
        StopCheck { asked, reached: self.reached }
    }

    /// Returns the progress of earlier attempts, or `None` if there was none.
    pub fn reached(self) -> Option<u64> {
        self.reached.and_then(Cell::get)
    }

    /// Stores the progress and returns whether the operation must stop.
    pub fn is_to_stop(self, repeat: Repeat, reached: u64) -> bool {
        if let Some(kept) = self.reached {
            kept.set(Some(reached));
        }
        self.ask(repeat)
    }

    /// Returns whether the operation must stop, for a check that wraps this one (see
    /// [`StopCheck::with`]).
    pub fn ask(self, repeat: Repeat) -> bool {
        (self.asked)(repeat)
    }
}

impl fmt::Debug for StopCheck<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StopCheck").finish_non_exhaustive()
    }
}

/// The outcome of a SETLK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// The range is locked or unlocked as requested.
    Done,
    /// Another owner holds a conflicting lock. Contains the owner if it owns record locks of the
    /// same guest.
    Held(Option<LockOwner>),
}

/// Reads or replaces the flags of an inode (`FS_*_FL` of `linux/fs.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeFlags {
    /// Open file or directory.
    pub handle: Handle,
    /// New flags. `None` changes nothing.
    pub set: Option<u32>,
}

/// A descriptor of a file for a mapping, of which the front-end gets a copy.
#[derive(Debug)]
pub struct MapFile {
    descriptor: MapDescriptor,
    id: FileId,
    writable: bool,
    /// Byte of the host's file at which the guest's file begins.
    first_byte: u64,
}

#[derive(Debug)]
enum MapDescriptor {
    /// Opened for one mapping, and closed after the front-end's reply. The budget counts it.
    Own(OwnedFd, Option<Ticket>),
    /// Open as long as the share.
    Shared(Arc<OwnedFd>),
}

impl MapFile {
    /// Wraps a descriptor of the file `id`.
    pub(crate) const fn new(file: OwnedFd, id: FileId, writable: bool, ticket: Ticket) -> Self {
        Self { descriptor: MapDescriptor::Own(file, Some(ticket)), id, writable, first_byte: 0 }
    }

    /// Shares an `O_RDONLY` descriptor of the file `id`, in which the guest's file begins at
    /// `first_byte`.
    pub const fn shared(file: Arc<OwnedFd>, id: FileId, first_byte: u64) -> Self {
        Self { descriptor: MapDescriptor::Shared(file), id, writable: false, first_byte }
    }

    /// Wraps a descriptor that no budget counts.
    #[cfg(test)]
    pub(crate) const fn of(file: OwnedFd, writable: bool) -> Self {
        let id = FileId { device: crate::file_id::DeviceId { major: 0, minor: 0 }, inode: 0 };
        Self { descriptor: MapDescriptor::Own(file, None), id, writable, first_byte: 0 }
    }

    /// Returns the identity of the file.
    pub const fn id(&self) -> FileId {
        self.id
    }

    /// Returns whether the descriptor is open `O_RDWR`, not `O_RDONLY`.
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Returns the byte of the host's file at which the guest's file begins.
    pub const fn first_byte(&self) -> u64 {
        self.first_byte
    }
}

impl AsFd for MapFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            MapDescriptor::Own(file, _ticket) => file.as_fd(),
            MapDescriptor::Shared(file) => file.as_fd(),
        }
    }
}

/// LISTXATTR with the attribute namespaces that the guest may read.
#[derive(Clone, Copy, Debug)]
pub struct ListNames {
    /// Space for the names in bytes. 0 asks for their length.
    pub size: u32,
    /// Reads that the policy grants at the node. Names of other namespaces are left out.
    pub readable: Access,
}

/// Returns the reply to a GETLK that found no conflicting lock.
pub const fn no_conflict(asked: &LockRange) -> FileLock {
    FileLock { start: asked.start, end: asked.end, kind: None, pid: 0 }
}

/// Returns the errno of a refusal by the policy.
pub const fn errno_of(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::Stale => Errno::ESTALE,
        Refusal::NotOpen => Errno::EBADF,
        Refusal::Hidden => Errno::ENOENT,
        Refusal::ReadOnly => Errno::EROFS,
        Refusal::NotGranted => Errno::EPERM,
        Refusal::NotTty => Errno::ENOTTY,
        Refusal::NotSupported => Errno::EOPNOTSUPP,
        Refusal::Invalid => Errno::EINVAL,
        Refusal::OtherRule => Errno::EXDEV,
    }
}

/// A call that the policy permits.
pub type Allowed<'a, T> = Permitted<Call<'a, T>>;

/// The result of an operation. The error is the errno that the guest's caller gets.
pub type Answer<T> = Result<T, Errno>;

/// A file system as a session uses it: one method for each operation.
///
/// Several threads call the methods at the same time. A method waits for the host only with
/// [`Pace::Patient`], or if its opcode always waits (`OpcodeFacts::WAITS`).
#[expect(missing_docs, reason = "each method is its operation, documented in pinhole_protocol")]
#[expect(clippy::missing_errors_doc, reason = "each error is the errno that the guest's caller gets")]
pub trait FileSystem: Places + Send + Sync {
    /// Forgets every node but the root, every handle and every lock. Called at INIT and at the end
    /// of a session. `negotiated` are the features of the new session.
    fn reset(&self, negotiated: InitFlags);

    fn lookup(&self, call: Allowed<'_, protocol::Lookup<'_>>) -> Answer<Entry>;
    fn forget(&self, call: Allowed<'_, protocol::Forget>);
    fn get_attr(&self, call: Allowed<'_, protocol::GetAttr>) -> Answer<Attr>;
    fn set_attr(&self, call: Allowed<'_, protocol::SetAttr>, pace: Pace) -> Answer<Paced<Attr>>;
    fn get_statx(&self, call: Allowed<'_, protocol::GetStatx>) -> Answer<Statx>;
    fn access(&self, call: Allowed<'_, protocol::Access>) -> Answer<()>;
    fn stat_fs(&self, call: Allowed<'_, protocol::StatFs>) -> Answer<Statfs>;
    /// Appends the target to `out`.
    fn read_link(&self, call: Allowed<'_, protocol::ReadLink>, out: &mut Vec<u8>) -> Answer<()>;

    fn sym_link(&self, call: Allowed<'_, protocol::SymLink<'_>>) -> Answer<Entry>;
    fn mk_nod(&self, call: Allowed<'_, protocol::MkNod<'_>>) -> Answer<Entry>;
    fn mk_dir(&self, call: Allowed<'_, protocol::MkDir<'_>>) -> Answer<Entry>;
    fn link(&self, call: Allowed<'_, protocol::Link<'_>>) -> Answer<Entry>;
    fn unlink(&self, call: Allowed<'_, protocol::Unlink<'_>>) -> Answer<()>;
    fn rm_dir(&self, call: Allowed<'_, protocol::RmDir<'_>>) -> Answer<()>;
    fn rename(&self, call: Allowed<'_, protocol::Rename<'_>>) -> Answer<()>;

    fn open(&self, call: Allowed<'_, protocol::Open>, pace: Pace) -> Answer<Paced<OpenReply>>;
    fn create(&self, call: Allowed<'_, protocol::Create<'_>>, pace: Pace) -> Answer<Paced<Created>>;
    fn tmp_file(&self, call: Allowed<'_, protocol::TmpFile>) -> Answer<Created>;
    fn flush(&self, call: Allowed<'_, protocol::Flush>, pace: Pace) -> Answer<Paced<()>>;
    fn release(&self, call: Allowed<'_, protocol::Release>, pace: Pace) -> Answer<Paced<()>>;

    /// Fills `into` from its start. Returns the number of bytes that it read.
    fn read(
        &self,
        call: Allowed<'_, protocol::Read>,
        into: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>>;
    /// Writes all of `from`. Returns the number of bytes that it wrote.
    fn write(
        &self,
        call: Allowed<'_, protocol::Write>,
        from: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>>;
    fn fsync(&self, call: Allowed<'_, protocol::Fsync>) -> Answer<Durable>;
    /// Returns a lock that conflicts with the given one, if there is one.
    fn get_lock(&self, call: Allowed<'_, protocol::GetLock>, pace: Pace) -> Answer<Paced<Option<FileLock>>>;
    /// Tries once, even for SETLKW: the session repeats a waiting request.
    fn set_lock(&self, call: Allowed<'_, protocol::SetLock>, pace: Pace) -> Answer<Paced<Locking>>;
    /// Reserves a long range in steps; see [`StopCheck`].
    fn fallocate(&self, call: Allowed<'_, protocol::Fallocate>, stop: StopCheck<'_>) -> Answer<Paced<()>>;
    fn lseek(&self, call: Allowed<'_, protocol::Lseek>) -> Answer<u64>;
    fn copy_file_range(&self, call: Allowed<'_, protocol::CopyFileRange>) -> Answer<u64>;
    /// Never waits.
    fn sync_fs(&self, call: Allowed<'_, protocol::SyncFs>) -> Answer<Durable>;
    /// Does a part of the work that waits because the host has no room for a thread. Returns
    /// whether there was any.
    fn run_stuck(&self) -> bool {
        false
    }

    /// Returns a descriptor of a regular file for a mapping: `O_RDWR` if `writable`, otherwise
    /// `O_RDONLY`.
    fn open_to_map(&self, call: Allowed<'_, protocol::SetupMapping>, writable: bool) -> Answer<MapFile>;

    fn open_dir(&self, call: Allowed<'_, protocol::OpenDir>) -> Answer<OpenReply>;
    fn read_dir(&self, call: Allowed<'_, protocol::ReadDir>, into: &mut DirentBuffer<'_>) -> Answer<()>;
    /// As `read_dir`, but takes one lookup reference for each entry in the buffer, except for "."
    /// and "..".
    fn read_dir_plus(
        &self,
        call: Allowed<'_, protocol::ReadDirPlus>,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()>;
    fn fsync_dir(&self, call: Allowed<'_, protocol::FsyncDir>) -> Answer<()>;
    fn release_dir(&self, call: Allowed<'_, protocol::ReleaseDir>) -> Answer<()>;

    /// Appends the value to `out`, or only returns its length if the guest gave no space.
    fn get_xattr(&self, call: Allowed<'_, protocol::GetXattr<'_>>, out: &mut Vec<u8>) -> Answer<u32>;
    /// Appends the names to `out`, or only returns their length if the guest gave no space.
    fn list_xattr(&self, call: Allowed<'_, ListNames>, out: &mut Vec<u8>) -> Answer<u32>;
    /// Returns the flags afterwards.
    fn inode_flags(&self, call: Allowed<'_, InodeFlags>) -> Answer<u32>;
    fn set_xattr(&self, call: Allowed<'_, protocol::SetXattr<'_>>) -> Answer<()>;
    fn remove_xattr(&self, call: Allowed<'_, protocol::RemoveXattr<'_>>) -> Answer<()>;
}
