//! The host file system: what each permitted operation does.
//!
//! [`FileSystem`] is the whole surface that the session sees. [`Passthrough`] serves a directory of the host; fuzz
//! targets put a model in its place. Nothing here knows about messages, queues or replies; nothing here is reached
//! without a [`Permitted`] from the gate.

#[cfg(test)]
pub(crate) mod failing;
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
use rustix::fs::OFlags;
use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use sync_turn::{Durable, SyncTurn};

/// Who asks: the identity of the guest's process, as the guest claims it.
#[derive(Clone, Debug, Default)]
pub struct Caller<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The supplementary group that matters for what is created, where the guest sent one.
    pub groups: Option<Groups<'a>>,
    /// The thread, by the guest's number for it; 0 where it has none.
    pub pid: u32,
}

impl Caller<'_> {
    /// The user. `None`: the guest does not say, as Linux with `ALLOW_IDMAP` does in every request that makes nothing.
    pub(crate) const fn known_uid(&self) -> Option<u32> {
        if self.uid == u32::MAX { None } else { Some(self.uid) }
    }

    /// The group; `None` as for [`Self::known_uid`].
    pub(crate) const fn known_gid(&self) -> Option<u32> {
        if self.gid == u32::MAX { None } else { Some(self.gid) }
    }

    /// Whether to take the caller for one with `CAP_FSETID`, where the request does not say: ordinary root has it.
    pub(crate) const fn may_have_fsetid(&self) -> bool {
        matches!(self.known_uid(), Some(0))
    }
}

/// One operation with the node that it acts on and the one who asks.
#[derive(Clone, Debug)]
pub struct Call<'a, T> {
    /// `in_header.nodeid`, unverified.
    pub node: NodeId,
    /// Who asks.
    pub caller: Caller<'a>,
    /// What is asked.
    pub operation: T,
}

/// Whether a call may wait for the host: for a disk, or for what another process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It must not wait: the answer is [`Paced::WouldBlock`] or [`Paced::Leased`] instead.
    Now,
    /// It may take its time.
    Patient,
}

/// The result of an operation that keeps a [`Pace`] or obeys a [`StopCheck`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an operation that is not ready has not been carried out"]
pub enum Paced<T> {
    /// The operation is done.
    Ready(T),
    /// The operation would have to wait for the host. Nothing was done. Only under [`Pace::Now`].
    WouldBlock,
    /// Another process holds a lease on the file (`F_SETLEASE` of fcntl(2)). The host has told that process to give
    /// it up. Nothing was done: the request is to be served again later. Only under [`Pace::Now`].
    Leased,
    /// The operation ended between two of its steps, as its [`StopCheck`] said.
    Stopped,
}

impl<T> Paced<T> {
    /// Returns the result of an operation that was patient and was not stopped.
    ///
    /// # Errors
    /// EAGAIN if it is not ready.
    pub fn ready(self) -> Answer<T> {
        match self {
            Self::Ready(done) => Ok(done),
            Self::WouldBlock | Self::Leased | Self::Stopped => Err(Errno::EAGAIN),
        }
    }

    /// Changes the result of an operation that is done.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Paced<U> {
        match self {
            Self::Ready(done) => Paced::Ready(change(done)),
            Self::WouldBlock => Paced::WouldBlock,
            Self::Leased => Paced::Leased,
            Self::Stopped => Paced::Stopped,
        }
    }

    /// Returns the answer to an open that did not wait for a lease: there EAGAIN means that there is one.
    pub(crate) fn opened(answer: Answer<T>, pace: Pace) -> Answer<Self> {
        match (answer, pace) {
            (Err(Errno::EAGAIN), Pace::Now) => Ok(Self::Leased),
            (answer, _) => answer.map(Self::Ready),
        }
    }
}

/// Whether an operation that ends between two of its steps may be carried out again from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// To do a step twice is to do it once, whatever others have done to the file in between.
    Harmless,
    /// It could undo what others have written in between.
    Harmful,
}

/// Asked between two steps of a long operation. True: the operation ends there and is not answered.
#[derive(Clone, Copy)]
pub struct StopCheck<'s> {
    asked: &'s dyn Fn(Repeat) -> bool,
    /// Where an operation that ended between two steps goes on.
    reached: Option<&'s Cell<Option<u64>>>,
}

