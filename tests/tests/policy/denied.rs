//! Does the daemon refuse the operations that a profile does not grant, with the errno of its table
//! and without a host call?
//!
//! The daemon runs under strace. For a refused request it may only wake and interrupt the guest.

use super::traced::Traced;
use pinhole_policy::{Access, Policy, Profile};
use pinhole_protocol::{
    BMap, CopyFileRange, Create, Errno, Fallocate, FallocateMode, Fsync, FsyncDir, FsyncFlags, GetLock,
    GetXattr, Handle, Link, ListXattr, LockKind, LockOwner, LockRange, Lookup, MkDir, MkNod, Name, NodeId,
    NodeKind, Open, OpenDir, OpenFlags, Operation, Poll, RemoveXattr, Rename, RenameFlags, RmDir, SetAttr,
    SetLock, SetTime, SetXattr, SetXattrMode, SetupMapping, SymLink, SyncFs, TmpFile, Unlink, Write,
    WriteFlags,
};
use pinhole_tests::frontend::frame::opcode::{CREATE, FALLOCATE, IOCTL, LOOKUP, OPEN_FILE};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Bench, Setup};
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Space for every reply.
const ROOM: usize = 256;
/// System calls of a queue thread for a request that needs no host call.
const NOTHING: [&str; 2] = ["epoll_wait", "write"];

/// Request and the access that it needs.
struct CheckedRequest {
    what: String,
    node: NodeId,
    operation: Operation<'static>,
    payload: &'static [u8],
    needs: Access,
}

/// Nodes and file handles of the guest before the first checked request.
struct Held {
    file: NodeId,
    handle: Handle,
    directory: NodeId,
    listed: Handle,
}

