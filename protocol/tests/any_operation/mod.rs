//! Every operation of a guest with arbitrary values, for property tests.

use pinhole_protocol::{
    Access, AccessMask, BMap, BatchForget, CopyFileRange, Create, Destroy, Dialect, Fallocate, FallocateMode,
    Flush, Forget, Fsync, FsyncDir, FsyncFlags, GetAttr, GetLock, GetStatx, GetXattr, Handle, InitFlags,
    InitRequest, Interrupt, Ioctl, IoctlFlags, Link, ListXattr, LockKind, LockOwner, LockRange, Lookup,
    Lseek, MkDir, MkNod, Name, NodeId, NodeKind, Open, OpenDir, OpenFlags, Operation, Poll, Read, ReadDir,
    ReadDirPlus, ReadLink, Release, ReleaseDir, RemoveMapping, RemoveXattr, Rename, RenameFlags, RmDir,
    SetAttr, SetLock, SetTime, SetXattr, SetXattrMode, SetupMapping, StatFs, SymLink, SyncFs, Timestamp,
    TmpFile, Unique, Unlink, Whence, Write, WriteFlags, client,
};
use proptest::prelude::*;
use std::ffi::{CStr, CString};

/// Arbitrary values, from which operations are built.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    names: (CString, CString),
    text: CString,
    longs: [u64; 4],
    words: [u32; 4],
    bits: u32,
    bytes: Vec<u8>,
    pairs: Vec<(u64, u64)>,
}

/// An operation to build from its fields. `Other` has the index in [`Fields::operations`].
#[derive(Clone, Debug)]
pub(crate) enum Spec {
    Write(Fields),
    Other(usize, Fields),
}

/// Number of operations besides WRITE.
const OTHERS: usize = 46;

fn any_fields() -> impl Strategy<Value = Fields> {
    let name = || {
        prop::collection::vec(1_u8..=255, 1..=255)
            .prop_map(|bytes| bytes.into_iter().map(|b| if b == b'/' { b'x' } else { b }).collect::<Vec<_>>())
            .prop_filter("a path component", |name| name != b"." && name != b"..")
            .prop_map(|bytes| CString::new(bytes).unwrap())
    };
    let text = prop::collection::vec(1_u8..=255, 1..=255).prop_map(|bytes| CString::new(bytes).unwrap());
    (
        (name(), name()),
        text,
        any::<[u64; 4]>(),
        any::<[u32; 4]>(),
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(any::<(u64, u64)>(), 0..=256),
    )
        .prop_map(|(names, text, longs, words, bits, bytes, pairs)| Fields {
            names,
            text,
            longs,
            words,
            bits,
            bytes,
            pairs,
        })
}

/// Returns a strategy for any operation with any fields.
pub(crate) fn any_spec() -> impl Strategy<Value = Spec> {
    (0..=OTHERS, any_fields()).prop_map(|(index, fields)| match index {
        OTHERS => Spec::Write(fields),
        index => Spec::Other(index, fields),
    })
}

impl Spec {
    /// Builds the operation and passes it to `show`. The operation borrows local values.
    pub(crate) fn with_operation(&self, dialect: Dialect, show: impl FnOnce(&Operation<'_>)) {
        match self {
            Self::Write(fields) => show(&Operation::Write(fields.write())),
            Self::Other(index, fields) => {
                let forgets: Vec<_> =
                    fields.pairs.iter().map(|&(node, count)| (NodeId(node), Forget { count })).collect();
                let forgets = client::forget_records(&forgets);
                let mappings = client::mapping_records(&fields.pairs);
                let all = fields.operations(dialect, &forgets, &mappings);
                assert_eq!(all.len(), OTHERS);
                show(&all[*index]);
            }
        }
    }
}

impl Fields {
    /// Returns one bit of `bits`.
    fn flag(&self, bit: u32) -> bool {
        self.bits & (1 << bit) != 0
    }

    /// Returns `value` if a bit of `bits` is set.
    fn when<T>(&self, bit: u32, value: T) -> Option<T> {
        self.flag(bit).then_some(value)
    }

    fn name(&self) -> Name<'_> {
        Name::parse(&self.names.0).unwrap()
    }

