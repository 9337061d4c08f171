//! Does the passthrough file system keep those lifetimes, limits and identities that a test with a
//! guest cannot observe? The tests call the file system directly, as the session does.
#![cfg(test)]
use pinhole::filesystem::{Allowed, Call, Caller, FileSystem, Pace, Paced, Repeat, StopCheck};
use pinhole::io_vectors::IoVectors;
use pinhole::passthrough::{GuestResources, Passthrough, ShareConfig};
use pinhole_policy::{NoPlaces, Permitted, Policy, RequiresAccess};
use pinhole_protocol::{
    self as protocol, Create, DirentBuffer, Errno, Forget, Handle, InitFlags, LockOwner, Lookup, LookupName,
    MkDir, MkNod, Name, NodeId, NodeKind, Open, OpenDir, OpenFlags, ReadDir, Release, SetAttr, WriteFlags,
};
use std::cell::Cell;
use std::ffi::CString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tempfile::TempDir;
use vm_memory::VolatileSlice;

/// Returns an empty shared directory and the file system that serves it.
fn share(descriptors_max: u64) -> (TempDir, Passthrough) {
    let directory = tempfile::tempdir().unwrap();
    let config = ShareConfig { descriptors_max, ..ShareConfig::new(directory.path()) };
    let share = Passthrough::new(config).unwrap();
    (directory, share)
}

/// Returns an operation of root on a node, as permitted by a policy that permits everything.
fn at<'a, T>(node: NodeId, operation: T) -> Permitted<Call<'a, T>>
where
    Call<'a, T>: RequiresAccess,
{
    by(0, node, operation)
}

/// Returns an operation of this user on a node, as permitted by a policy that permits everything.
fn by<'a, T>(uid: u32, node: NodeId, operation: T) -> Permitted<Call<'a, T>>
where
    Call<'a, T>: RequiresAccess,
{
    let caller = Caller { uid, gid: uid, groups: None, pid: 1 };
    Policy::full().permit(Call { node, caller, operation }, &NoPlaces).unwrap()
}

/// Calls `then` with a name in the form that operations take.
fn with_name<R>(text: &str, then: impl FnOnce(Name<'_>) -> R) -> R {
    let text = CString::new(text).unwrap();
    then(Name::parse(&text).unwrap())
}

fn look_up(share: &Passthrough, parent: NodeId, name: &str) -> Result<protocol::Entry, Errno> {
    with_name(name, |name| share.lookup(at(parent, Lookup { name: name.into() })))
}

fn open(share: &Passthrough, node: NodeId, flags: u32) -> Result<protocol::OpenReply, Errno> {
    let flags = OpenFlags::from_bits_retain(flags);
    share.open(at(node, Open { flags, kill_suidgid: false }), Pace::Patient).and_then(Paced::ready)
}

fn create(share: &Passthrough, call: Allowed<'_, Create<'_>>) -> protocol::Created {
    share.create(call, Pace::Patient).and_then(Paced::ready).unwrap()
}

fn write(share: &Passthrough, handle: Handle, write_flags: WriteFlags) -> Result<usize, Errno> {
    let mut bytes = *b"bytes";
    let vectors = IoVectors::from(VolatileSlice::from(bytes.as_mut_slice()));
    let flags = OpenFlags::from_bits_retain(1);
    let write = protocol::Write { handle, offset: 0, size: 5, write_flags, lock_owner: None, flags };
    share.write(at(NodeId::ROOT, write), &vectors, Pace::Patient)?.ready()
}

/// Opens a directory, and returns the reply to a READDIR of `capacity` bytes from `offset` on.
fn list(share: &Passthrough, node: NodeId, offset: u64, capacity: usize) -> Result<Vec<u8>, Errno> {
    let opened = share.open_dir(at(node, OpenDir { flags: OpenFlags::empty() }))?;
    let mut bytes = Vec::new();
    let mut into = DirentBuffer::new(&mut bytes, capacity, None);
    let size = u32::try_from(capacity).unwrap();
    share.read_dir(at(node, ReadDir { handle: opened.handle, offset, size }), &mut into)?;
    share.release_dir(at(node, protocol::ReleaseDir { handle: opened.handle }))?;
    Ok(bytes)
}

#[test]
fn two_names_of_one_file_are_one_node() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("a"), "x").unwrap();
    std::fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
    let (a, b) = (look_up(&share, NodeId::ROOT, "a").unwrap(), look_up(&share, NodeId::ROOT, "b").unwrap());
    assert_eq!(a.node, b.node);
    assert_eq!(share.held(), GuestResources { nodes: 1, handles: 0, descriptors: 0 });
}

