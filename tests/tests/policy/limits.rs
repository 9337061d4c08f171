//! Does each limit of a policy hold, and does it slow only the guest that exceeds it?
//!
//! Beyond a limit the guest gets the errno that POSIX demands, or is slowed. Its other queues and
//! other guests are served as before.

use pinhole_protocol::{
    CopyFileRange, Create, Errno, Fallocate, FallocateMode, Forget, GetAttr, Handle, LockOwner, Lookup,
    MkDir, Name, NodeId, Open, OpenDir, OpenFlags, Operation, ReadDir, Release, ReleaseDir, SetAttr, Write,
    WriteFlags,
};
use pinhole_tests::frontend::frame::u64_at;
use pinhole_tests::frontend::{Bench, Frontend, OUT_HEADER_LEN, Sent, Setup};
use pinhole_tests::linux::{O_APPEND, O_RDWR};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Number of requests that take a minute at one request per second: longer than
/// [`LIMIT`](pinhole_tests::frontend::LIMIT).
const MINUTE: usize = 60;
/// Data of one WRITE.
static PIECE: [u8; 64 << 10] = [7; 64 << 10];

/// Writes a policy file with limits.
fn policy(limits: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, format!("[limits]\n{limits}\n")).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// Starts a share under a policy with these limits.
fn limited(limits: &str) -> Bench {
    let (_folder, path) = policy(limits);
    Bench::with(Setup::default(), &["--policy", &path]).unwrap()
}

/// Calls `then` with `text` as a name in a message.
fn with_name<R>(text: &str, then: impl FnOnce(Name<'_>) -> R) -> R {
    let text = CString::new(text).unwrap();
    then(Name::parse(&text).unwrap())
}

/// Sends a request and returns the body of its reply, or its errno.
fn request(
    guest: &mut Frontend,
    node: NodeId,
    operation: &Operation<'_>,
    payload: &[u8],
) -> Result<Vec<u8>, Errno> {
    let reply = guest.request(1, node, operation, payload).unwrap();
    match reply.error().unwrap() {
        Some(errno) => Err(errno),
        None => Ok(reply.success().unwrap().to_vec()),
    }
}

/// Looks up a name and returns its node.
fn look_up(guest: &mut Frontend, parent: NodeId, name: &str) -> Result<NodeId, Errno> {
    let found = with_name(name, |name| {
        request(guest, parent, &Operation::Lookup(Lookup { name: name.into() }), &[])
    })?;
    Ok(NodeId(u64_at(&found, 0).unwrap()))
}

/// Opens a file and returns its file handle.
fn open(guest: &mut Frontend, node: NodeId, flags: u32) -> Result<Handle, Errno> {
    let open = Open { flags: OpenFlags::from_bits_retain(flags), kill_suidgid: false };
    let body = request(guest, node, &Operation::Open(open), &[])?;
    Ok(Handle(u64_at(&body, 0).unwrap()))
}

/// Opens a directory and returns its file handle.
fn open_dir(guest: &mut Frontend, node: NodeId) -> Result<Handle, Errno> {
    let body = request(guest, node, &Operation::OpenDir(OpenDir { flags: OpenFlags::empty() }), &[])?;
    Ok(Handle(u64_at(&body, 0).unwrap()))
}

/// Returns a RELEASE.
fn release(handle: Handle) -> Operation<'static> {
    let (flags, lock_owner) = (OpenFlags::empty(), LockOwner(0));
    Operation::Release(Release { handle, flags, flush: false, flock_unlock: false, lock_owner })
}

/// Returns a WRITE of `len` bytes. `flags` are the flags of the open.
fn write_of(handle: Handle, offset: u64, len: usize, flags: u32) -> Operation<'static> {
    let (write_flags, flags) = (WriteFlags::empty(), OpenFlags::from_bits_retain(flags));
    let size = u32::try_from(len).unwrap();
    Operation::Write(Write { handle, offset, size, write_flags, lock_owner: None, flags })
}

