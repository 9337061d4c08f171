//! Requests as a guest writes them.

use crate::{
    Dialect, Extensions, Forget, HEADER_LEN, Handle, Header, IoctlFlags, LockOwner, LockRange, NodeId,
    Opcode, Open, Operation, ReadDir, SetAttr, SetTime, SetXattr, Timestamp, Unique, WriteFlags, abi,
};
use std::ffi::CStr;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros as _, Immutable, IntoBytes};

/// A header for `operation` from a caller who is root, without extensions.
pub const fn header(operation: &Operation<'_>, unique: Unique, node: NodeId) -> Header<'static> {
    Header {
        opcode: operation.opcode().raw(),
        unique,
        node,
        uid: 0,
        gid: 0,
        pid: 0,
        extensions: Extensions::EMPTY,
    }
}

/// Appends one whole message to `out`, as [`crate::Request::decode`] reads it: header, body, `payload` (the data of
/// a WRITE, else empty), extensions.
///
/// The header's opcode is written as it is; where it is RENAME, the body has that layout and loses its flags.
pub fn encode_request(
    header: &Header<'_>,
    operation: &Operation<'_>,
    payload: &[u8],
    dialect: Dialect,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let extensions = header.extensions.as_bytes();
    let mut wire = abi::InHeader {
        len: U32::ZERO,
        opcode: U32::new(header.opcode),
        unique: U64::new(header.unique.0),
        nodeid: U64::new(header.node.0),
        uid: U32::new(header.uid),
        gid: U32::new(header.gid),
        pid: U32::new(header.pid),
        total_extlen: U16::new(u16::try_from(extensions.len().div_ceil(8)).unwrap_or(u16::MAX)),
        padding: U16::ZERO,
    };
    put(out, &wire);
    body(header.opcode, operation, dialect, out);
    out.extend_from_slice(payload);
    out.extend_from_slice(extensions);
    wire.len = length(out.len().saturating_sub(start));
    if let Some(place) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut::<HEADER_LEN>) {
        *place = zerocopy::transmute!(wire);
    }
}