/// Returns a name for a message.
fn name(text: &'static CStr) -> Name<'static> {
    Name::parse(text).unwrap()
}

/// Makes the objects of the share.
fn fill(share: &Path) {
    fs::write(share.join("file"), "content").unwrap();
    fs::create_dir(share.join("dir")).unwrap();
    symlink("file", share.join("link")).unwrap();
}

/// Sends a request and returns the body of its successful reply.
fn success(traced: &mut Traced, node: NodeId, operation: &Operation<'_>) -> Vec<u8> {
    let message = traced.guest().encode(node, operation, &[]);
    traced.ask(&message, ROOM).success().unwrap().to_vec()
}

/// Opens files and directories, and returns their nodes and handles.
fn open_nodes_and_handles(traced: &mut Traced) -> Held {
    let look_up = |traced: &mut Traced, text| {
        let found = success(traced, NodeId::ROOT, &Operation::Lookup(Lookup { name: name(text).into() }));
        NodeId(u64_at(&found, 0).unwrap())
    };
    let (file, directory) = (look_up(traced, c"file"), look_up(traced, c"dir"));
    let flags = OpenFlags::empty();
    let opened = success(traced, file, &Operation::Open(Open { flags, kill_suidgid: false }));
    let listed = success(traced, directory, &Operation::OpenDir(OpenDir { flags }));
    let handle = |body: &[u8]| Handle(u64_at(body, 0).unwrap());
    Held { file, handle: handle(&opened), directory, listed: handle(&listed) }
}

/// Returns requests that change names, and the access that each needs.
fn of_names(held: &Held) -> Vec<(NodeId, Operation<'static>, Access)> {
    let (file, new) = (name(c"file"), name(c"new"));
    let made = |kind| Operation::MkNod(MkNod { name: new, kind, mode: 0o644, umask: 0 });
    let rename =
        |flags| Operation::Rename(Rename { name: file, new_directory: NodeId::ROOT, new_name: new, flags });
    let open = Open { flags: OpenFlags::empty(), kill_suidgid: false };
    let target = held.file;
    let tmp = Operation::TmpFile(TmpFile { open, mode: 0o644, umask: 0 });
    let root = [
        (Operation::Create(Create { name: new, open, mode: 0o644, umask: 0 }), Access::CREATE | Access::READ),
        (Operation::MkDir(MkDir { name: new, mode: 0o755, umask: 0 }), Access::MKDIR),
        (Operation::SymLink(SymLink { name: new, target: c"t" }), Access::SYMLINK),
        (Operation::Link(Link { target, name: new }), Access::LINK),
        (made(NodeKind::Regular), Access::CREATE),
        (made(NodeKind::Fifo), Access::MKNOD_FIFO),
        (made(NodeKind::Socket), Access::MKNOD_SOCKET),
        (made(NodeKind::CharacterDevice(0x103)), Access::MKNOD_CHAR),
        (made(NodeKind::CharacterDevice(0)), Access::WHITEOUT),
        (made(NodeKind::BlockDevice(0x103)), Access::MKNOD_BLOCK),
        (Operation::Unlink(Unlink { name: file }), Access::UNLINK),
        (Operation::RmDir(RmDir { name: name(c"dir") }), Access::RMDIR),
        (rename(RenameFlags::empty()), Access::RENAME),
        (rename(RenameFlags::NOREPLACE), Access::RENAME),
        (rename(RenameFlags::EXCHANGE), Access::RENAME | Access::EXCHANGE),
        (rename(RenameFlags::WHITEOUT), Access::RENAME | Access::WHITEOUT),
        (tmp, Access::TMPFILE | Access::READ),
    ];
    root.into_iter().map(|(operation, needs)| (NodeId::ROOT, operation, needs)).collect()
}

/// Returns requests that change a file or lock it, and the access that each needs.
fn of_files(held: &Held) -> Vec<(NodeId, Operation<'static>, Access)> {
    let handle = held.handle;
    let open = |bits| Operation::Open(Open { flags: OpenFlags::from_bits_retain(bits), kill_suidgid: false });
    let write = |flags| {
        let (write_flags, lock_owner) = (WriteFlags::empty(), None);
        Operation::Write(Write { handle, offset: 0, size: 1, write_flags, lock_owner, flags })
    };
    let allocate = |mode| Operation::Fallocate(Fallocate { handle, offset: 0, length: 1, mode });
    let set = |change: SetAttr| Operation::SetAttr(change);
    let (write_only, append, truncate) = (0o1, 0o2001, 0o1001);
    let copy = CopyFileRange {
        from: handle,
        from_offset: 0,
        to_node: held.file,
        to: handle,
        to_offset: 8,
        length: 1,
        flags: 0,
        wide_reply: false,
    };
    let lock = LockRange {
        handle,
        owner: LockOwner(1),
        start: 0,
        end: 9,
        kind: Some(LockKind::Write),
        pid: 1,
        flock: false,
    };
    let (punch, keep) = (FallocateMode::PUNCH_HOLE, FallocateMode::KEEP_SIZE);
    let file = [
        (open(write_only), Access::WRITE),
        (open(append), Access::APPEND),
        (open(truncate), Access::WRITE | Access::TRUNCATE),
        (write(OpenFlags::empty()), Access::WRITE),
        (write(OpenFlags::APPEND), Access::APPEND),
        (set(SetAttr { size: Some(1), ..SetAttr::default() }), Access::STAT | Access::TRUNCATE),
        (set(SetAttr { mode: Some(0o600), ..SetAttr::default() }), Access::STAT | Access::CHMOD),
        (set(SetAttr { uid: Some(1), ..SetAttr::default() }), Access::STAT | Access::CHOWN),
        (set(SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() }), Access::STAT | Access::UTIMENS),
        (allocate(FallocateMode::empty()), Access::WRITE | Access::FALLOCATE),
        (allocate(punch | keep), Access::WRITE | Access::FALLOCATE_PUNCH),
        (allocate(FallocateMode::ZERO_RANGE), Access::WRITE | Access::FALLOCATE_ZERO),
        (allocate(FallocateMode::INSERT_RANGE), Access::WRITE | Access::FALLOCATE_SHIFT),
        (allocate(FallocateMode::COLLAPSE_RANGE), Access::WRITE | Access::FALLOCATE_SHIFT),
        (Operation::CopyFileRange(copy), Access::COPY_RANGE | Access::READ | Access::WRITE),
        (Operation::GetLock(GetLock(lock)), Access::LOCK),
        (Operation::SetLock(SetLock { lock, wait: false }), Access::LOCK),
        (Operation::SetLock(SetLock { lock, wait: true }), Access::LOCK),
    ];
    file.into_iter().map(|(operation, needs)| (held.file, operation, needs)).collect()
}