/// Writes and returns the number of written bytes.
fn write(
    guest: &mut Frontend,
    (node, handle): (NodeId, Handle),
    (offset, flags): (u64, u32),
    bytes: &[u8],
) -> Result<u64, Errno> {
    let written = request(guest, node, &write_of(handle, offset, bytes.len(), flags), bytes)?;
    Ok(u64_at(&written, 0).unwrap())
}

/// Creates an empty file on the host, and opens it as the guest.
fn create_and_open(bench: &mut Bench, name: &str) -> (NodeId, Handle) {
    fs::write(bench.host(name), "").unwrap();
    let node = look_up(&mut bench.guest, NodeId::ROOT, name).unwrap();
    (node, open(&mut bench.guest, node, O_RDWR).unwrap())
}

/// Sends a request without waiting for its reply.
fn submit(
    guest: &mut Frontend,
    queue: usize,
    node: NodeId,
    operation: &Operation<'_>,
    payload: &[u8],
) -> Sent {
    let message = guest.encode(node, operation, payload);
    let shape = guest.shape;
    let (queue, memory) = guest.queue(queue).unwrap();
    let sent = queue.submit(memory, &message, OUT_HEADER_LEN + 256, shape).unwrap();
    queue.kick().unwrap();
    sent
}

/// Checks that a queue answers GETATTR.
#[track_caller]
fn check_served(guest: &mut Frontend, queue: usize) {
    let get_attr = Operation::GetAttr(GetAttr { handle: None });
    let reply = guest.request(queue, NodeId::ROOT, &get_attr, &[]).unwrap();
    assert_eq!(reply.error().unwrap(), None);
}

#[test]
fn handles_past_the_limit_are_enfile_until_one_is_released() {
    let mut bench = limited("open-handles = 3");
    let first = create_and_open(&mut bench, "file");
    let second = open(&mut bench.guest, first.0, 0).unwrap();
    let directory = open_dir(&mut bench.guest, NodeId::ROOT).unwrap();
    assert_eq!(open(&mut bench.guest, first.0, 0).err(), Some(Errno::ENFILE));
    assert_eq!(open_dir(&mut bench.guest, NodeId::ROOT).err(), Some(Errno::ENFILE));
    let made = with_name("new", |name| {
        let open = Open { flags: OpenFlags::empty(), kill_suidgid: false };
        let create = Operation::Create(Create { name, open, mode: 0o644, umask: 0 });
        request(&mut bench.guest, NodeId::ROOT, &create, &[])
    });
    assert_eq!(made.err(), Some(Errno::ENFILE));
    assert!(!bench.host("new").exists(), "it was created nevertheless");
    check_served(&mut bench.guest, 2);
    request(&mut bench.guest, first.0, &release(second), &[]).unwrap();
    open_dir(&mut bench.guest, NodeId::ROOT).unwrap();
    let close = Operation::ReleaseDir(ReleaseDir { handle: directory });
    request(&mut bench.guest, NodeId::ROOT, &close, &[]).unwrap();
    open(&mut bench.guest, first.0, 0).unwrap();
}

#[test]
fn inodes_past_the_limit_are_enfile_until_one_is_forgotten() {
    let mut bench = limited("live-inodes = 2");
    for name in ["a", "b", "c"] {
        fs::write(bench.host(name), name).unwrap();
    }
    let first = look_up(&mut bench.guest, NodeId::ROOT, "a").unwrap();
    look_up(&mut bench.guest, NodeId::ROOT, "b").unwrap();
    assert_eq!(look_up(&mut bench.guest, NodeId::ROOT, "c").err(), Some(Errno::ENFILE));
    // A known node does not count again.
    assert_eq!(look_up(&mut bench.guest, NodeId::ROOT, "a"), Ok(first));
    let made = with_name("new", |name| {
        let make = Operation::MkDir(MkDir { name, mode: 0o755, umask: 0 });
        request(&mut bench.guest, NodeId::ROOT, &make, &[])
    });
    assert_eq!(made.err(), Some(Errno::ENFILE));
    assert!(!bench.host("new").exists(), "it was created nevertheless");
    let forget = bench.guest.encode(first, &Operation::Forget(Forget { count: 2 }), &[]);
    bench.guest.raw(0, &forget, 0).unwrap();
    look_up(&mut bench.guest, NodeId::ROOT, "c").unwrap();
}