fn body(opcode: u32, operation: &Operation<'_>, dialect: Dialect, out: &mut Vec<u8>) {
    match operation {
        Operation::Lookup(_)
        | Operation::SymLink(_)
        | Operation::MkNod(_)
        | Operation::MkDir(_)
        | Operation::Unlink(_)
        | Operation::RmDir(_)
        | Operation::Rename(_)
        | Operation::Link(_)
        | Operation::Create(_)
        | Operation::TmpFile(_) => name_body(opcode, operation, out),
        Operation::SetXattr(set) => set_xattr(set, dialect, out),
        Operation::GetXattr(_) | Operation::ListXattr(_) | Operation::RemoveXattr(_) => {
            xattr_body(operation, out);
        }
        Operation::Forget(_)
        | Operation::BatchForget(_)
        | Operation::RemoveMapping(_)
        | Operation::GetAttr(_)
        | Operation::SetAttr(_)
        | Operation::GetStatx(_)
        | Operation::Init(_)
        | Operation::Access(_)
        | Operation::Interrupt(_)
        | Operation::BMap(_)
        | Operation::SyncFs(_)
        | Operation::ReadLink(_)
        | Operation::StatFs(_)
        | Operation::Destroy(_) => node_body(operation, out),
        Operation::Open(_)
        | Operation::OpenDir(_)
        | Operation::Read(_)
        | Operation::ReadDir(_)
        | Operation::ReadDirPlus(_)
        | Operation::Write(_)
        | Operation::Release(_)
        | Operation::ReleaseDir(_)
        | Operation::Flush(_)
        | Operation::Fsync(_)
        | Operation::FsyncDir(_) => file_body(operation, out),
        Operation::GetLock(_)
        | Operation::SetLock(_)
        | Operation::Ioctl(_)
        | Operation::Poll(_)
        | Operation::Fallocate(_)
        | Operation::Lseek(_)
        | Operation::CopyFileRange(_)
        | Operation::SetupMapping(_) => range_body(operation, out),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`body` names every operation and sends only these here")]
fn name_body(opcode: u32, operation: &Operation<'_>, out: &mut Vec<u8>) {
    match operation {
        Operation::Lookup(o) => text(out, o.name.as_c_str()),
        Operation::Unlink(o) => text(out, o.name.as_c_str()),
        Operation::RmDir(o) => text(out, o.name.as_c_str()),
        Operation::SymLink(o) => {
            text(out, o.name.as_c_str());
            text(out, o.target);
        }
        Operation::MkNod(o) => {
            words(out, [o.mode, o.rdev, o.umask, 0]);
            text(out, o.name.as_c_str());
        }
        Operation::MkDir(o) => {
            words(out, [o.mode, o.umask]);
            text(out, o.name.as_c_str());
        }
        Operation::Rename(o) => {
            put(out, &abi::RenameIn { newdir: U64::new(o.new_directory.0) });
            if opcode != Opcode::Rename.raw() {
                words(out, [o.flags.bits(), 0]);
            }
            text(out, o.name.as_c_str());
            text(out, o.new_name.as_c_str());
        }
        Operation::Link(o) => {
            put(out, &abi::LinkIn { oldnodeid: U64::new(o.target.0) });
            text(out, o.name.as_c_str());
        }
        Operation::Create(o) => {
            words(out, [o.open.flags.bits(), o.mode, o.umask, hints(o.open)]);
            text(out, o.name.as_c_str());
        }
        Operation::TmpFile(o) => {
            words(out, [o.open.flags.bits(), o.mode, o.umask, hints(o.open)]);
            text(out, c"/");
        }
        _ => {}
    }
}

fn set_xattr(set: &SetXattr<'_>, dialect: Dialect, out: &mut Vec<u8>) {
    put(out, &[length(set.value.len()), U32::new(set.mode.raw())]);
    if dialect.setxattr_ext {
        words(out, [bit(set.acl_kill_sgid, abi::FUSE_SETXATTR_ACL_KILL_SGID), 0]);
    }
    text(out, set.name);
    out.extend_from_slice(set.value);
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`body` names every operation and sends only these here")]
fn xattr_body(operation: &Operation<'_>, out: &mut Vec<u8>) {
    match operation {
        Operation::GetXattr(o) => {
            words(out, [o.size, 0]);
            text(out, o.name);
        }
        Operation::ListXattr(o) => words(out, [o.size, 0]),
        Operation::RemoveXattr(o) => text(out, o.name),
        _ => {}
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`body` names every operation and sends only these here")]
fn node_body(operation: &Operation<'_>, out: &mut Vec<u8>) {
    match operation {
        Operation::Forget(o) => put(out, &abi::ForgetIn { nlookup: U64::new(o.count) }),
        Operation::BatchForget(o) => {
            put(out, &abi::BatchForgetIn { count: length(o.records.len()), dummy: U32::ZERO });
            out.extend_from_slice(o.records.as_bytes());
        }
        Operation::RemoveMapping(o) => {
            put(out, &abi::RemovemappingIn { count: length(o.records.len()) });
            out.extend_from_slice(o.records.as_bytes());
        }
        Operation::GetAttr(o) => {
            words(out, [bit(o.handle.is_some(), abi::FUSE_GETATTR_FH), 0]);
            put(out, &handle(o.handle));
        }
        Operation::GetStatx(o) => {
            words(out, [bit(o.handle.is_some(), abi::FUSE_GETATTR_FH), 0]);
            put(out, &handle(o.handle));
            words(out, [o.flags, o.mask]);
        }
        Operation::SetAttr(o) => set_attr(o, out),
        Operation::Init(o) => {
            let [flags, flags2]: [U32; 2] = zerocopy::transmute!(U64::new(o.flags.bits()));
            put(
                out,
                &abi::InitIn {
                    major: U32::new(o.major),
                    minor: U32::new(o.minor),
                    max_readahead: U32::new(o.max_readahead),
                    flags,
                    flags2,
                    unused: [U32::ZERO; 11],
                },
            );
        }
        Operation::Access(o) => words(out, [o.mask, 0]),
        Operation::Interrupt(o) => put(out, &abi::InterruptIn { unique: U64::new(o.target.0) }),
        Operation::BMap(o) => {
            put(
                out,
                &abi::BmapIn {
                    block: U64::new(o.block),
                    blocksize: U32::new(o.block_size),
                    padding: U32::ZERO,
                },
            );
        }
        Operation::SyncFs(_) => put(out, &abi::SyncfsIn::default()),
        _ => {}
    }
}

fn set_attr(set: &SetAttr, out: &mut Vec<u8>) {
    let now = |time| time == Some(SetTime::Now);
    let valid = bit(set.mode.is_some(), abi::FATTR_MODE)
        | bit(set.uid.is_some(), abi::FATTR_UID)
        | bit(set.gid.is_some(), abi::FATTR_GID)
        | bit(set.size.is_some(), abi::FATTR_SIZE)
        | bit(set.atime.is_some(), abi::FATTR_ATIME)
        | bit(set.mtime.is_some(), abi::FATTR_MTIME)
        | bit(set.handle.is_some(), abi::FATTR_FH)
        | bit(now(set.atime), abi::FATTR_ATIME_NOW)
        | bit(now(set.mtime), abi::FATTR_MTIME_NOW)
        | bit(set.lock_owner.is_some(), abi::FATTR_LOCKOWNER)
        | bit(set.ctime.is_some(), abi::FATTR_CTIME)
        | bit(set.kill_suidgid, abi::FATTR_KILL_SUIDGID);
    let at = |time| match time {
        Some(SetTime::At(time)) => time,
        Some(SetTime::Now) | None => Timestamp::default(),
    };
    let seconds = |time: Timestamp| U64::new(time.seconds.cast_unsigned());
    let (atime, mtime, ctime) = (at(set.atime), at(set.mtime), set.ctime.unwrap_or_default());
    put(
        out,
        &abi::SetattrIn {
            valid: U32::new(valid),
            fh: handle(set.handle),
            size: U64::new(set.size.unwrap_or_default()),
            lock_owner: owner(set.lock_owner),
            atime: seconds(atime),
            mtime: seconds(mtime),
            ctime: seconds(ctime),
            atimensec: U32::new(atime.nanoseconds),
            mtimensec: U32::new(mtime.nanoseconds),
            ctimensec: U32::new(ctime.nanoseconds),
            mode: U32::new(set.mode.unwrap_or_default()),
            uid: U32::new(set.uid.unwrap_or_default()),
            gid: U32::new(set.gid.unwrap_or_default()),
            ..abi::SetattrIn::new_zeroed()
        },
    );
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`body` names every operation and sends only these here")]
fn file_body(operation: &Operation<'_>, out: &mut Vec<u8>) {
    match operation {
        Operation::Open(o) => words(out, [o.flags.bits(), hints(*o)]),
        Operation::OpenDir(o) => words(out, [o.flags.bits(), 0]),
        Operation::Read(o) => put(
            out,
            &abi::ReadIn {
                fh: U64::new(o.handle.0),
                offset: U64::new(o.offset),
                size: U32::new(o.size),
                read_flags: U32::new(bit(o.lock_owner.is_some(), abi::FUSE_READ_LOCKOWNER)),
                lock_owner: owner(o.lock_owner),
                flags: U32::new(o.flags.bits()),
                padding: U32::ZERO,
            },
        ),
        Operation::ReadDir(o) => read_dir(o, out),
        Operation::ReadDirPlus(o) => read_dir(&o.list, out),
        Operation::Write(o) => put(
            out,
            &abi::WriteIn {
                fh: U64::new(o.handle.0),
                offset: U64::new(o.offset),
                size: U32::new(o.size),
                write_flags: U32::new(
                    o.write_flags.bits() | bit(o.lock_owner.is_some(), WriteFlags::LOCKOWNER.bits()),
                ),
                lock_owner: owner(o.lock_owner),
                flags: U32::new(o.flags.bits()),
                padding: U32::ZERO,
            },
        ),
        Operation::Release(o) => {
            let flags =
                bit(o.flush, abi::FUSE_RELEASE_FLUSH) | bit(o.flock_unlock, abi::FUSE_RELEASE_FLOCK_UNLOCK);
            put(out, &U64::new(o.handle.0));
            words(out, [o.flags.bits(), flags]);
            put(out, &U64::new(o.lock_owner.0));
        }
        Operation::ReleaseDir(o) => {
            put(out, &abi::ReleaseIn { fh: U64::new(o.handle.0), ..Default::default() });
        }
        Operation::Flush(o) => {
            let (fh, lock_owner) = (U64::new(o.handle.0), U64::new(o.lock_owner.0));
            put(out, &abi::FlushIn { fh, lock_owner, ..Default::default() });
        }
        Operation::Fsync(o) => {
            put(out, &U64::new(o.handle.0));
            words(out, [o.flags.bits(), 0]);
        }
        Operation::FsyncDir(o) => {
            put(out, &U64::new(o.handle.0));
            words(out, [o.flags.bits(), 0]);
        }
        _ => {}
    }
}

fn read_dir(list: &ReadDir, out: &mut Vec<u8>) {
    put(
        out,
        &abi::ReadIn {
            fh: U64::new(list.handle.0),
            offset: U64::new(list.offset),
            size: U32::new(list.size),
            ..Default::default()
        },
    );
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`body` names every operation and sends only these here")]
fn range_body(operation: &Operation<'_>, out: &mut Vec<u8>) {
    match operation {
        Operation::GetLock(o) => lock(&o.0, out),
        Operation::SetLock(o) => lock(&o.lock, out),
        Operation::Ioctl(o) => {
            let flags: IoctlFlags = o.flags;
            put(out, &U64::new(o.handle.0));
            words(out, [flags.bits(), o.command]);
            put(out, &U64::new(o.argument));
            put(out, &[length(o.input.len()), U32::new(o.output_len)]);
            out.extend_from_slice(o.input);
        }
        Operation::Poll(o) => {
            let (fh, events) = (U64::new(o.handle.0), U32::new(o.events));
            put(out, &abi::PollIn { fh, events, ..Default::default() });
        }
        Operation::Fallocate(o) => {
            longs(out, [o.handle.0, o.offset, o.length]);
            words(out, [o.mode.bits(), 0]);
        }
        Operation::Lseek(o) => {
            longs(out, [o.handle.0, o.offset]);
            words(out, [o.whence, 0]);
        }
        Operation::CopyFileRange(o) => {
            longs(out, [o.from.0, o.from_offset, o.to_node.0, o.to.0, o.to_offset, o.length, o.flags]);
        }
        Operation::SetupMapping(o) => {
            let read = if o.read { abi::FUSE_SETUPMAPPING_FLAG_READ } else { 0 };
            let write = if o.write { abi::FUSE_SETUPMAPPING_FLAG_WRITE } else { 0 };
            longs(out, [o.handle.0, o.file_offset, o.length, read | write, o.window_offset]);
        }
        _ => {}
    }
}

fn lock(range: &LockRange, out: &mut Vec<u8>) {
    longs(out, [range.handle.0, range.owner.0, range.start, range.end]);
    words(out, [range.kind, range.pid, bit(range.flock, abi::FUSE_LK_FLOCK), 0]);
}

/// Packs forgets for [`crate::BatchForget::parse`].
pub fn forget_records(forgets: &[(NodeId, Forget)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (node, forget) in forgets {
        put(&mut out, &abi::ForgetOne { nodeid: U64::new(node.0), nlookup: U64::new(forget.count) });
    }
    out
}

/// Packs (window offset, length) pairs for [`crate::RemoveMapping::parse`].
pub fn mapping_records(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(offset, len) in ranges {
        put(&mut out, &abi::RemovemappingOne { moffset: U64::new(offset), len: U64::new(len) });
    }
    out
}

/// Appends the extensions of a request for [`Extensions::parse`]: labels as (name, value), then groups.
pub fn encode_extensions(contexts: &[(&CStr, &[u8])], groups: Option<&[u32]>, out: &mut Vec<u8>) {
    if !contexts.is_empty() {
        record(length(contexts.len()), out, |out| {
            for (name, value) in contexts {
                put(out, &abi::Secctx { size: length(value.len()), padding: U32::ZERO });
                text(out, name);
                out.extend_from_slice(value);
                pad(out);
            }
        });
    }
    if let Some(groups) = groups {
        record(U32::new(abi::FUSE_EXT_GROUPS), out, |out| {
            put(out, &abi::SuppGroups { nr_groups: length(groups.len()) });
            for &group in groups {
                words(out, [group]);
            }
        });
    }
}

/// One record; `out` holds whole records before and after.
fn record(kind: U32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    pad(&mut body);
    let size = length(body.len().saturating_add(size_of::<abi::ExtHeader>()));
    put(out, &abi::ExtHeader { size, r#type: kind });
    out.append(&mut body);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(8), 0);
}

fn put<T: IntoBytes + Immutable>(out: &mut Vec<u8>, wire: &T) {
    out.extend_from_slice(wire.as_bytes());
}

fn words<const N: usize>(out: &mut Vec<u8>, words: [u32; N]) {
    put(out, &words.map(U32::new));
}

fn longs<const N: usize>(out: &mut Vec<u8>, longs: [u64; N]) {
    put(out, &longs.map(U64::new));
}

fn text(out: &mut Vec<u8>, text: &CStr) {
    out.extend_from_slice(text.to_bytes_with_nul());
}

const fn bit(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

fn handle(handle: Option<Handle>) -> U64 {
    U64::new(handle.map_or(0, |handle| handle.0))
}

fn owner(owner: Option<LockOwner>) -> U64 {
    U64::new(owner.map_or(0, |owner| owner.0))
}

const fn hints(open: Open) -> u32 {
    bit(open.kill_suidgid, abi::FUSE_OPEN_KILL_SUIDGID)
}

/// Saturates: a test may declare more than there is, but never less by wrapping.
fn length(len: usize) -> U32 {
    U32::new(u32::try_from(len).unwrap_or(u32::MAX))
}