/// Returns requests without an implementation, and the access that each needs.
fn of_later(held: &Held) -> Vec<(NodeId, Operation<'static>, Access)> {
    let handle = held.handle;
    let map = |write| {
        let (handle, read) = (Handle(u64::MAX), true);
        let (file_offset, length, window_offset) = (0, 0x20_0000, 0);
        Operation::SetupMapping(SetupMapping { handle, file_offset, length, read, write, window_offset })
    };
    let file = [
        (map(false), Access::MAP_READ),
        (map(true), Access::MAP_READ | Access::MAP_WRITE),
        (Operation::BMap(BMap { block: 0, block_size: 512 }), Access::READ),
        (Operation::Poll(Poll { handle, events: 1 }), Access::empty()),
    ];
    file.into_iter().map(|(operation, needs)| (held.file, operation, needs)).collect()
}

/// Returns requests for extended attributes, and the access that each needs.
fn of_attributes(held: &Held) -> Vec<(NodeId, Operation<'static>, Access)> {
    let spaces = [
        (c"user.a", Access::XATTR_READ_USER, Access::XATTR_WRITE_USER),
        (c"trusted.a", Access::XATTR_READ_TRUSTED, Access::XATTR_WRITE_TRUSTED),
        (c"security.capability", Access::XATTR_READ_SECURITY, Access::XATTR_WRITE_SECURITY),
        (c"system.nfs4_acl", Access::XATTR_READ_SYSTEM, Access::XATTR_WRITE_SYSTEM),
        (c"system.posix_acl_access", Access::ACL_READ, Access::ACL_WRITE),
        // A name without a namespace.
        (c"nothing", Access::XATTR_READ_SYSTEM, Access::XATTR_WRITE_SYSTEM),
    ];
    let each = spaces.into_iter().flat_map(|(name, read, write)| {
        let set = SetXattr { name, value: b"v", mode: SetXattrMode::Any, acl_kill_sgid: false };
        [
            (Operation::GetXattr(GetXattr { name, size: 100 }), read),
            (Operation::SetXattr(set), write),
            (Operation::RemoveXattr(RemoveXattr { name }), write),
        ]
    });
    each.map(|(operation, needs)| (held.file, operation, needs)).collect()
}

/// Returns all requests, and the access that each needs.
fn all(held: &Held) -> Vec<CheckedRequest> {
    let all = [of_names(held), of_files(held), of_attributes(held), of_later(held)].concat();
    let asked = |(node, operation, needs): (NodeId, Operation<'static>, Access)| {
        let payload: &[u8] = if matches!(operation, Operation::Write(_)) { b"x" } else { b"" };
        CheckedRequest { what: format!("{operation:?}"), node, operation, payload, needs }
    };
    all.into_iter().map(asked).collect()
}

/// Sends all requests that the policy denies. Checks that each reply has the errno of the table,
/// and that the daemon makes no host call for it. Returns the number of denied requests.
fn denied(arguments: &[&str], policy: &Policy) -> usize {
    let mut traced = Traced::new(arguments, fill);
    let held = open_nodes_and_handles(&mut traced);
    let asked = all(&held);
    traced.wait_until_it_sleeps();
    let before = traced.calls_after_settling(0).len();
    let mut refused = 0;
    for CheckedRequest { what, node, operation, payload, needs } in &asked {
        let missing = *needs - policy.granted();
        if missing.is_empty() {
            continue;
        }
        let message = traced.guest().encode(*node, operation, payload);
        let errno = traced.ask(&message, ROOM).error().unwrap().and_then(Errno::name);
        let expected = missing.refusal(policy.is_read_only()).errno_name();
        assert_eq!(errno, Some(expected), "{what}");
        refused += 1;
        traced.wait_until_it_sleeps();
    }
    let calls = traced.calls_after_settling(before + NOTHING.len() * refused).split_off(before);
    assert_eq!(calls, NOTHING.repeat(refused), "the daemon made a host call");
    refused
}

#[test]
fn rootfs_refuses_every_change_without_a_host_call() {
    let refused = denied(&["--profile=rootfs"], &Policy::of(Profile::Rootfs));
    assert!(refused > 40, "{refused}");
}

