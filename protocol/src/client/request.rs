//! Encodes requests as a guest does.

use crate::{
    BatchForget, Dialect, Extensions, Forget, HEADER_LEN, Handle, Header, InitRequest, Ioctl, LockKind,
    LockOwner, LockRange, NodeId, Opcode, Open, Operation, Read, ReadDir, Release, RemoveMapping, Rename,
    SetAttr, SetTime, SetXattr, SetupMapping, Timestamp, Unique, Write, abi,
};
use std::ffi::CStr;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros as _, Immutable, IntoBytes};

/// Returns a header for `operation`, with root as the caller and without extensions.
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

/// Appends one message to `out`, as [`crate::Request::decode`] reads it: header, body, `payload`,
/// extensions.
///
/// `payload` is the data of a WRITE, else empty. The opcode in the header is written unchanged.
/// With the opcode RENAME, the body has the layout of RENAME and the flags are lost.
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

/// Appends the body: one arm for each operation.
fn body(opcode: u32, operation: &Operation<'_>, dialect: Dialect, out: &mut Vec<u8>) {
    match operation {
        Operation::Lookup(o) => c_str(out, o.name.as_c_str()),
        Operation::Forget(o) => longs(out, [o.count]),
        Operation::BatchForget(o) => batch_forget(o, out),
        Operation::GetAttr(o) => get_attr(o.handle, out),
        Operation::SetAttr(o) => set_attr(o, out),
        Operation::ReadLink(_) | Operation::StatFs(_) | Operation::Destroy(_) => {}
        Operation::SymLink(o) => two_c_strs(out, o.name.as_c_str(), o.target),
        Operation::MkNod(o) => {
            let (file_type, rdev) = o.kind.raw();
            words_c_str(out, [file_type | o.mode, rdev, o.umask, 0], o.name.as_c_str());
        }
        Operation::MkDir(o) => words_c_str(out, [o.mode, o.umask], o.name.as_c_str()),
        Operation::Unlink(o) => c_str(out, o.name.as_c_str()),
        Operation::RmDir(o) => c_str(out, o.name.as_c_str()),
        Operation::Rename(o) => rename(opcode, o, out),
        Operation::Link(o) => longs_c_str(out, [o.target.0], o.name.as_c_str()),
        Operation::Open(o) => words(out, [o.flags.bits(), hints(*o)]),
        Operation::Read(o) => read(o, out),
        Operation::Write(o) => write(o, out),
        Operation::Release(o) => release(o, out),
        Operation::Fsync(o) => longs_words(out, [o.handle.0], [o.flags.bits(), 0]),
        Operation::SetXattr(o) => set_xattr(o, dialect, out),
        Operation::GetXattr(o) => words_c_str(out, [o.size, 0], o.name),
        Operation::ListXattr(o) => words(out, [o.size, 0]),
        Operation::RemoveXattr(o) => c_str(out, o.name),
        Operation::Flush(o) => longs(out, [o.handle.0, 0, o.lock_owner.0]),
        Operation::Init(o) => init(o, out),
        Operation::OpenDir(o) => words(out, [o.flags.bits(), 0]),
        Operation::ReadDir(o) => read_dir(o, out),
        Operation::ReadDirPlus(o) => read_dir(&o.list, out),
        Operation::ReleaseDir(o) => longs(out, [o.handle.0, 0, 0]),
        Operation::FsyncDir(o) => longs_words(out, [o.handle.0], [o.flags.bits(), 0]),
        Operation::GetLock(o) => lock(&o.0, out),
        Operation::SetLock(o) => lock(&o.lock, out),
        Operation::Access(o) => words(out, [o.mask.bits(), 0]),
        Operation::Create(o) => {
            words_c_str(out, [o.open.flags.bits(), o.mode, o.umask, hints(o.open)], o.name.as_c_str());
        }
        Operation::Interrupt(o) => longs(out, [o.target.0]),
        Operation::BMap(o) => longs_words(out, [o.block], [o.block_size, 0]),
        Operation::Ioctl(o) => ioctl(o, out),
        Operation::Poll(o) => longs_words(out, [o.handle.0, 0], [0, o.events]),
        Operation::Fallocate(o) => {
            longs_words(out, [o.handle.0, o.offset, o.length], [o.mode.bits(), 0]);
        }
        Operation::Lseek(o) => longs_words(out, [o.handle.0, o.offset], [o.whence.raw(), 0]),
        Operation::CopyFileRange(o) => {
            longs(out, [o.from.0, o.from_offset, o.to_node.0, o.to.0, o.to_offset, o.length, o.flags]);
        }
        Operation::SetupMapping(o) => setup_mapping(o, out),
        Operation::RemoveMapping(o) => remove_mapping(o, out),
        Operation::SyncFs(_) => longs(out, [0]),
        Operation::TmpFile(o) => {
            words_c_str(out, [o.open.flags.bits(), o.mode, o.umask, hints(o.open)], c"/");
        }
        Operation::GetStatx(o) => {
            get_attr(o.handle, out);
            words(out, [o.flags, o.mask]);
        }
    }
}

