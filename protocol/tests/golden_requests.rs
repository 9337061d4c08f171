//! Does each message, written by hand from `fuse.h`, decode to the expected operation?
#![cfg(test)]

use pinhole_protocol::*;

/// Encodes a 32-bit number.
fn w(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Encodes a 64-bit number.
fn l(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Encodes text without a NUL.
fn t(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// Returns a message: len, opcode, unique 2, node 3, uid 4, gid 5, pid 6, no extensions, then the
/// parts.
fn message(opcode: u32, payload_len: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    let body = parts.concat();
    let len = 40 + u32::try_from(body.len()).unwrap() + payload_len;
    [w(len), w(opcode), l(2), l(3), w(4), w(5), w(6), w(0), body].concat()
}

/// Decodes a message of [`message`] and checks its header.
fn decode_in(dialect: Dialect, bytes: &[u8], payload_len: usize) -> Operation<'_> {
    let request = Request::decode(bytes, payload_len, dialect).unwrap();
    let header = request.header;
    assert_eq!((header.unique, header.node), (Unique(2), NodeId(3)));
    assert_eq!((header.uid, header.gid, header.pid), (4, 5, 6));
    request.operation.unwrap()
}

/// Checks that a message of these parts decodes to `operation`.
#[track_caller]
fn expect(opcode: u32, parts: &[Vec<u8>], operation: &Operation<'_>) {
    assert_eq!(decode_in(Dialect::default(), &message(opcode, 0, parts), 0), *operation);
}

fn name(text: &std::ffi::CStr) -> Name<'_> {
    Name::parse(text).unwrap()
}

#[test]
fn a_lookup_from_linux_is_decoded() {
    let bytes = b"\x2d\0\0\0\x01\0\0\0\x0a\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\xe8\x03\0\0\x64\0\0\0\x39\x30\0\0\0\0\0\0file\0";
    let request = Request::decode(bytes, 0, Dialect::default()).unwrap();
    let header = request.header;
    assert_eq!(header.known_opcode(), Some(Opcode::Lookup));
    assert_eq!((header.unique, header.node), (Unique(10), NodeId::ROOT));
    assert_eq!((header.uid, header.gid, header.pid), (1000, 100, 12345));
    assert_eq!(request.operation, Ok(Operation::Lookup(Lookup { name: name(c"file").into() })));
}

#[test]
fn operations_on_names_are_decoded() {
    let a = name(c"a");
    expect(1, &[t("a\0")], &Operation::Lookup(Lookup { name: a.into() }));
    expect(6, &[t("a\0../x/\0")], &Operation::SymLink(SymLink { name: a, target: c"../x/" }));
    expect(
        8,
        &[w(0o60644), w(7), w(0o22), w(0), t("a\0")],
        &Operation::MkNod(MkNod { name: a, kind: NodeKind::BlockDevice(7), mode: 0o644, umask: 0o22 }),
    );
    expect(9, &[w(0o755), w(0o22), t("a\0")], &Operation::MkDir(MkDir { name: a, mode: 0o755, umask: 0o22 }));
    expect(10, &[t("a\0")], &Operation::Unlink(Unlink { name: a }));
    expect(11, &[t("a\0")], &Operation::RmDir(RmDir { name: a }));
    let rename =
        |flags| Operation::Rename(Rename { name: a, new_directory: NodeId(9), new_name: name(c"bc"), flags });
    expect(12, &[l(9), t("a\0bc\0")], &rename(RenameFlags::empty()));
    let flags = [
        (0, RenameFlags::empty()),
        (1, RenameFlags::NOREPLACE),
        (2, RenameFlags::EXCHANGE),
        (4, RenameFlags::WHITEOUT),
        (5, RenameFlags::NOREPLACE | RenameFlags::WHITEOUT),
    ];
    for (bits, flags) in flags {
        expect(45, &[l(9), w(bits), w(0), t("a\0bc\0")], &rename(flags));
    }
    expect(13, &[l(8), t("a\0")], &Operation::Link(Link { target: NodeId(8), name: a }));
    let open = Open {
        flags: OpenFlags::from_bits_retain(2) | OpenFlags::CREAT | OpenFlags::EXCL,
        kill_suidgid: true,
    };
    assert_eq!(open.flags.access_mode(), AccessMode::ReadWrite);
    expect(
        35,
        &[w(0o302), w(0o100_640), w(0o27), w(1), t("a\0")],
        &Operation::Create(Create { name: a, open, mode: 0o640, umask: 0o27 }),
    );
    let open = Open { flags: OpenFlags::TMPFILE | OpenFlags::from_bits_retain(1), kill_suidgid: false };
    expect(
        51,
        &[w(0o20_200_001), w(0o100_600), w(0), w(0), t("/\0")],
        &Operation::TmpFile(TmpFile { open, mode: 0o600, umask: 0 }),
    );
}

#[test]
fn both_layouts_of_setxattr_are_decoded() {
    let want = |mode, acl_kill_sgid| {
        Operation::SetXattr(SetXattr { name: c"user.x", value: b"v\0l", mode, acl_kill_sgid })
    };
    expect(21, &[w(3), w(0), t("user.x\0v\0l")], &want(SetXattrMode::Any, false));
    let extended = Dialect { setxattr_ext: true, lookup_dots: false };
    let bytes = message(21, 0, &[w(3), w(1), w(1), w(0), t("user.x\0v\0l")]);
    assert_eq!(decode_in(extended, &bytes, 0), want(SetXattrMode::Create, true));
    let bytes = message(21, 0, &[w(3), w(2), w(0), w(0), t("user.x\0v\0l")]);
    assert_eq!(decode_in(extended, &bytes, 0), want(SetXattrMode::Replace, false));
    expect(22, &[w(64), w(0), t("user.x\0")], &Operation::GetXattr(GetXattr { name: c"user.x", size: 64 }));
    expect(23, &[w(64), w(0)], &Operation::ListXattr(ListXattr { size: 64 }));
    expect(24, &[t("user.x\0")], &Operation::RemoveXattr(RemoveXattr { name: c"user.x" }));
}

#[test]
fn operations_on_nodes_are_decoded() {
    expect(2, &[l(5)], &Operation::Forget(Forget { count: 5 }));
    expect(3, &[w(0), w(0), l(7)], &Operation::GetAttr(GetAttr { handle: None }));
    expect(3, &[w(1), w(0), l(7)], &Operation::GetAttr(GetAttr { handle: Some(Handle(7)) }));
    expect(5, &[], &Operation::ReadLink(ReadLink));
    expect(17, &[], &Operation::StatFs(StatFs));
    expect(34, &[w(4), w(0)], &Operation::Access(Access { mask: AccessMask::READ }));
    expect(36, &[l(6)], &Operation::Interrupt(Interrupt { target: Unique(6) }));
    expect(37, &[l(6), w(512), w(0)], &Operation::BMap(BMap { block: 6, block_size: 512 }));
    expect(38, &[], &Operation::Destroy(Destroy));
    expect(50, &[l(0)], &Operation::SyncFs(SyncFs));
    let statx = GetStatx { handle: Some(Handle(7)), flags: 0x2000, mask: 0xfff };
    expect(52, &[w(1), w(0), l(7), w(0x2000), w(0xfff)], &Operation::GetStatx(statx));
    let bytes = message(42, 0, &[w(2), w(0), l(8), l(1), l(9), l(u64::MAX)]);
    let Operation::BatchForget(batch) = decode_in(Dialect::default(), &bytes, 0) else {
        panic!("BATCH_FORGET")
    };
    let forgets: Vec<_> = batch.iter().map(|(node, forget)| (node.0, forget.count)).collect();
    assert_eq!(forgets, [(8, 1), (9, u64::MAX)]);
    let bytes = message(49, 0, &[w(2), l(0x20_0000), l(4096), l(0), l(1)]);
    let Operation::RemoveMapping(remove) = decode_in(Dialect::default(), &bytes, 0) else {
        panic!("REMOVEMAPPING")
    };
    assert_eq!(remove.iter().collect::<Vec<_>>(), [(0x20_0000, 4096), (0, 1)]);
}

#[test]
fn setattr_decodes_only_fields_marked_valid() {
    let parts = |valid: u32| {
        let seconds = [l(20), l((-21_i64).cast_unsigned()), l(22)].concat();
        let parts = [w(valid), w(0), l(10), l(11), l(12), seconds];
        [parts.concat(), w(30), w(31), w(32), w(0o640), w(0), w(40), w(41), w(0)]
    };
    let nothing = SetAttr::default();
    let at = |seconds, nanoseconds| SetTime::At(Timestamp { seconds, nanoseconds });
    let ctime = Timestamp { seconds: 22, nanoseconds: 32 };
    let rows = [
        (0, nothing),
        (1 << 0, SetAttr { mode: Some(0o640), ..nothing }),
        (1 << 1, SetAttr { uid: Some(40), ..nothing }),
        (1 << 2, SetAttr { gid: Some(41), ..nothing }),
        (1 << 3, SetAttr { size: Some(11), ..nothing }),
        (1 << 4, SetAttr { atime: Some(at(20, 30)), ..nothing }),
        (1 << 5, SetAttr { mtime: Some(at(-21, 31)), ..nothing }),
        (1 << 6, SetAttr { handle: Some(Handle(10)), ..nothing }),
        (1 << 4 | 1 << 7, SetAttr { atime: Some(SetTime::Now), ..nothing }),
        (1 << 5 | 1 << 8, SetAttr { mtime: Some(SetTime::Now), ..nothing }),
        (1 << 9, SetAttr { lock_owner: Some(LockOwner(12)), ..nothing }),
        (1 << 10, SetAttr { ctime: Some(ctime), ..nothing }),
        (1 << 11, SetAttr { kill_suidgid: true, ..nothing }),
    ];
    for (valid, set) in rows {
        expect(4, &parts(valid), &Operation::SetAttr(set));
    }
}

#[test]
fn operations_on_open_files_are_decoded() {
    let handle = Handle(7);
    let open = Open { flags: OpenFlags::from_bits_retain(0o100_001), kill_suidgid: true };
    expect(14, &[w(0o100_001), w(1)], &Operation::Open(open));
    expect(27, &[w(0o200_000), w(0)], &Operation::OpenDir(OpenDir { flags: OpenFlags::DIRECTORY }));
    let read = |flags: u32| [l(7), l(8), w(9), w(flags), l(10), w(0o40000), w(0)];
    let want = |lock_owner| {
        Operation::Read(Read { handle, offset: 8, size: 9, lock_owner, flags: OpenFlags::DIRECT })
    };
    expect(15, &read(0), &want(None));
    expect(15, &read(2), &want(Some(LockOwner(10))));
    let list = ReadDir { handle, offset: 8, size: 9 };
    expect(28, &read(0), &Operation::ReadDir(list));
    expect(44, &read(0), &Operation::ReadDirPlus(ReadDirPlus { list }));
    expect(
        18,
        &[l(7), w(2), w(3), l(10)],
        &Operation::Release(Release {
            handle,
            flags: OpenFlags::from_bits_retain(2),
            flush: true,
            flock_unlock: true,
            lock_owner: LockOwner(10),
        }),
    );
    expect(29, &[l(7), w(2), w(0), l(0)], &Operation::ReleaseDir(ReleaseDir { handle }));
    let datasync = FsyncFlags::DATASYNC;
    expect(20, &[l(7), w(1), w(0)], &Operation::Fsync(Fsync { handle, flags: datasync }));
    expect(30, &[l(7), w(0), w(0)], &Operation::FsyncDir(FsyncDir { handle, flags: FsyncFlags::empty() }));
    expect(25, &[l(7), w(0), w(0), l(10)], &Operation::Flush(Flush { handle, lock_owner: LockOwner(10) }));
    expect(
        46,
        &[l(7), l(8), w(4), w(0)],
        &Operation::Lseek(Lseek { handle, offset: 8, whence: Whence::Hole }),
    );
    expect(40, &[l(7), l(99), w(1), w(5)], &Operation::Poll(Poll { handle, events: 5 }));
    expect(
        43,
        &[l(7), l(8), l(9), w(3), w(0)],
        &Operation::Fallocate(Fallocate {
            handle,
            offset: 8,
            length: 9,
            mode: FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE,
        }),
    );
}

#[test]
fn a_write_is_decoded_without_its_data() {
    let bytes = message(16, 9, &[l(7), l(8), w(9), w(7), l(10), w(0o4_010_001), w(0)]);
    assert_eq!((copied_len(Some(Opcode::Write), bytes.len() + 9), bytes.len()), (WRITE_LEN, 80));
    let write = Write {
        handle: Handle(7),
        offset: 8,
        size: 9,
        write_flags: WriteFlags::CACHE | WriteFlags::KILL_SUIDGID,
        lock_owner: Some(LockOwner(10)),
        flags: OpenFlags::SYNC | OpenFlags::from_bits_retain(1),
    };
    assert_eq!(decode_in(Dialect::default(), &bytes, 9), Operation::Write(write));
}

#[test]
fn locks_ioctls_copies_and_mappings_are_decoded() {
    let lock = [l(7), l(8), l(9), l(10), w(1), w(11), w(1), w(0)];
    let range = LockRange {
        handle: Handle(7),
        owner: LockOwner(8),
        start: 9,
        end: 10,
        kind: Some(LockKind::Write),
        pid: 11,
        flock: true,
    };
    expect(31, &lock, &Operation::GetLock(GetLock(range)));
    expect(32, &lock, &Operation::SetLock(SetLock { lock: range, wait: false }));
    expect(33, &lock, &Operation::SetLock(SetLock { lock: range, wait: true }));
    expect(
        39,
        &[l(7), w(16), w(0x5401), l(8), w(2), w(60), t("in")],
        &Operation::Ioctl(Ioctl {
            handle: Handle(7),
            flags: IoctlFlags::DIR,
            command: 0x5401,
            argument: 8,
            input: b"in",
            output_len: 60,
        }),
    );
    let copy = |wide_reply| {
        Operation::CopyFileRange(CopyFileRange {
            from: Handle(1),
            from_offset: 2,
            to_node: NodeId(3),
            to: Handle(4),
            to_offset: 5,
            length: 6,
            flags: 7,
            wide_reply,
        })
    };
    expect(47, &[l(1), l(2), l(3), l(4), l(5), l(6), l(7)], &copy(false));
    expect(53, &[l(1), l(2), l(3), l(4), l(5), l(6), l(7)], &copy(true));
    let map = |read, write| {
        Operation::SetupMapping(SetupMapping {
            handle: Handle(u64::MAX),
            file_offset: 2,
            length: 3,
            read,
            write,
            window_offset: 4,
        })
    };
    expect(48, &[l(u64::MAX), l(2), l(3), l(1), l(4)], &map(false, true));
    expect(48, &[l(u64::MAX), l(2), l(3), l(2), l(4)], &map(true, false));
}

#[test]
fn short_long_and_future_layouts_of_init_are_decoded() {
    let init = |minor, flags| {
        let flags = InitFlags::from_bits_retain(flags);
        Operation::Init(InitRequest { major: 7, minor, max_readahead: 0x20000, flags })
    };
    expect(26, &[w(7), w(31), w(0x20000), w(0x3_ffff)], &init(31, 0x3_ffff));
    let high = [w(7), w(45), w(0x20000), w(0x4000_0001), w(2), vec![0; 44]];
    expect(26, &high, &init(45, 0x2_4000_0001));
    // Without INIT_EXT the upper flag word has no meaning.
    expect(26, &[w(7), w(45), w(0x20000), w(1), w(2), vec![0; 44]], &init(45, 1));
    let newer = InitRequest { major: 8, minor: 3, max_readahead: 0, flags: InitFlags::empty() };
    expect(26, &[w(8), w(3), t("something else altogether")], &Operation::Init(newer));
}

#[test]
fn extensions_follow_the_body() {
    let label = [t("security.selinux\0"), t("label"), vec![0; 2]].concat();
    let label = [w(8 + 8 + 24), w(1), w(5), w(0), label].concat();
    let groups = [w(16), w(32), w(1), w(1000)].concat();
    let mut bytes = message(9, 0, &[w(0o755), w(0), t("d\0"), label, groups]);
    bytes[36] = 7;
    let request = Request::decode(&bytes, 0, Dialect::default()).unwrap();
    let mkdir = MkDir { name: name(c"d"), mode: 0o755, umask: 0 };
    assert_eq!(request.operation, Ok(Operation::MkDir(mkdir)));
    let extensions = request.header.extensions;
    assert_eq!(extensions.groups().unwrap().collect::<Vec<_>>(), [1000]);
    let labels: Vec<_> = extensions.security_contexts().unwrap().iter().collect();
    assert_eq!(labels, [SecurityContext { name: c"security.selinux", value: b"label" }]);
}