#[test]
fn a_file_grows_to_its_limit_and_no_further() {
    let mut bench = limited("file-size = 8192");
    let file = create_and_open(&mut bench, "file");
    let guest = &mut bench.guest;
    assert_eq!(write(guest, file, (8190, 0), b"four"), Ok(2));
    assert_eq!(write(guest, file, (8192, 0), b"x"), Err(Errno::EFBIG));
    assert_eq!(write(guest, file, (u64::MAX >> 1, 0), b"x"), Err(Errno::EFBIG));
    assert_eq!(write(guest, file, (0, 0), b"within"), Ok(6));
    // An append at the end of the file.
    assert_eq!(write(guest, file, (0, O_APPEND), b"x"), Err(Errno::EFBIG));
    let resize = |size| {
        let none = SetAttr {
            handle: None,
            mode: None,
            uid: None,
            gid: None,
            size: Some(size),
            atime: None,
            mtime: None,
            ctime: None,
            lock_owner: None,
            kill_suidgid: false,
        };
        Operation::SetAttr(none)
    };
    assert_eq!(request(guest, file.0, &resize(8193), &[]).err(), Some(Errno::EFBIG));
    request(guest, file.0, &resize(8000), &[]).unwrap();
    assert_eq!(write(guest, file, (0, O_APPEND), &[1; 500]), Ok(192));
    let allocate =
        |offset, length, mode| Operation::Fallocate(Fallocate { handle: file.1, offset, length, mode });
    let plain = FallocateMode::empty();
    assert_eq!(request(guest, file.0, &allocate(8000, 193, plain), &[]).err(), Some(Errno::EFBIG));
    assert_eq!(request(guest, file.0, &allocate(u64::MAX, 2, plain), &[]).err(), Some(Errno::EFBIG));
    request(guest, file.0, &allocate(8000, 192, plain), &[]).unwrap();
    let copy = |to_offset, length| {
        Operation::CopyFileRange(CopyFileRange {
            from: file.1,
            from_offset: 0,
            to_node: file.0,
            to: file.1,
            to_offset,
            length,
            flags: 0,
            wide_reply: false,
        })
    };
    assert_eq!(request(guest, file.0, &copy(8192, 1), &[]).err(), Some(Errno::EFBIG));
    let copied = request(guest, file.0, &copy(8000, 4000), &[]).unwrap();
    assert_eq!(u64_at(&copied, 0).unwrap(), 192);
    assert_eq!(fs::metadata(bench.host("file")).unwrap().len(), 8192);
}

#[test]
fn a_listing_goes_on_with_the_next_request() {
    let mut bench = limited("listing-names = 3");
    let names: BTreeSet<String> = (0..20).map(|number| format!("name-{number}")).collect();
    for name in &names {
        fs::write(bench.host(name), "").unwrap();
    }
    let handle = open_dir(&mut bench.guest, NodeId::ROOT).unwrap();
    let (mut offset, mut seen, mut requests) = (0, BTreeSet::new(), 0);
    loop {
        let list = Operation::ReadDir(ReadDir { handle, offset, size: 4096 });
        let body = request(&mut bench.guest, NodeId::ROOT, &list, &[]).unwrap();
        let mut rest = &body[..];
        let mut count = 0;
        while let Some(len) = rest.get(16..20) {
            let len = usize::try_from(u32::from_le_bytes(len.try_into().unwrap())).unwrap();
            seen.insert(String::from_utf8(rest[24..24 + len].to_vec()).unwrap());
            offset = u64_at(rest, 8).unwrap();
            rest = &rest[(24 + len).next_multiple_of(8)..];
            count += 1;
        }
        assert!(count <= 3, "{count} names at once");
        requests += 1;
        if count == 0 {
            break;
        }
    }
    seen.retain(|name| name != "." && name != "..");
    assert_eq!(seen, names);
    assert!(requests >= 8, "{requests}");
}

/// Checks that at least one of the last `count` requests on a queue has no reply yet.
#[track_caller]
fn check_still_waiting(guest: &mut Frontend, queue: usize, count: usize) {
    let (queue, memory) = guest.queue(queue).unwrap();
    let mut given_back = 0;
    while queue.take_used(memory).unwrap().is_some() {
        given_back += 1;
    }
    assert!(given_back < count, "all {count} requests were answered: that queue was not slowed");
}