impl<'s> StopCheck<'s> {
    /// An operation that is carried out to its end.
    pub const NEVER: StopCheck<'static> = StopCheck { asked: &|_| false, reached: None };

    /// One that ends when `asked` says so. The file system keeps in `reached` how far it came, and goes on from there when
    /// it is asked for the same operation again.
    pub const fn new(asked: &'s dyn Fn(Repeat) -> bool, reached: &'s Cell<Option<u64>>) -> Self {
        Self { asked, reached: Some(reached) }
    }

    /// One that ends when `asked` says so, and begins anew when it is asked for again.
    pub const fn once(asked: &'s dyn Fn(Repeat) -> bool) -> Self {
        Self { asked, reached: None }
    }

    /// The same, asking another.
    #[must_use]
    pub const fn with<'a>(self, asked: &'a dyn Fn(Repeat) -> bool) -> StopCheck<'a>
    where
        's: 'a,
    {
        StopCheck { asked, reached: self.reached }
    }

    /// How far the operation came before; `None`: it has not begun.
    pub fn reached(self) -> Option<u64> {
        self.reached.and_then(Cell::get)
    }

    /// Asks, when the operation has come so far.
    pub fn is_to_stop(self, repeat: Repeat, reached: u64) -> bool {
        if let Some(kept) = self.reached {
            kept.set(Some(reached));
        }
        self.ask(repeat)
    }

    /// Asks for one that is asked itself; see [`StopCheck::with`].
    pub fn ask(self, repeat: Repeat) -> bool {
        (self.asked)(repeat)
    }
}

impl fmt::Debug for StopCheck<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StopCheck").finish_non_exhaustive()
    }
}

impl Pace {
    /// What an open of a regular file needs besides its access mode: O_NONBLOCK where it may not wait for another
    /// process to give up its lease. The descriptor keeps the flag, which has no other effect on a regular file: the
    /// calls that may or may not wait say so themselves (RWF_NOWAIT, LOCK_NB).
    pub(crate) const fn open_flags(self) -> OFlags {
        match self {
            Self::Now => OFlags::NONBLOCK,
            Self::Patient => OFlags::empty(),
        }
    }
}

/// What became of a SETLK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// It is locked, or unlocked.
    Done,
    /// Somebody else has it; who, where that is an owner of record locks of the same guest.
    Held(Option<LockOwner>),
}

/// Reads or replaces the flags of an open file's or directory's inode, the `FS_*_FL` of `linux/fs.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeFlags {
    /// The open file or directory.
    pub handle: Handle,
    /// The new ones; `None` leaves them.
    pub set: Option<u32>,
}

/// A descriptor for a mapping. It is ours until the front-end has answered; what the front-end keeps is its own.
#[derive(Debug)]
pub struct MapFile {
    file: OwnedFd,
    id: FileId,
    writable: bool,
    /// The right to have the descriptor, where a budget counts it.
    _ticket: Option<Ticket>,
}

impl MapFile {
    /// Makes one from a descriptor of the file `id`.
    pub(crate) const fn new(file: OwnedFd, id: FileId, writable: bool, ticket: Ticket) -> Self {
        Self { file, id, writable, _ticket: Some(ticket) }
    }

    /// One that no budget counts, for tests.
    #[cfg(test)]
    pub(crate) const fn of(file: OwnedFd, writable: bool) -> Self {
        Self {
            file,
            id: FileId { device: crate::file_id::DeviceId { major: 0, minor: 0 }, inode: 0 },
            writable,
            _ticket: None,
        }
    }

    /// Which file it is of.
    pub const fn id(&self) -> FileId {
        self.id
    }

    /// Whether it was opened `O_RDWR`; else `O_RDONLY`.
    pub const fn is_writable(&self) -> bool {
        self.writable
    }
}

impl AsFd for MapFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// LISTXATTR, with what the guest may learn by it.
#[derive(Clone, Copy, Debug)]
pub struct ListNames {
    /// Room in bytes; 0 asks for the length.
    pub size: u32,
    /// The reads that are granted at the node; names of other namespaces are left out.
    pub readable: Access,
}

