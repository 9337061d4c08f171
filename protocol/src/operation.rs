//! The requests of a guest: one struct for each FUSE request, with the shape of each field checked.
//!
//! The node that an operation acts on (`fuse_in_header.nodeid`) is in [`crate::Header`]. Numbers
//! are unverified, as the guest sent them. Fields with few values are enums. Names are checked
//! [`Name`]s. Fields that the wire marks as valid with a mask bit are `Option`s.

use crate::{
    AccessMask, FallocateMode, FsyncFlags, Handle, InitRequest, IoctlFlags, LockKind, LockOwner, LookupName,
    Name, NodeId, NodeKind, OpenFlags, RenameFlags, SetXattrMode, Timestamp, Unique, Whence, WriteFlags, abi,
};
use std::ffi::CStr;

/// One decoded request body. A `match` on an operation has no wildcard arm, so that a new opcode
/// breaks the build.
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

/// LOOKUP: finds a name in a directory and takes one reference on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup<'a> {
    /// Name to look up in the directory of the header.
    pub name: LookupName<'a>,
}

/// FORGET: drops lookup references on a node. It has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Number of references to drop. Untrusted until compared with the server's own count.
    pub count: u64,
}

/// `BATCH_FORGET`: several FORGETs in one message. It has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchForget<'a> {
    /// Packed `fuse_forget_one` records. [`BatchForget::iter`] reads them.
    pub(crate) records: &'a [abi::ForgetOne],
}

/// GETATTR: returns the attributes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetAttr {
    /// Open file to ask instead of the node.
    pub handle: Option<Handle>,
}

/// A new value for a timestamp in [`SetAttr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The host's current time.
    Now,
    /// This time.
    At(Timestamp),
}

/// SETATTR: changes the attributes that are `Some`. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Open file to truncate through.
    pub handle: Option<Handle>,
    /// New permission bits with suid, sgid and sticky. As in all modes here, the decoder drops the
    /// file type.
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
    /// Change time as a guest with a writeback cache keeps it. A POSIX host sets its own.
    pub ctime: Option<Timestamp>,
    /// Owner of the locks that a truncation must respect.
    pub lock_owner: Option<LockOwner>,
    /// The caller lacks `CAP_FSETID`: drop suid and sgid as the change of size or owner demands. If
    /// no other attribute is set, drop them as a change to the same owner does.
    pub kill_suidgid: bool,
}

impl SetAttr {
    /// Returns whether no attribute is set.
    ///
    /// The change time does not count: a guest with a writeback cache adds it to every change.
    pub const fn sets_nothing(&self) -> bool {
        self.mode.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.size.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }
}

/// READLINK: returns the target of a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLink;

/// SYMLINK: creates a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymLink<'a> {
    /// New name.
    pub name: Name<'a>,
    /// Target of the link, 1 to 4,095 bytes. The server never follows it.
    pub target: &'a CStr,
}

/// MKNOD: creates a file, FIFO, socket or device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MkNod<'a> {
    /// New name.
    pub name: Name<'a>,
    /// What to create.
    pub kind: NodeKind,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    /// The caller's umask. The server applies it only if `DONT_MASK` was negotiated.
    pub umask: u32,
}

/// MKDIR: creates a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MkDir<'a> {
    /// New name.
    pub name: Name<'a>,
    /// Permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// UNLINK: removes a name that is not a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlink<'a> {
    /// Name to remove.
    pub name: Name<'a>,
}

/// RMDIR: removes an empty directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmDir<'a> {
    /// Name to remove.
    pub name: Name<'a>,
}

/// RENAME and RENAME2: renames a file or moves it to another directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rename<'a> {
    /// Name in the directory of the header.
    pub name: Name<'a>,
    /// Directory to move to.
    pub new_directory: NodeId,
    /// Name in the new directory.
    pub new_name: Name<'a>,
    /// NOREPLACE, EXCHANGE, WHITEOUT. Empty for RENAME.
    pub flags: RenameFlags,
}

/// LINK: adds a name for a node. The header's node is the directory that gets the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// Node to link.
    pub target: NodeId,
    /// New name.
    pub name: Name<'a>,
}

/// OPEN: opens a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// `open(2)` flags of the program in the guest.
    pub flags: OpenFlags,
    /// The caller lacks `CAP_FSETID`: drop suid and sgid when truncating.
    pub kill_suidgid: bool,
}