#[test]
fn share_refuses_device_nodes_and_security_attributes() {
    let refused = denied(&["--profile=share", "--xattr"], &Policy::of(Profile::Share));
    assert_eq!(refused, 3 + 1 + 6, "mknod, whiteout by rename, two namespaces");
}

#[test]
fn readonly_option_refuses_changes_under_every_profile() {
    for (profile, named) in [(Profile::Full, "--profile=full"), (Profile::Share, "--profile=share")] {
        let policy = Policy::of(profile).without_mutations();
        let refused = denied(&[named, "--readonly", "--xattr"], &policy);
        assert!(refused > 40, "{refused}");
    }
}

#[test]
fn unsupported_operation_is_refused_if_denied_else_enosys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, "deny = [\"map-write\"]\n").unwrap();
    let named = format!("--policy={}", path.display());
    let policy = Policy::parse(&fs::read_to_string(&path).unwrap()).unwrap();
    for (argument, policy) in [("--profile=full", Policy::of(Profile::Full)), (&named, policy)] {
        let mut traced = Traced::new(&[argument], fill);
        let held = open_nodes_and_handles(&mut traced);
        traced.wait_until_it_sleeps();
        let before = traced.calls_after_settling(0).len();
        let asked = of_later(&held);
        for (node, operation, needs) in &asked {
            let message = traced.guest().encode(*node, operation, &[]);
            let errno = traced.ask(&message, ROOM).error().unwrap();
            let missing = *needs - policy.granted();
            let expected = if missing.is_empty() { Errno::ENOSYS } else { Errno::EPERM };
            assert_eq!(errno, Some(expected), "{argument} {operation:?}");
            traced.wait_until_it_sleeps();
        }
        let calls = traced.calls_after_settling(before + NOTHING.len() * asked.len()).split_off(before);
        assert_eq!(calls, NOTHING.repeat(asked.len()), "{argument}");
    }
}

#[test]
fn syncs_of_a_read_only_share_make_no_host_call() {
    let mut traced = Traced::new(&["--profile=rootfs"], fill);
    let Held { file, handle, directory, listed } = open_nodes_and_handles(&mut traced);
    let flags = FsyncFlags::empty();
    let asked = [
        (file, Operation::Fsync(Fsync { handle, flags })),
        (directory, Operation::FsyncDir(FsyncDir { handle: listed, flags })),
        (NodeId::ROOT, Operation::SyncFs(SyncFs)),
    ];
    traced.wait_until_it_sleeps();
    let before = traced.calls_after_settling(0).len();
    for (node, operation) in &asked {
        assert!(success(&mut traced, *node, operation).is_empty(), "{operation:?}");
        traced.wait_until_it_sleeps();
    }
    let calls = traced.calls_after_settling(before + NOTHING.len() * asked.len()).split_off(before);
    assert_eq!(calls, NOTHING.repeat(asked.len()));
}

#[test]
fn no_ioctl_reaches_the_host_under_any_profile() {
    for profile in ["--profile=full", "--profile=share", "--profile=rootfs"] {
        let mut traced = Traced::new(&[profile], fill);
        let held = open_nodes_and_handles(&mut traced);
        traced.wait_until_it_sleeps();
        let before = traced.calls_after_settling(0).len();
        // FS_IOC_GETFLAGS, FS_IOC_MEASURE_VERITY, FS_IOC_GET_ENCRYPTION_POLICY_EX, FICLONE and an
        // unknown command.
        let commands = [0x8008_6601, 0xc004_6686, 0xc009_6616, 0x4004_9409, 0xdead_beef];
        for command in commands {
            let frame = Frame::new(IOCTL, held.file.0).u64(held.handle.0).u32(0).u32(command);
            let reply = traced.ask(&frame.u64(0).u32(0).u32(8).message(), ROOM);
            assert_eq!(reply.error().unwrap(), Some(Errno::ENOTTY), "{command:#x}");
            traced.wait_until_it_sleeps();
        }
        let calls = traced.calls_after_settling(before + NOTHING.len() * commands.len()).split_off(before);
        assert_eq!(calls, NOTHING.repeat(commands.len()), "{profile}");
    }
}