    fn open_flags(&self) -> OpenFlags {
        let bits = self.words[0];
        OpenFlags::from_bits_retain(if bits & 3 == 3 { bits & !1 } else { bits })
    }

    fn open(&self) -> Open {
        Open { flags: self.open_flags(), kill_suidgid: self.flag(0) }
    }

    fn owner(&self) -> Option<LockOwner> {
        self.when(1, LockOwner(self.longs[2]))
    }

    fn time(&self, index: usize) -> Timestamp {
        Timestamp { seconds: self.longs[index].cast_signed(), nanoseconds: self.words[index] % 1_000_000_000 }
    }

    fn set_time(&self, bit: u32, index: usize) -> Option<SetTime> {
        match (self.flag(bit), self.flag(bit + 1)) {
            (false, _) => None,
            (true, true) => Some(SetTime::Now),
            (true, false) => Some(SetTime::At(self.time(index))),
        }
    }

    fn write(&self) -> Write {
        Write {
            handle: Handle(self.longs[0]),
            offset: self.longs[1],
            size: self.words[1] % 5000,
            write_flags: WriteFlags::from_bits_truncate(self.bits).difference(WriteFlags::LOCKOWNER),
            lock_owner: self.owner(),
            flags: OpenFlags::from_bits_retain(self.words[2]),
        }
    }

    fn set_attr(&self) -> SetAttr {
        SetAttr {
            handle: self.when(2, Handle(self.longs[0])),
            mode: self.when(3, self.words[0] & 0o7777),
            uid: self.when(4, self.words[1]),
            gid: self.when(5, self.words[2]),
            size: self.when(6, self.longs[1]),
            atime: self.set_time(7, 0),
            mtime: self.set_time(9, 1),
            ctime: self.when(11, self.time(2)),
            lock_owner: self.owner(),
            kill_suidgid: self.flag(0),
        }
    }

    fn lock(&self) -> LockRange {
        LockRange {
            handle: Handle(self.longs[0]),
            owner: LockOwner(self.longs[1]),
            start: self.longs[2],
            end: self.longs[3],
            kind: [None, Some(LockKind::Read), Some(LockKind::Write)][self.words[0] as usize % 3],
            pid: self.words[1],
            flock: self.flag(3),
        }
    }

    fn node_kind(&self) -> NodeKind {
        let rdev = self.words[1];
        [
            NodeKind::Regular,
            NodeKind::Fifo,
            NodeKind::Socket,
            NodeKind::CharacterDevice(rdev),
            NodeKind::BlockDevice(rdev),
        ][self.bits as usize % 5]
    }