/// The session refuses these names first, because no guest of a directory has negotiated them.
#[test]
fn dots_are_no_names_of_a_directory() {
    let (directory, share) = share(100);
    std::fs::create_dir(directory.path().join("dir")).unwrap();
    let dir = look_up(&share, NodeId::ROOT, "dir").unwrap().node;
    for parent in [NodeId::ROOT, dir] {
        for name in [LookupName::Itself, LookupName::Parent] {
            assert_eq!(share.lookup(at(parent, Lookup { name })), Err(Errno::EINVAL), "{name:?}");
        }
    }
    assert_eq!(share.held(), GuestResources { nodes: 1, handles: 0, descriptors: 0 });
}

#[test]
fn a_node_lives_until_its_last_lookup_is_forgotten() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("a"), "x").unwrap();
    let node = look_up(&share, NodeId::ROOT, "a").unwrap().node;
    look_up(&share, NodeId::ROOT, "a").unwrap();
    share.forget(at(node, Forget { count: 1 }));
    share.get_attr(at(node, protocol::GetAttr { handle: None })).unwrap();
    share.forget(at(node, Forget { count: 1 }));
    let stale = share.get_attr(at(node, protocol::GetAttr { handle: None }));
    assert_eq!(stale.err(), Some(Errno::ESTALE));
    let again = look_up(&share, NodeId::ROOT, "a").unwrap().node;
    assert_ne!(again, node, "a node id is never reused");
}

#[test]
fn forget_of_too_many_lookups_affects_no_other_node() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("a"), "x").unwrap();
    let node = look_up(&share, NodeId::ROOT, "a").unwrap().node;
    share.forget(at(node, Forget { count: u64::MAX }));
    share.forget(at(node, Forget { count: u64::MAX }));
    share.forget(at(NodeId::ROOT, Forget { count: u64::MAX }));
    look_up(&share, NodeId::ROOT, "a").unwrap();
    assert_eq!(share.held(), GuestResources { nodes: 1, handles: 0, descriptors: 0 });
}

#[test]
fn init_forgets_all_nodes_and_closes_all_descriptors() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("a"), "x").unwrap();
    let node = look_up(&share, NodeId::ROOT, "a").unwrap().node;
    let handle = open(&share, node, 0).unwrap().handle;
    assert_eq!((share.held().nodes, share.held().handles), (1, 1));
    share.reset(InitFlags::empty());
    assert_eq!(share.held(), GuestResources::default());
    assert_eq!(open(&share, node, 0).err(), Some(Errno::ESTALE));
    let release = Release {
        handle,
        flags: OpenFlags::empty(),
        flush: false,
        flock_unlock: false,
        lock_owner: LockOwner(0),
    };
    assert_eq!(share.release(at(node, release), Pace::Patient).err(), Some(Errno::EBADF));
}

#[test]
fn no_file_is_made_without_a_descriptor_for_it() {
    let (directory, share) = share(2);
    std::fs::write(directory.path().join("a"), "x").unwrap();
    let a = look_up(&share, NodeId::ROOT, "a").unwrap().node;
    let handles = [open(&share, a, 0).unwrap().handle, open(&share, a, 0).unwrap().handle];
    assert_eq!(open(&share, a, 0).err(), Some(Errno::ENFILE));
    let made = with_name("d", |name| share.mk_dir(at(NodeId::ROOT, MkDir { name, mode: 0o755, umask: 0 })));
    assert_eq!(made.err(), Some(Errno::ENFILE));
    assert!(!directory.path().join("d").exists());
    let flags = OpenFlags::empty();
    let release =
        Release { handle: handles[0], flags, flush: false, flock_unlock: false, lock_owner: LockOwner(0) };
    share.release(at(a, release), Pace::Patient).and_then(Paced::ready).unwrap();
    open(&share, a, 0).unwrap();
}

