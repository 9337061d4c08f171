//! What a guest can ask for: one struct for each FUSE request, with every field checked for shape.
//!
//! A node on which the operation acts (`in_header.nodeid`) is not repeated here; it stands in [`crate::Header`].
//! Numbers are the guest's own and unverified; names are [`Name`]s. Fields that the wire marks as valid by a mask bit
//! are `Option`s.

use crate::{
    FallocateMode, FsyncFlags, Handle, InitRequest, IoctlFlags, LockOwner, Name, NodeId, OpenFlags,
    RenameFlags, SetXattrMode, Timestamp, Unique, WriteFlags, abi,
};
use std::ffi::CStr;

/// One decoded request body. No wildcard arm is ever written over it: a new opcode must break the build.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is documented at its struct")]
pub enum Operation<'a> {
    Lookup(Lookup<'a>),
    Forget(Forget),
    BatchForget(BatchForget<'a>),
    GetAttr(GetAttr),
    SetAttr(SetAttr),
    ReadLink(ReadLink),
    SymLink(SymLink<'a>),
    MkNod(MkNod<'a>),
    MkDir(MkDir<'a>),
    Unlink(Unlink<'a>),
    RmDir(RmDir<'a>),
    Rename(Rename<'a>),
    Link(Link<'a>),
    Open(Open),
    Read(Read),
    Write(Write),
    StatFs(StatFs),
    Release(Release),
    Fsync(Fsync),
    SetXattr(SetXattr<'a>),
    GetXattr(GetXattr<'a>),
    ListXattr(ListXattr),
    RemoveXattr(RemoveXattr<'a>),
    Flush(Flush),
    Init(InitRequest),
    OpenDir(OpenDir),
    ReadDir(ReadDir),
    ReadDirPlus(ReadDirPlus),
    ReleaseDir(ReleaseDir),
    FsyncDir(FsyncDir),
    GetLock(GetLock),
    SetLock(SetLock),
    Access(Access),
    Create(Create<'a>),
    Interrupt(Interrupt),
    BMap(BMap),
    Destroy(Destroy),
    Ioctl(Ioctl<'a>),
    Poll(Poll),
    Fallocate(Fallocate),
    Lseek(Lseek),
    CopyFileRange(CopyFileRange),
    SetupMapping(SetupMapping),
    RemoveMapping(RemoveMapping<'a>),
    SyncFs(SyncFs),
    TmpFile(TmpFile),
    GetStatx(GetStatx),
}

/// LOOKUP: find a name in a directory and take one reference on what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup<'a> {
    /// The component to look up in the directory.
    pub name: Name<'a>,
}

/// FORGET: the guest drops references on a node. Never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// How many lookups are taken back. Hostile until compared with the server's own count.
    pub count: u64,
}

/// `BATCH_FORGET`: many FORGETs in one message. Never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchForget<'a> {
    /// The packed `fuse_forget_one` records; read with [`BatchForget::iter`].
    pub(crate) records: &'a [abi::ForgetOne],
}

/// GETATTR: the attributes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetAttr {
    /// The open file to ask instead of the node.
    pub handle: Option<Handle>,
}

/// A new value for a timestamp in [`SetAttr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The host's present time.
    Now,
    /// This time.
    At(Timestamp),
}

/// SETATTR: change the attributes that are `Some`. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The open file to truncate through.
    pub handle: Option<Handle>,
    /// New permission bits with suid, sgid and sticky; the file type bits are ignored.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// Change time as a writeback-caching guest keeps it; a POSIX host sets its own.
    pub ctime: Option<Timestamp>,
    /// The owner of the locks that a truncation must respect.
    pub lock_owner: Option<LockOwner>,
    /// The caller lacks `CAP_FSETID`: drop suid and sgid as the change of size or owner demands. Alone: as a change to the
    /// same owner does.
    pub kill_suidgid: bool,
}

impl SetAttr {
    /// Whether no attribute is to be set. The change time counts for none: a guest with a writeback cache adds it to
    /// every change.
    pub const fn sets_nothing(&self) -> bool {
        self.mode.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.size.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }
}

/// READLINK: the target of a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLink;

/// SYMLINK: make a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymLink<'a> {
    /// The new name.
    pub name: Name<'a>,
    /// What the link says, 1 to 4,095 bytes; the server never follows it.
    pub target: &'a CStr,
}

/// MKNOD: make a file, FIFO, socket or device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MkNod<'a> {
    /// The new name.
    pub name: Name<'a>,
    /// File type and permission bits.
    pub mode: u32,
    /// Device number for devices, as the kernel's `new_encode_dev` packs it.
    pub rdev: u32,
    /// The caller's umask; only to be applied where `DONT_MASK` was negotiated.
    pub umask: u32,
}

/// MKDIR: make a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MkDir<'a> {
    /// The new name.
    pub name: Name<'a>,
    /// Permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// UNLINK: remove a name that is not a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlink<'a> {
    /// The name to remove.
    pub name: Name<'a>,
}

/// RMDIR: remove an empty directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmDir<'a> {
    /// The name to remove.
    pub name: Name<'a>,
}

/// RENAME and RENAME2: move a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rename<'a> {
    /// The name in the directory of the header.
    pub name: Name<'a>,
    /// The directory that it moves to.
    pub new_directory: NodeId,
    /// Its name there.
    pub new_name: Name<'a>,
    /// NOREPLACE, EXCHANGE, WHITEOUT; empty for RENAME.
    pub flags: RenameFlags,
}

/// LINK: one more name for a node. The header's node is the directory that gets the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// The node to link.
    pub target: NodeId,
    /// The new name.
    pub name: Name<'a>,
}

/// OPEN: open a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// `open(2)` flags of the guest's caller.
    pub flags: OpenFlags,
    /// The caller lacks `CAP_FSETID`: drop suid and sgid when truncating.
    pub kill_suidgid: bool,
}

/// READ: bytes of an open file; they go to the guest's own buffers behind the reply header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The open file.
    pub handle: Handle,
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes wanted.
    pub size: u32,
    /// The owner of the locks that the read must respect.
    pub lock_owner: Option<LockOwner>,
    /// The open file's status flags now (`O_DIRECT`, `O_APPEND` and so on).
    pub flags: OpenFlags,
}