    fn set_xattr(&self, dialect: Dialect) -> SetXattr<'_> {
        SetXattr {
            name: &self.text,
            value: &self.bytes,
            mode: [SetXattrMode::Any, SetXattrMode::Create, SetXattrMode::Replace]
                [self.words[0] as usize % 3],
            acl_kill_sgid: dialect.setxattr_ext && self.flag(0),
        }
    }

    fn init(&self) -> InitRequest {
        let flags = self.longs[0];
        let has_high = flags & InitFlags::INIT_EXT.bits() != 0;
        let flags = InitFlags::from_bits_retain(if has_high { flags } else { flags & 0xffff_ffff });
        InitRequest { major: 7, minor: self.words[0], max_readahead: self.words[1], flags }
    }

    /// Builds every operation except WRITE.
    fn operations<'a>(
        &'a self,
        dialect: Dialect,
        forgets: &'a [u8],
        mappings: &'a [u8],
    ) -> Vec<Operation<'a>> {
        let mut all = self.named(dialect);
        all.extend(self.of_nodes(forgets, mappings));
        all.extend(self.of_files());
        all
    }

    fn named(&self, dialect: Dialect) -> Vec<Operation<'_>> {
        let (name, text): (_, &CStr) = (self.name(), &self.text);
        let [mode, _, umask, size] = self.words;
        let mode = mode & 0o7777;
        vec![
            Operation::Lookup(Lookup { name: name.into() }),
            Operation::SymLink(SymLink { name, target: text }),
            Operation::MkNod(MkNod { name, kind: self.node_kind(), mode, umask }),
            Operation::MkDir(MkDir { name, mode, umask }),
            Operation::Unlink(Unlink { name }),
            Operation::RmDir(RmDir { name }),
            Operation::Rename(Rename {
                name,
                new_directory: NodeId(self.longs[0]),
                new_name: Name::parse(&self.names.1).unwrap(),
                flags: RenameFlags::from_bits_truncate(self.bits),
            }),
            Operation::Link(Link { target: NodeId(self.longs[0]), name }),
            Operation::SetXattr(self.set_xattr(dialect)),
            Operation::GetXattr(GetXattr { name: text, size }),
            Operation::ListXattr(ListXattr { size }),
            Operation::RemoveXattr(RemoveXattr { name: text }),
            Operation::Create(Create { name, open: self.open(), mode, umask }),
            Operation::TmpFile(TmpFile { open: self.open(), mode, umask }),
        ]
    }

    fn of_nodes<'a>(&'a self, forgets: &'a [u8], mappings: &'a [u8]) -> Vec<Operation<'a>> {
        let [first, second, ..] = self.words;
        let handle = self.when(0, Handle(self.longs[0]));
        vec![
            Operation::Forget(Forget { count: self.longs[0] }),
            Operation::BatchForget(BatchForget::parse(forgets).unwrap()),
            Operation::GetAttr(GetAttr { handle }),
            Operation::SetAttr(self.set_attr()),
            Operation::ReadLink(ReadLink),
            Operation::StatFs(StatFs),
            Operation::Init(self.init()),
            Operation::Access(Access { mask: AccessMask::from_bits_truncate(first) }),
            Operation::Interrupt(Interrupt { target: Unique(self.longs[0]) }),
            Operation::BMap(BMap { block: self.longs[0], block_size: first }),
            Operation::Destroy(Destroy),
            Operation::RemoveMapping(RemoveMapping::parse(mappings).unwrap()),
            Operation::SyncFs(SyncFs),
            Operation::GetStatx(GetStatx { handle, flags: first, mask: second }),
        ]
    }

    fn of_files(&self) -> Vec<Operation<'_>> {
        let [handle, to] = [Handle(self.longs[0]), Handle(self.longs[3])];
        let [_, offset, length, window_offset] = self.longs;
        let [command, output_len, size, _] = self.words;
        let list = ReadDir { handle, offset, size };
        let flags = OpenFlags::from_bits_retain(self.words[1]);
        let sync = FsyncFlags::from_bits_truncate(self.bits);
        let lock_owner = LockOwner(self.longs[2]);
        vec![
            Operation::Open(self.open()),
            Operation::Read(Read { handle, offset, size, lock_owner: self.owner(), flags }),
            Operation::Release(Release {
                handle,
                flags,
                flush: self.flag(3),
                flock_unlock: self.flag(4),
                lock_owner,
            }),
            Operation::Fsync(Fsync { handle, flags: sync }),
            Operation::Flush(Flush { handle, lock_owner }),
            Operation::OpenDir(OpenDir { flags: self.open_flags() }),
            Operation::ReadDir(list),
            Operation::ReadDirPlus(ReadDirPlus { list }),
            Operation::ReleaseDir(ReleaseDir { handle }),
            Operation::FsyncDir(FsyncDir { handle, flags: sync }),
            Operation::GetLock(GetLock(self.lock())),
            Operation::SetLock(SetLock { lock: self.lock(), wait: self.flag(5) }),
            Operation::Ioctl(Ioctl {
                handle,
                flags: IoctlFlags::from_bits_retain(self.words[3]),
                command,
                argument: offset,
                input: &self.bytes,
                output_len,
            }),
            Operation::Poll(Poll { handle, events: size }),
            Operation::Fallocate(Fallocate {
                handle,
                offset,
                length,
                mode: FallocateMode::from_bits_truncate(self.bits),
            }),
            Operation::Lseek(Lseek {
                handle,
                offset,
                whence: [Whence::End, Whence::Data, Whence::Hole][size as usize % 3],
            }),
            Operation::CopyFileRange(CopyFileRange {
                from: handle,
                from_offset: offset,
                to_node: NodeId(length),
                to,
                to_offset: offset,
                length,
                flags: length,
                wide_reply: self.flag(6),
            }),
            Operation::SetupMapping(SetupMapping {
                handle,
                file_offset: offset,
                length,
                read: self.flag(7),
                write: self.flag(8),
                window_offset,
            }),
        ]
    }
}