#[test]
fn only_regular_files_are_opened() {
    let (directory, share) = share(100);
    let made = with_name("fifo", |name| {
        share.mk_nod(at(NodeId::ROOT, MkNod { name, kind: NodeKind::Fifo, mode: 0o644, umask: 0 }))
    });
    // Opening a FIFO for reading would wait for a writer.
    assert_eq!(open(&share, made.unwrap().node, 0).err(), Some(Errno::ENXIO));
    std::os::unix::fs::symlink("/etc/hostname", directory.path().join("link")).unwrap();
    let link = look_up(&share, NodeId::ROOT, "link").unwrap();
    assert_eq!(open(&share, link.node, 0).err(), Some(Errno::ELOOP));
    assert_eq!(open(&share, NodeId::ROOT, 0).err(), Some(Errno::EISDIR));
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let (directory, share) = share(100);
    std::os::unix::fs::symlink("/etc", directory.path().join("link")).unwrap();
    let link = look_up(&share, NodeId::ROOT, "link").unwrap();
    assert_eq!(look_up(&share, link.node, "hostname").err(), Some(Errno::ENOTDIR));
    assert_eq!(link.attr.mode & 0o170_000, 0o120_000);
}

#[test]
fn write_drops_suid_exactly_when_the_guest_says_so() {
    let (directory, share) = share(100);
    let path = directory.path().join("suid");
    std::fs::write(&path, "").unwrap();
    let node = look_up(&share, NodeId::ROOT, "suid").unwrap().node;
    let handle = open(&share, node, 1).unwrap().handle;
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o6755);
    write(&share, handle, WriteFlags::empty()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o6755);
    write(&share, handle, WriteFlags::KILL_SUIDGID).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    mode(0o6755);
    let cut = SetAttr { size: Some(1), kill_suidgid: true, ..SetAttr::default() };
    share.set_attr(at(node, cut), Pace::Patient).and_then(Paced::ready).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
}

/// Carries out FALLOCATE of the first `length` bytes, until `stop` returns true.
fn reserve(
    share: &Passthrough,
    (handle, length): (Handle, u64),
    mode: protocol::FallocateMode,
    stop: &dyn Fn(Repeat) -> bool,
) -> Result<Paced<()>, Errno> {
    let fallocate = protocol::Fallocate { handle, offset: 0, length, mode };
    share.fallocate(at(NodeId::ROOT, fallocate), StopCheck::once(stop))
}

#[test]
fn stopped_reservation_does_not_change_the_length() {
    let (directory, share) = share(100);
    let path = directory.path().join("file");
    std::fs::write(&path, "content").unwrap();
    let node = look_up(&share, NodeId::ROOT, "file").unwrap().node;
    let handle = open(&share, node, 2).unwrap().handle;
    let (length, asked) = (300 << 20, Cell::new(0));
    let in_the_third = |repeat| {
        assert_eq!(repeat, Repeat::Harmless);
        asked.set(asked.get() + 1);
        asked.get() == 3
    };
    let (plain, keep) = (protocol::FallocateMode::empty(), protocol::FallocateMode::KEEP_SIZE);
    assert_eq!(reserve(&share, (handle, length), plain, &in_the_third), Ok(Paced::Stopped));
    let partly = std::fs::metadata(&path).unwrap();
    assert_eq!((partly.len(), asked.get()), (7, 3));
    assert!((192 << 20..256 << 20).contains(&(partly.blocks() * 512)), "{}", partly.blocks());
    assert_eq!(reserve(&share, (handle, length), plain, &|_| false), Ok(Paced::Ready(())));
    let whole = std::fs::metadata(&path).unwrap();
    assert_eq!(whole.len(), length);
    assert!(whole.blocks() * 512 >= length);
    assert_eq!(std::fs::read(&path).unwrap().get(..7), Some(&b"content"[..]));
    // A second punch could remove data that was written in between.
    let harmful = |repeat| {
        assert_eq!(repeat, Repeat::Harmful);
        false
    };
    let punch = protocol::FallocateMode::PUNCH_HOLE | keep;
    assert_eq!(reserve(&share, (handle, length), punch, &harmful), Ok(Paced::Ready(())));
    assert_eq!(std::fs::metadata(&path).unwrap().blocks(), 0);
}

#[test]
fn impossible_reservation_fails_before_its_first_step() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("file"), "").unwrap();
    let node = look_up(&share, NodeId::ROOT, "file").unwrap().node;
    let handle = open(&share, node, 2).unwrap().handle;
    let plain = protocol::FallocateMode::empty();
    for (length, errno) in [(u64::MAX, Errno::EINVAL), (1 << 62, Errno::EFBIG)] {
        assert_eq!(reserve(&share, (handle, length), plain, &|_| false), Err(errno), "{length}");
    }
    let file = std::fs::metadata(directory.path().join("file")).unwrap();
    assert_eq!((file.len(), file.blocks()), (0, 0));
}