/// WRITE: bytes for an open file; they lie in the guest's own buffers behind the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "flags are open(2)'s here as in every request")]
pub struct Write {
    /// The open file.
    pub handle: Handle,
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes to write; the decoder has checked that exactly so many follow.
    pub size: u32,
    /// CACHE (from the page cache, handle guessed) and `KILL_SUIDGID`.
    pub write_flags: WriteFlags,
    /// The owner of the locks that the write must respect.
    pub lock_owner: Option<LockOwner>,
    /// The open file's status flags now; `O_DSYNC` and `O_SYNC` ask for durability with the reply.
    pub flags: OpenFlags,
}

/// STATFS: figures of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs;

/// RELEASE: the last close of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The open file, dead afterwards.
    pub handle: Handle,
    /// The flags it was opened with.
    pub flags: OpenFlags,
    /// Flush as well.
    pub flush: bool,
    /// Drop the flock locks of `lock_owner`.
    pub flock_unlock: bool,
    /// The owner of those locks.
    pub lock_owner: LockOwner,
}

/// FSYNC: make an open file durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fsync {
    /// The open file.
    pub handle: Handle,
    /// DATASYNC: only what is needed to read the data back.
    pub flags: FsyncFlags,
}

/// SETXATTR, in both layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetXattr<'a> {
    /// Attribute name with its namespace, 1 to 255 bytes.
    pub name: &'a CStr,
    /// New value, at most 65,536 bytes.
    pub value: &'a [u8],
    /// CREATE, REPLACE or neither.
    pub mode: SetXattrMode,
    /// Clear sgid as setting an access ACL demands (extended layout only).
    pub acl_kill_sgid: bool,
}

/// GETXATTR: the value of an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetXattr<'a> {
    /// Attribute name with its namespace.
    pub name: &'a CStr,
    /// Room for the value in bytes; 0 asks for its length.
    pub size: u32,
}

/// LISTXATTR: the names of the extended attributes, each NUL-terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListXattr {
    /// Room in bytes; 0 asks for the length.
    pub size: u32,
}

/// REMOVEXATTR: drop an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoveXattr<'a> {
    /// Attribute name with its namespace.
    pub name: &'a CStr,
}

/// FLUSH: one close of a descriptor of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// The open file, alive afterwards.
    pub handle: Handle,
    /// Whose POSIX locks end.
    pub lock_owner: LockOwner,
}

/// OPENDIR: open a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDir {
    /// `open(2)` flags of the guest's caller.
    pub flags: OpenFlags,
}

/// READDIR: entries of an open directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDir {
    /// The open directory.
    pub handle: Handle,
    /// The cookie of the last entry got, 0 for the start. Opaque, and hostile.
    pub offset: u64,
    /// Room in bytes.
    pub size: u32,
}