#[test]
fn attribute_list_contains_only_readable_attributes() {
    let with_attributes = |share: &Path| {
        fill(share);
        let file = share.join("file");
        for (name, value) in [("user.a", "1"), ("trusted.b", "2"), ("security.c", "3"), ("user.d", "4")] {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&file, name, value.as_bytes(), flags).unwrap();
        }
    };
    for (profile, expected) in [
        ("--profile=share", &b"user.a\0user.d\0"[..]),
        ("--profile=rootfs", b"security.c\0user.a\0user.d\0"),
        ("--profile=full", b"security.c\0trusted.b\0user.a\0user.d\0"),
    ] {
        let mut traced = Traced::new(&[profile, "--xattr"], with_attributes);
        let file = open_nodes_and_handles(&mut traced).file;
        let list = |size| Operation::ListXattr(ListXattr { size });
        let names = success(&mut traced, file, &list(100));
        let mut sorted: Vec<_> = names.split_inclusive(|byte| *byte == 0).collect();
        sorted.sort_unstable();
        assert_eq!(sorted.concat(), expected, "{profile}");
        let len = success(&mut traced, file, &list(0));
        assert_eq!(len[..4], u32::try_from(expected.len()).unwrap().to_le_bytes(), "{profile}");
        let message = traced.guest().encode(file, &list(3), &[]);
        assert_eq!(traced.ask(&message, ROOM).error().unwrap(), Some(Errno::ERANGE), "{profile}");
    }
}

#[test]
fn unknown_fallocate_mode_never_reaches_the_host() {
    let mut bench = Bench::with(Setup::default(), &["--profile=full"]).unwrap();
    fs::write(bench.host("file"), [1; 4096]).unwrap();
    let found = bench.body(Frame::new(LOOKUP, 1).name("file"), 128).unwrap();
    let node = u64_at(&found, 0).unwrap();
    let opened = bench.body(Frame::new(OPEN_FILE, node).u32(2).u32(0), 16).unwrap();
    let handle = u64_at(&opened, 0).unwrap();
    let known = [0, 1, 3, 8, 0x10, 0x11, 0x20];
    for mode in (0..=0xff).chain((8..32).map(|shift| 1 << shift)).filter(|mode| !known.contains(mode)) {
        let frame = Frame::new(FALLOCATE, node).u64(handle).u64(0).u64(4096).u32(mode).u32(0);
        assert_eq!(bench.errno(frame, 0).unwrap(), Errno::EOPNOTSUPP.raw(), "{mode:#x}");
    }
    for mode in known {
        let frame = Frame::new(FALLOCATE, node).u64(handle).u64(0).u64(4096).u32(mode).u32(0);
        bench.errno(frame, 0).unwrap();
    }
    bench.is_alive().unwrap();
}

#[test]
fn open_passes_only_known_flags_to_the_host() {
    // Under `auto`, an open of a file that the host has changed is ESTALE once.
    let options = ["--profile=full", "--allow-direct-io", "--cache=exclusive"];
    let mut bench = Bench::with(Setup::default(), &options).unwrap();
    fs::write(bench.host("file"), "content").unwrap();
    let found = bench.body(Frame::new(LOOKUP, 1).name("file"), 128).unwrap();
    let node = u64_at(&found, 0).unwrap();
    let truncate = OpenFlags::TRUNC.bits();
    for flags in (2..32).map(|shift| 1 << shift).chain([u32::MAX << 2]) {
        for access in 0..3 {
            let flags = access | flags;
            let open = Frame::new(OPEN_FILE, node).u32(flags).u32(0);
            assert_eq!(bench.errno(open, 16).unwrap(), 0, "OPEN {flags:#o}");
            let create = Frame::new(CREATE, 1).u32(flags).u32(0o644).u32(0).u32(0).name(format!("{flags:o}"));
            assert_eq!(bench.errno(create, 144).unwrap(), 0, "CREATE {flags:#o}");
            let emptied = fs::metadata(bench.host("file")).unwrap().len() == 0;
            assert_eq!(emptied, flags & truncate != 0, "{flags:#o}");
            fs::write(bench.host("file"), "content").unwrap();
        }
    }
    bench.is_alive().unwrap();
}