/// Returns the mode that a change by this user leaves of mode 6755, on a file of root.
fn left_by(uid: u32, change: impl FnOnce(&Passthrough, NodeId, Handle)) -> u32 {
    let (directory, share) = share(100);
    let path = directory.path().join("suid");
    std::fs::write(&path, "content").unwrap();
    let node = look_up(&share, NodeId::ROOT, "suid").unwrap().node;
    let handle = open(&share, node, 2).unwrap().handle;
    // A thread keeps or lacks CAP_FSETID until a later request needs the opposite. This write
    // leaves the thread in the opposite of the state that the change needs.
    let flags = if uid == 0 { WriteFlags::KILL_SUIDGID } else { WriteFlags::empty() };
    write(&share, handle, flags).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6755)).unwrap();
    change(&share, node, handle);
    std::fs::metadata(&path).unwrap().mode() & 0o7777
}

#[test]
fn only_root_keeps_privileged_bits_where_request_does_not_say() {
    let mode = protocol::FallocateMode::empty();
    for (uid, left) in [(0, 0o6755), (1000, 0o755), (u32::MAX, 0o755)] {
        let allocated = left_by(uid, |share, _, handle| {
            let fallocate = protocol::Fallocate { handle, offset: 0, length: 100, mode };
            share
                .fallocate(by(uid, NodeId::ROOT, fallocate), StopCheck::NEVER)
                .and_then(Paced::ready)
                .unwrap();
        });
        let copied = left_by(uid, |share, _, handle| {
            let (from, to) = (handle, handle);
            let (from_offset, to_offset) = (0, 4096);
            let node = NodeId::ROOT;
            let copy = protocol::CopyFileRange {
                from,
                from_offset,
                to,
                to_offset,
                to_node: node,
                length: 4,
                flags: 0,
                wide_reply: false,
            };
            assert_eq!(share.copy_file_range(by(uid, node, copy)), Ok(4));
        });
        assert_eq!((allocated, copied), (left, left), "uid {uid}");
    }
}

#[test]
fn change_to_same_owner_drops_bits_for_root_and_owner() {
    for (uid, left) in [(0, 0o755), (1000, 0o6755), (u32::MAX, 0o6755)] {
        let set = SetAttr { kill_suidgid: true, ..SetAttr::default() };
        let after = left_by(uid, |share, node, _| {
            share.set_attr(by(uid, node, set), Pace::Patient).and_then(Paced::ready).unwrap();
        });
        assert_eq!(after, left, "uid {uid}");
    }
}

#[test]
fn user_makes_files_where_only_the_guest_allows_it() {
    let (directory, share) = share(100);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let open = Open { flags: OpenFlags::from_bits_retain(2), kill_suidgid: false };
    with_name("made", |name| {
        share
            .create(by(1234, NodeId::ROOT, Create { name, open, mode: 0o640, umask: 0 }), Pace::Patient)
            .and_then(Paced::ready)
            .unwrap();
    });
    let made = std::fs::metadata(directory.path().join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 1234));
}

#[test]
fn file_made_by_a_user_belongs_to_that_user() {
    let (directory, share) = share(100);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let open = Open { flags: OpenFlags::from_bits_retain(2), kill_suidgid: false };
    with_name("mine", |name| {
        create(&share, by(1234, NodeId::ROOT, Create { name, open, mode: 0o640, umask: 0 }));
    });
    let made = std::fs::metadata(directory.path().join("mine")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1234, 1234, 0o640));
    assert_eq!(rustix::process::geteuid().as_raw(), 0);
}

#[test]
fn id_that_means_no_id_gets_einval() {
    let (_directory, share) = share(100);
    let wanted = SetAttr { uid: Some(u32::MAX), ..SetAttr::default() };
    assert_eq!(share.set_attr(at(NodeId::ROOT, wanted), Pace::Patient).err(), Some(Errno::EINVAL));
    let made = with_name("d", |name| {
        share.mk_dir(by(u32::MAX, NodeId::ROOT, MkDir { name, mode: 0o755, umask: 0 }))
    });
    assert_eq!(made.err(), Some(Errno::EINVAL));
}

#[test]
fn handle_of_a_directory_is_not_a_file_handle() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("a"), "x").unwrap();
    let node = look_up(&share, NodeId::ROOT, "a").unwrap().node;
    open(&share, node, 1).unwrap();
    let opened = share.open_dir(at(NodeId::ROOT, OpenDir { flags: OpenFlags::empty() })).unwrap();
    assert_eq!(write(&share, opened.handle, WriteFlags::empty()).err(), Some(Errno::EBADF));
}