fn batch_forget(batch: &BatchForget<'_>, out: &mut Vec<u8>) {
    put(out, &abi::BatchForgetIn { count: length(batch.records.len()), dummy: U32::ZERO });
    out.extend_from_slice(batch.records.as_bytes());
}

fn remove_mapping(remove: &RemoveMapping<'_>, out: &mut Vec<u8>) {
    put(out, &abi::RemovemappingIn { count: length(remove.records.len()) });
    out.extend_from_slice(remove.records.as_bytes());
}

fn get_attr(open: Option<Handle>, out: &mut Vec<u8>) {
    words(out, [bit(open.is_some(), abi::FUSE_GETATTR_FH), 0]);
    put(out, &handle(open));
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

fn rename(opcode: u32, rename: &Rename<'_>, out: &mut Vec<u8>) {
    longs(out, [rename.new_directory.0]);
    if opcode != Opcode::Rename.raw() {
        words(out, [rename.flags.bits(), 0]);
    }
    two_c_strs(out, rename.name.as_c_str(), rename.new_name.as_c_str());
}

fn set_xattr(set: &SetXattr<'_>, dialect: Dialect, out: &mut Vec<u8>) {
    put(out, &[length(set.value.len()), U32::new(set.mode.raw())]);
    if dialect.setxattr_ext {
        words(out, [bit(set.acl_kill_sgid, abi::FUSE_SETXATTR_ACL_KILL_SGID), 0]);
    }
    c_str(out, set.name);
    out.extend_from_slice(set.value);
}

fn read(read: &Read, out: &mut Vec<u8>) {
    put(
        out,
        &abi::ReadIn {
            fh: U64::new(read.handle.0),
            offset: U64::new(read.offset),
            size: U32::new(read.size),
            read_flags: U32::new(bit(read.lock_owner.is_some(), abi::FUSE_READ_LOCKOWNER)),
            lock_owner: owner(read.lock_owner),
            flags: U32::new(read.flags.bits()),
            padding: U32::ZERO,
        },
    );
}

fn read_dir(list: &ReadDir, out: &mut Vec<u8>) {
    longs_words(out, [list.handle.0, list.offset], [list.size, 0]);
    longs(out, [0, 0]);
}

fn write(write: &Write, out: &mut Vec<u8>) {
    let owner_bit = bit(write.lock_owner.is_some(), abi::FUSE_WRITE_LOCKOWNER);
    put(
        out,
        &abi::WriteIn {
            fh: U64::new(write.handle.0),
            offset: U64::new(write.offset),
            size: U32::new(write.size),
            write_flags: U32::new(write.write_flags.bits() | owner_bit),
            lock_owner: owner(write.lock_owner),
            flags: U32::new(write.flags.bits()),
            padding: U32::ZERO,
        },
    );
}

fn release(release: &Release, out: &mut Vec<u8>) {
    let flush = bit(release.flush, abi::FUSE_RELEASE_FLUSH);
    let flock_unlock = bit(release.flock_unlock, abi::FUSE_RELEASE_FLOCK_UNLOCK);
    longs_words(out, [release.handle.0], [release.flags.bits(), flush | flock_unlock]);
    longs(out, [release.lock_owner.0]);
}

fn init(init: &InitRequest, out: &mut Vec<u8>) {
    let [flags, flags2]: [U32; 2] = zerocopy::transmute!(U64::new(init.flags.bits()));
    put(
        out,
        &abi::InitIn {
            major: U32::new(init.major),
            minor: U32::new(init.minor),
            max_readahead: U32::new(init.max_readahead),
            flags,
            flags2,
            unused: [U32::ZERO; 11],
        },
    );
}

fn lock(range: &LockRange, out: &mut Vec<u8>) {
    longs(out, [range.handle.0, range.owner.0, range.start, range.end]);
    words(out, [LockKind::raw(range.kind), range.pid, bit(range.flock, abi::FUSE_LK_FLOCK), 0]);
}

fn ioctl(ioctl: &Ioctl<'_>, out: &mut Vec<u8>) {
    longs_words(out, [ioctl.handle.0], [ioctl.flags.bits(), ioctl.command]);
    longs(out, [ioctl.argument]);
    put(out, &[length(ioctl.input.len()), U32::new(ioctl.output_len)]);
    out.extend_from_slice(ioctl.input);
}

fn setup_mapping(map: &SetupMapping, out: &mut Vec<u8>) {
    let read = if map.read { abi::FUSE_SETUPMAPPING_FLAG_READ } else { 0 };
    let write = if map.write { abi::FUSE_SETUPMAPPING_FLAG_WRITE } else { 0 };
    longs(out, [map.handle.0, map.file_offset, map.length, read | write, map.window_offset]);
}

/// Returns packed records for [`crate::BatchForget::parse`].
pub fn forget_records(forgets: &[(NodeId, Forget)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (node, forget) in forgets {
        put(&mut out, &abi::ForgetOne { nodeid: U64::new(node.0), nlookup: U64::new(forget.count) });
    }
    out
}

/// Returns packed (window offset, length) records for [`crate::RemoveMapping::parse`].
pub fn mapping_records(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(offset, len) in ranges {
        put(&mut out, &abi::RemovemappingOne { moffset: U64::new(offset), len: U64::new(len) });
    }
    out
}

/// Appends the extensions of a request, as [`Extensions::parse`] reads them: security labels as
/// (name, value), then groups.
pub fn encode_extensions(contexts: &[(&CStr, &[u8])], groups: Option<&[u32]>, out: &mut Vec<u8>) {
    if !contexts.is_empty() {
        record(length(contexts.len()), out, |out| {
            for (name, value) in contexts {
                put(out, &abi::Secctx { size: length(value.len()), padding: U32::ZERO });
                c_str(out, name);
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

/// Appends one record: its header, then the body from `write`, padded to eight bytes.
fn record(kind: U32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    pad(&mut body);
    let size = length(body.len().saturating_add(size_of::<abi::ExtHeader>()));
    put(out, &abi::ExtHeader { size, r#type: kind });
    out.append(&mut body);
}

/// Pads `out` with zeros to a multiple of eight bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Appends one wire struct.
fn put<T: IntoBytes + Immutable>(out: &mut Vec<u8>, wire: &T) {
    out.extend_from_slice(wire.as_bytes());
}

/// Appends 32-bit numbers.
fn words<const N: usize>(out: &mut Vec<u8>, words: [u32; N]) {
    put(out, &words.map(U32::new));
}

/// Appends 64-bit numbers.
fn longs<const N: usize>(out: &mut Vec<u8>, longs: [u64; N]) {
    put(out, &longs.map(U64::new));
}

/// Appends 64-bit numbers, then 32-bit numbers.
fn longs_words<const L: usize, const W: usize>(out: &mut Vec<u8>, first: [u64; L], then: [u32; W]) {
    longs(out, first);
    words(out, then);
}

fn words_c_str<const N: usize>(out: &mut Vec<u8>, first: [u32; N], then: &CStr) {
    words(out, first);
    c_str(out, then);
}

fn longs_c_str<const N: usize>(out: &mut Vec<u8>, first: [u64; N], then: &CStr) {
    longs(out, first);
    c_str(out, then);
}

fn two_c_strs(out: &mut Vec<u8>, first: &CStr, second: &CStr) {
    c_str(out, first);
    c_str(out, second);
}

/// Appends a string with its NUL.
fn c_str(out: &mut Vec<u8>, text: &CStr) {
    out.extend_from_slice(text.to_bytes_with_nul());
}

/// Returns the bit if it is set, else 0.
const fn bit(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

fn handle(handle: Option<Handle>) -> U64 {
    U64::new(handle.map_or(0, |handle| handle.0))
}

fn owner(owner: Option<LockOwner>) -> U64 {
    U64::new(owner.map_or(0, |owner| owner.0))
}

/// Returns the word `open_flags`, the hints to the server.
const fn hints(open: Open) -> u32 {
    bit(open.kill_suidgid, abi::FUSE_OPEN_KILL_SUIDGID)
}

/// Converts a length to 32 bits. A longer length saturates, so that a long message never declares a
/// short, wrapped length.
fn length(len: usize) -> U32 {
    U32::new(u32::try_from(len).unwrap_or(u32::MAX))
}