/// READDIRPLUS: entries with their attributes, one lookup reference taken on each but "." and "..".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDirPlus {
    /// The same question as READDIR.
    pub list: ReadDir,
}

/// RELEASEDIR: the last close of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseDir {
    /// The open directory, dead afterwards.
    pub handle: Handle,
}

/// FSYNCDIR: make a directory durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsyncDir {
    /// The open directory.
    pub handle: Handle,
    /// DATASYNC: only what is needed to find the entries again.
    pub flags: FsyncFlags,
}

/// The lock in GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRange {
    /// The open file.
    pub handle: Handle,
    /// Whose lock it is.
    pub owner: LockOwner,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `i64::MAX` for the end of the file.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: u32,
    /// The guest's process.
    pub pid: u32,
    /// A flock lock, not a POSIX one.
    pub flock: bool,
}

/// GETLK: is there a lock in the way?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLock(
    /// The lock asked about.
    pub LockRange,
);

/// SETLK and SETLKW: take or drop a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLock {
    /// The lock wanted.
    pub lock: LockRange,
    /// SETLKW: wait for it.
    pub wait: bool,
}

/// ACCESS: may the caller do this?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// `R_OK`, `W_OK`, `X_OK` bits.
    pub mask: u32,
}

/// CREATE: make a regular file and open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create<'a> {
    /// The new name.
    pub name: Name<'a>,
    /// How to open it.
    pub open: Open,
    /// Permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// INTERRUPT: give up on a request. Never answered; never sent over virtio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The request to give up.
    pub target: Unique,
}

/// BMAP: the device block of a file block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BMap {
    /// File block.
    pub block: u64,
    /// Its size in bytes.
    pub block_size: u32,
}

/// DESTROY: the guest unmounts. Answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroy;

/// IOCTL on an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl<'a> {
    /// The open file or directory.
    pub handle: Handle,
    /// 32-bit callers, directories.
    pub flags: IoctlFlags,
    /// The ioctl number.
    pub command: u32,
    /// The caller's argument.
    pub argument: u64,
    /// Bytes that the ioctl reads.
    pub input: &'a [u8],
    /// Room for the bytes that it writes.
    pub output_len: u32,
}

/// POLL an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The open file.
    pub handle: Handle,
    /// `poll(2)` events asked about.
    pub events: u32,
}

/// FALLOCATE: reserve, punch, zero or move a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallocate {
    /// The open file.
    pub handle: Handle,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What to do with the range.
    pub mode: FallocateMode,
}

/// LSEEK: the next data or hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lseek {
    /// The open file.
    pub handle: Handle,
    /// Where to start, in bytes.
    pub offset: u64,
    /// `SEEK_DATA` (3), `SEEK_HOLE` (4) or one of the plain three.
    pub whence: u32,
}

/// `COPY_FILE_RANGE` and `COPY_FILE_RANGE_64`: copy inside the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFileRange {
    /// The open file to read; its node is the header's.
    pub from: Handle,
    /// First byte to read.
    pub from_offset: u64,
    /// The node written to.
    pub to_node: NodeId,
    /// The open file to write.
    pub to: Handle,
    /// First byte to write.
    pub to_offset: u64,
    /// Bytes.
    pub length: u64,
    /// `copy_file_range(2)` flags; none exist.
    pub flags: u64,
    /// Answer with a 64-bit count (`COPY_FILE_RANGE_64`).
    pub wide_reply: bool,
}

/// SETUPMAPPING: put a file range into the DAX window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupMapping {
    /// Linux sends no handle here (all ones).
    pub handle: Handle,
    /// Byte offset in the file.
    pub file_offset: u64,
    /// Bytes.
    pub length: u64,
    /// The mapping is readable.
    pub read: bool,
    /// The mapping is writable.
    pub write: bool,
    /// Byte offset in the window.
    pub window_offset: u64,
}

/// REMOVEMAPPING: take ranges out of the DAX window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoveMapping<'a> {
    /// The packed `fuse_removemapping_one` records; read with [`RemoveMapping::iter`].
    pub(crate) records: &'a [abi::RemovemappingOne],
}

/// SYNCFS: make the whole file system durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncFs;

/// TMPFILE: make a file without a name and open it. The name that Linux sends ("/") says nothing and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmpFile {
    /// How to open it.
    pub open: Open,
    /// Permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// STATX: extended attributes of a node, with its birth time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetStatx {
    /// The open file to ask instead of the node.
    pub handle: Option<Handle>,
    /// `AT_STATX_*` flags.
    pub flags: u32,
    /// `STATX_*` mask of what is wanted.
    pub mask: u32,
}