#[test]
fn the_root_has_nothing_above_it() {
    let (directory, share) = share(100);
    let own = std::fs::metadata(directory.path()).unwrap().ino();
    let bytes = list(&share, NodeId::ROOT, 0, 4096).unwrap();
    let records: Vec<u64> =
        bytes.chunks(24 + 8).map(|record| u64::from_le_bytes(record[..8].try_into().unwrap())).collect();
    assert_eq!(records, [own, own], "\".\" and \"..\" are both the root");
}

#[test]
fn invented_listing_cookie_is_an_error_or_the_end() {
    let (_directory, share) = share(100);
    for cookie in [1, 12_345, u64::from(u32::MAX), i64::MAX.cast_unsigned(), u64::MAX] {
        match list(&share, NodeId::ROOT, cookie, 4096) {
            Ok(bytes) => assert!(bytes.len() <= 64, "cookie {cookie}"),
            Err(errno) => assert_eq!(errno, Errno::EINVAL, "cookie {cookie}"),
        }
    }
}

#[test]
fn listing_continues_where_it_stopped() {
    let (directory, share) = share(100);
    for n in 0..500 {
        std::fs::write(directory.path().join(format!("file-{n}")), "").unwrap();
    }
    let opened = share.open_dir(at(NodeId::ROOT, OpenDir { flags: OpenFlags::empty() })).unwrap();
    let (mut names, mut offset) = (std::collections::HashSet::new(), 0);
    loop {
        let mut bytes = Vec::new();
        let mut into = DirentBuffer::new(&mut bytes, 300, None);
        let list = ReadDir { handle: opened.handle, offset, size: 300 };
        share.read_dir(at(NodeId::ROOT, list), &mut into).unwrap();
        if bytes.is_empty() {
            break;
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[16..20].try_into().unwrap()) as usize;
            offset = u64::from_le_bytes(rest[8..16].try_into().unwrap());
            assert!(names.insert(rest[24..24 + len].to_vec()), "no name is listed twice");
            rest = &rest[(24 + len).next_multiple_of(8)..];
        }
    }
    assert_eq!(names.len(), 502);
}

#[test]
fn file_made_after_dropping_suid_keeps_set_group_id() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("file"), "").unwrap();
    std::os::unix::fs::chown(directory.path(), None, Some(4321)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o2777)).unwrap();
    let node = look_up(&share, NodeId::ROOT, "file").unwrap().node;
    let handle = open(&share, node, 1).unwrap().handle;
    write(&share, handle, WriteFlags::KILL_SUIDGID).unwrap();
    let made = with_name("made", |name| {
        share
            .mk_nod(at(NodeId::ROOT, MkNod { name, kind: NodeKind::Regular, mode: 0o2755, umask: 0 }))
            .unwrap()
    });
    assert_eq!((made.attr.mode & 0o7777, made.attr.gid), (0o2755, 4321));
}

#[test]
fn handle_of_another_file_is_ignored() {
    let (directory, share) = share(100);
    for name in ["a", "b"] {
        std::fs::write(directory.path().join(name), "content").unwrap();
    }
    let a = look_up(&share, NodeId::ROOT, "a").unwrap().node;
    let b = look_up(&share, NodeId::ROOT, "b").unwrap().node;
    let handle = Some(open(&share, b, 1).unwrap().handle);
    let cut = SetAttr { handle, size: Some(0), ..SetAttr::default() };
    share.set_attr(at(a, cut), Pace::Patient).and_then(Paced::ready).unwrap();
    assert_eq!(std::fs::read(directory.path().join("a")).unwrap(), b"");
    assert_eq!(std::fs::read(directory.path().join("b")).unwrap(), b"content");
}

#[test]
fn create_of_existing_file_returns_the_truncated_length() {
    let (directory, share) = share(100);
    std::fs::write(directory.path().join("file"), "content").unwrap();
    // O_WRONLY | O_TRUNC.
    let open = Open { flags: OpenFlags::from_bits_retain(0o1001), kill_suidgid: false };
    let created = with_name("file", |name| {
        create(&share, at(NodeId::ROOT, Create { name, open, mode: 0o644, umask: 0 }))
    });
    assert_eq!(created.entry.attr.size, 0);
}