/// READ: reads an open file. The data goes to the guest's buffers, after the reply header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Open file.
    pub handle: Handle,
    /// Byte offset in the file.
    pub offset: u64,
    /// Number of bytes to read.
    pub size: u32,
    /// Owner of the locks that the read must respect.
    pub lock_owner: Option<LockOwner>,
    /// Current status flags of the open file, such as `O_DIRECT` and `O_APPEND`.
    pub flags: OpenFlags,
}

/// WRITE: writes to an open file. The data is in the guest's buffers, after the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "`flags` are open(2) flags, as in every request")]
pub struct Write {
    /// Open file.
    pub handle: Handle,
    /// Byte offset in the file.
    pub offset: u64,
    /// Number of bytes to write. The decoder has checked that exactly this many bytes follow.
    pub size: u32,
    /// CACHE (the data is from the page cache, the handle is a guess) and `KILL_SUIDGID`.
    pub write_flags: WriteFlags,
    /// Owner of the locks that the write must respect.
    pub lock_owner: Option<LockOwner>,
    /// Current status flags of the open file. With `O_DSYNC` or `O_SYNC`, the data must be durable
    /// before the reply.
    pub flags: OpenFlags,
}

/// STATFS: returns statistics of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs;

/// RELEASE: closes an open file for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Open file; invalid afterwards.
    pub handle: Handle,
    /// Flags that the file was opened with.
    pub flags: OpenFlags,
    /// Whether to flush the file, too.
    pub flush: bool,
    /// Whether to drop the flock locks of `lock_owner`.
    pub flock_unlock: bool,
    /// Owner of the flock locks.
    pub lock_owner: LockOwner,
}

/// FSYNC: makes an open file durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fsync {
    /// Open file.
    pub handle: Handle,
    /// With DATASYNC, metadata becomes durable only if reading the data back needs it.
    pub flags: FsyncFlags,
}

/// SETXATTR: sets an extended attribute. Covers both layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetXattr<'a> {
    /// Attribute name with its namespace, 1 to 255 bytes.
    pub name: &'a CStr,
    /// New value, at most 65,536 bytes.
    pub value: &'a [u8],
    /// CREATE, REPLACE or neither.
    pub mode: SetXattrMode,
    /// Whether to clear sgid, as setting an access ACL demands. Only in the extended layout.
    pub acl_kill_sgid: bool,
}

/// GETXATTR: returns the value of an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetXattr<'a> {
    /// Attribute name with its namespace.
    pub name: &'a CStr,
    /// Space for the value in bytes. 0 asks for the length of the value.
    pub size: u32,
}

/// LISTXATTR: returns the names of the extended attributes, each NUL-terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListXattr {
    /// Space for the names in bytes. 0 asks for the length of the names.
    pub size: u32,
}

/// REMOVEXATTR: removes an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoveXattr<'a> {
    /// Attribute name with its namespace.
    pub name: &'a CStr,
}

/// FLUSH: closes one descriptor of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Open file; still valid afterwards.
    pub handle: Handle,
    /// Owner of the POSIX locks that end.
    pub lock_owner: LockOwner,
}

/// OPENDIR: opens a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDir {
    /// `open(2)` flags of the program in the guest.
    pub flags: OpenFlags,
}

/// READDIR: returns entries of an open directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDir {
    /// Open directory.
    pub handle: Handle,
    /// Cookie of the last entry received, 0 for the start. Opaque and untrusted.
    pub offset: u64,
    /// Space for the entries in bytes.
    pub size: u32,
}

/// READDIRPLUS: returns entries with their attributes. It takes one lookup reference on each node,
/// except for "." and "..".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDirPlus {
    /// The arguments of READDIR.
    pub list: ReadDir,
}

/// RELEASEDIR: closes an open directory for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseDir {
    /// Open directory; invalid afterwards.
    pub handle: Handle,
}

/// FSYNCDIR: makes a directory durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsyncDir {
    /// Open directory.
    pub handle: Handle,
    /// With DATASYNC, metadata becomes durable only if finding the entries again needs it.
    pub flags: FsyncFlags,
}