#[test]
fn fast_writer_is_slowed_alone() {
    let mut bench = limited("write-bytes-per-second = \"1 MiB\"");
    let (node, handle) = create_and_open(&mut bench, "file");
    let began = Instant::now();
    // The bytes of one second may come at once. Two more seconds of bytes take two seconds.
    for number in 0..49_u64 {
        let offset = number * PIECE.len() as u64;
        assert_eq!(write(&mut bench.guest, (node, handle), (offset, 0), &PIECE), Ok(PIECE.len() as u64));
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(took < Duration::from_mins(1), "{took:?}");

    let mut bench = limited("write-bytes-per-second = 1");
    let mut other = Bench::new().unwrap();
    let (node, handle) = create_and_open(&mut bench, "file");
    // At this limit the second WRITE waits for eighteen hours. So a request that is answered has
    // not waited for it.
    for _ in 0..2 {
        submit(&mut bench.guest, 1, node, &write_of(handle, 0, PIECE.len(), 0), &PIECE);
    }
    for _ in 0..20 {
        check_served(&mut bench.guest, 2);
        check_served(&mut other.guest, 1);
    }
    check_still_waiting(&mut bench.guest, 1, 2);
}

#[test]
fn guest_with_too_many_requests_is_slowed_alone() {
    let get_attr = Operation::GetAttr(GetAttr { handle: None });
    let mut bench = limited("operations-per-second = 50");
    let began = Instant::now();
    for _ in 0..150 {
        request(&mut bench.guest, NodeId::ROOT, &get_attr, &[]).unwrap();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(took < Duration::from_mins(1), "{took:?}");

    let mut bench = limited("operations-per-second = 1");
    let mut other = Bench::new().unwrap();
    for _ in 0..MINUTE {
        submit(&mut bench.guest, 1, NodeId::ROOT, &get_attr, &[]);
    }
    for _ in 0..20 {
        check_served(&mut other.guest, 1);
    }
    check_still_waiting(&mut bench.guest, 1, MINUTE);
}

#[test]
fn slowed_guest_forgets_without_waiting() {
    let mut bench = limited("operations-per-second = 1");
    fs::write(bench.host("file"), "").unwrap();
    let node = look_up(&mut bench.guest, NodeId::ROOT, "file").unwrap();
    let get_attr = Operation::GetAttr(GetAttr { handle: None });
    for _ in 0..MINUTE {
        submit(&mut bench.guest, 1, NodeId::ROOT, &get_attr, &[]);
    }
    let forget = bench.guest.encode(node, &Operation::Forget(Forget { count: 1 }), &[]);
    for (queue, message) in [(0, &forget), (2, &forget)] {
        bench.guest.raw(queue, message, 0).unwrap();
    }
    check_still_waiting(&mut bench.guest, 1, MINUTE);
}

#[test]
fn a_queue_that_is_slowed_stops_as_promptly_as_any() {
    let mut bench = limited("write-bytes-per-second = 1");
    let (node, handle) = create_and_open(&mut bench, "file");
    // At the limit this takes eighteen hours.
    let operation = write_of(handle, 0, PIECE.len(), 0);
    request(&mut bench.guest, node, &operation, &PIECE).unwrap();
    let sent = submit(&mut bench.guest, 1, node, &operation, &PIECE);
    std::thread::park_timeout(Duration::from_millis(50));
    check_served(&mut bench.guest, 2);
    let began = Instant::now();
    let base = bench.guest.stop_queue(1).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // The request stays in the ring, and the guest still has to wait as long as before.
    for _ in 0..2 {
        let (queue, memory) = bench.guest.queue(1).unwrap();
        assert_eq!((queue.next_used(), queue.take_used(memory).unwrap()), (base, None), "{sent:?}");
        bench.guest.resume_queue(1, base).unwrap();
        check_served(&mut bench.guest, 2);
        assert_eq!(bench.guest.stop_queue(1).unwrap(), base);
    }
}