/// What GETLK answers where nothing is in the way.
pub const fn nothing_in_the_way(asked: &LockRange) -> FileLock {
    FileLock { start: asked.start, end: asked.end, kind: None, pid: 0 }
}

/// The errno of a refusal by the policy.
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

/// A permitted call.
pub type Allowed<'a, T> = Permitted<Call<'a, T>>;

/// The answer to an operation.
pub type Answer<T> = Result<T, Errno>;

/// A file system as a session uses it: one method for each operation, each taking what the gate let through.
///
/// Every method may be called from several queues at once. An error is the errno that the guest's caller sees.
#[expect(missing_docs, reason = "each method is its operation, documented in pinhole_protocol")]
#[expect(clippy::missing_errors_doc, reason = "every error is the errno that the guest's caller sees")]
pub trait FileSystem: Places + Send + Sync {
    /// INIT and the end of a connection: forget every node but the root, every handle, every reference.
    /// `negotiated` is what the new guest and the session agreed on.
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

    /// Fills `into` from its start; returns the bytes put there.
    fn read(
        &self,
        call: Allowed<'_, protocol::Read>,
        into: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>>;
    /// Writes all of `from`; returns the bytes taken.
    fn write(
        &self,
        call: Allowed<'_, protocol::Write>,
        from: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>>;
    fn fsync(&self, call: Allowed<'_, protocol::Fsync>) -> Answer<Durable>;
    /// The lock that is in the way of one; none: it could be had.
    fn get_lock(&self, call: Allowed<'_, protocol::GetLock>, pace: Pace) -> Answer<Paced<Option<FileLock>>>;
    /// Never waits for a lock, whatever is asked.
    fn set_lock(&self, call: Allowed<'_, protocol::SetLock>, pace: Pace) -> Answer<Paced<Locking>>;
    /// In steps where it is long; see [`StopCheck`].
    fn fallocate(&self, call: Allowed<'_, protocol::Fallocate>, stop: StopCheck<'_>) -> Answer<Paced<()>>;
    fn lseek(&self, call: Allowed<'_, protocol::Lseek>) -> Answer<u64>;
    fn copy_file_range(&self, call: Allowed<'_, protocol::CopyFileRange>) -> Answer<u64>;
    /// Never waits.
    fn sync_fs(&self, call: Allowed<'_, protocol::SyncFs>) -> Answer<Durable>;

    /// A descriptor of a regular file for a mapping, `O_RDWR` if that is to be `writable` and else `O_RDONLY`.
    fn open_to_map(&self, call: Allowed<'_, protocol::SetupMapping>, writable: bool) -> Answer<MapFile>;

    fn open_dir(&self, call: Allowed<'_, protocol::OpenDir>) -> Answer<OpenReply>;
    fn read_dir(&self, call: Allowed<'_, protocol::ReadDir>, into: &mut DirentBuffer<'_>) -> Answer<()>;
    /// As `read_dir`, but each entry put into the buffer has taken one lookup reference.
    fn read_dir_plus(
        &self,
        call: Allowed<'_, protocol::ReadDirPlus>,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()>;
    fn fsync_dir(&self, call: Allowed<'_, protocol::FsyncDir>) -> Answer<()>;
    fn release_dir(&self, call: Allowed<'_, protocol::ReleaseDir>) -> Answer<()>;

    /// Appends the value to `out`, or only returns its length where the guest gave no room.
    fn get_xattr(&self, call: Allowed<'_, protocol::GetXattr<'_>>, out: &mut Vec<u8>) -> Answer<u32>;
    /// Appends the names to `out`, or only returns their length where the guest gave no room.
    fn list_xattr(&self, call: Allowed<'_, ListNames>, out: &mut Vec<u8>) -> Answer<u32>;
    /// The flags afterwards.
    fn inode_flags(&self, call: Allowed<'_, InodeFlags>) -> Answer<u32>;
    fn set_xattr(&self, call: Allowed<'_, protocol::SetXattr<'_>>) -> Answer<()>;
    fn remove_xattr(&self, call: Allowed<'_, protocol::RemoveXattr<'_>>) -> Answer<()>;
}