/// The lock of a GETLK, SETLK or SETLKW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRange {
    /// Open file.
    pub handle: Handle,
    /// Owner of the lock.
    pub owner: LockOwner,
    /// Offset of the first byte.
    pub start: u64,
    /// Offset of the last byte, inclusive. `i64::MAX` means the end of the file.
    pub end: u64,
    /// How to lock the range. `None` unlocks it.
    pub kind: Option<LockKind>,
    /// Process id in the guest.
    pub pid: u32,
    /// Whether the lock is a flock lock and not a POSIX lock.
    pub flock: bool,
}

/// GETLK: looks for a conflicting lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLock(
    /// Lock to test.
    pub LockRange,
);

/// SETLK and SETLKW: takes or releases a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLock {
    /// Lock to set.
    pub lock: LockRange,
    /// Whether to wait for the lock (SETLKW).
    pub wait: bool,
}

/// ACCESS: checks the permissions of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Access that the caller needs.
    pub mask: AccessMask,
}

/// CREATE: creates a regular file and opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create<'a> {
    /// New name.
    pub name: Name<'a>,
    /// How to open the file.
    pub open: Open,
    /// Permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// INTERRUPT: aborts a request. It has no reply, and Linux never sends it over virtio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Request to abort.
    pub target: Unique,
}

/// BMAP: returns the device block of a file block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BMap {
    /// Index of the block in the file.
    pub block: u64,
    /// Size of the block in bytes.
    pub block_size: u32,
}

/// DESTROY: ends the session when the guest unmounts. It has a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroy;

/// IOCTL: runs an ioctl on an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl<'a> {
    /// Open file or directory.
    pub handle: Handle,
    /// Whether the caller is 32-bit, and whether the handle is a directory.
    pub flags: IoctlFlags,
    /// The ioctl number.
    pub command: u32,
    /// The caller's argument.
    pub argument: u64,
    /// Data that the ioctl reads.
    pub input: &'a [u8],
    /// Space for the data that the ioctl writes, in bytes.
    pub output_len: u32,
}

/// POLL: returns the pending events of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Open file.
    pub handle: Handle,
    /// `poll(2)` events to check.
    pub events: u32,
}

/// FALLOCATE: reserves, punches, zeroes or moves a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallocate {
    /// Open file.
    pub handle: Handle,
    /// Offset of the first byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// What to do with the range.
    pub mode: FallocateMode,
}

/// LSEEK: finds the next data or hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lseek {
    /// Open file.
    pub handle: Handle,
    /// Byte offset at which the search starts.
    pub offset: u64,
    /// What to look for.
    pub whence: Whence,
}

/// `COPY_FILE_RANGE` and `COPY_FILE_RANGE_64`: copies data within the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFileRange {
    /// Open file to read. Its node is in the header.
    pub from: Handle,
    /// Offset of the first byte to read.
    pub from_offset: u64,
    /// Node to write.
    pub to_node: NodeId,
    /// Open file to write.
    pub to: Handle,
    /// Offset of the first byte to write.
    pub to_offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// `copy_file_range(2)` flags. Linux defines no flag.
    pub flags: u64,
    /// Whether the reply has a 64-bit count (`COPY_FILE_RANGE_64`).
    pub wide_reply: bool,
}

/// SETUPMAPPING: maps a range of a file into the DAX window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupMapping {
    /// File handle. Linux sends none (all ones).
    pub handle: Handle,
    /// Byte offset in the file.
    pub file_offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Whether the mapping is readable.
    pub read: bool,
    /// Whether the mapping is writable.
    pub write: bool,
    /// Byte offset in the window.
    pub window_offset: u64,
}

/// REMOVEMAPPING: removes ranges from the DAX window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoveMapping<'a> {
    /// Packed `fuse_removemapping_one` records. [`RemoveMapping::iter`] reads them.
    pub(crate) records: &'a [abi::RemovemappingOne],
}

/// SYNCFS: makes the whole file system durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncFs;

/// TMPFILE: creates a file without a name and opens it. Linux sends the name "/", which the decoder
/// drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmpFile {
    /// How to open the file.
    pub open: Open,
    /// Permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// STATX: returns the attributes of a node, including its birth time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetStatx {
    /// Open file to ask instead of the node.
    pub handle: Option<Handle>,
    /// `AT_STATX_*` flags.
    pub flags: u32,
    /// `STATX_*` mask of the attributes to return.
    pub mask: u32,
}
