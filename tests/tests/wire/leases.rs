//! Does a lease (`F_SETLEASE`) of a host process delay only the requests that conflict with it, and
//! only until it ends?

use pinhole_tests::daemon::Serving;
use pinhole_tests::frontend::client::{Client, PendingRequest, SharedFolder};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{CREATE, FSYNC, OPEN_FILE, SETATTR, SETLKW};
use pinhole_tests::frontend::locks::{Lock, READ, WRITE};
use pinhole_tests::frontend::{EVENT_IDX, INDIRECT, Setup};
use pinhole_tests::lease::{LeaseKind, Leases};
use pinhole_tests::linux::{EAGAIN, ENTRY_LEN, ESTALE, FATTR_SIZE, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, ROOT};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Set-up with space for a thousand requests in each queue.
const WIDE: Setup = Setup { queues: 2, queue_size: 1024, features: INDIRECT | EVENT_IDX };
/// Time in which the daemon answers every request that waits for nothing.
const A_WHILE: Duration = Duration::from_millis(300);
/// Time limit for stopping a queue. If the stop waited for the lease, it would take 45 seconds,
/// because the host breaks the lease after that time.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Share, its daemon and a guest.
struct LeaseScene {
    guest: Client,
    daemon: Serving,
    share: SharedFolder,
}

impl LeaseScene {
    fn new(files: &[&str]) -> Self {
        let share = SharedFolder::new().unwrap();
        for file in files {
            fs::write(share.host(file), "content").unwrap();
        }
        let daemon = share.serve(&[]).unwrap();
        let guest = Client::connect(daemon.socket(), WIDE).unwrap().0;
        Self { guest, daemon, share }
    }

    /// Takes a lease on each of the files, as a host process.
    fn take_lease(&self, kind: LeaseKind, files: &[&str]) -> Leases {
        let files: Vec<PathBuf> = files.iter().map(|file| self.share.host(file)).collect();
        Leases::take(kind, files.iter().map(PathBuf::as_path)).unwrap()
    }

    /// Sends a request. Checks that the daemon does not answer it but answers later requests of the
    /// same queue.
    fn waits(&mut self, frame: Frame, room: usize) -> PendingRequest {
        let asked = self.guest.submit(frame, room).unwrap();
        for _ in 0..20 {
            self.guest.is_alive().unwrap();
        }
        std::thread::park_timeout(A_WHILE);
        self.guest.is_alive().unwrap();
        assert!(!self.guest.is_answered(asked).unwrap(), "answered although there is a lease");
        asked
    }
}

fn open(node: u64, flags: u32) -> Frame {
    Frame::new(OPEN_FILE, node).u32(flags).u32(0)
}

fn create(name: &str, flags: u32) -> Frame {
    Frame::new(CREATE, ROOT).u32(flags | O_CREAT).u32(0o644).u32(0).u32(0).name(name)
}

/// Returns a SETATTR that changes only the size.
fn truncate(node: u64, size: u64) -> Frame {
    let frame = Frame::new(SETATTR, node).u32(FATTR_SIZE).u32(0).u64(0).u64(size);
    // The rest of `fuse_setattr_in`: lock owner, three times, three parts of nanoseconds, mode,
    // ids.
    frame.u64(0).u64(0).u64(0).u64(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0)
}

#[test]
fn open_of_a_leased_file_waits_without_blocking_others() {
    let mut scene = LeaseScene::new(&["file"]);
    let node = scene.guest.look_up("file").unwrap();
    let lease = scene.take_lease(LeaseKind::Write, &["file"]);
    let asked = scene.waits(open(node, O_RDONLY), 16);
    lease.give_up().unwrap();
    assert_eq!(scene.guest.outcome(asked).unwrap(), 0);
}

#[test]
fn truncating_open_waits_for_a_lease_and_truncates_then() {
    let mut scene = LeaseScene::new(&["file"]);
    let node = scene.guest.look_up("file").unwrap();
    let lease = scene.take_lease(LeaseKind::Read, &["file"]);
    let asked = scene.waits(open(node, O_RDWR | O_TRUNC), 16);
    assert_eq!(fs::read(scene.share.host("file")).unwrap(), b"content");
    lease.give_up().unwrap();
    assert_eq!(scene.guest.outcome(asked).unwrap(), 0);
    assert_eq!(fs::read(scene.share.host("file")).unwrap(), b"");
}

#[test]
fn create_of_an_existing_leased_file_waits() {
    let mut scene = LeaseScene::new(&["file"]);
    let lease = scene.take_lease(LeaseKind::Read, &["file"]);
    let asked = scene.waits(create("file", O_RDWR | O_TRUNC), ENTRY_LEN + 16);
    lease.give_up().unwrap();
    let body = scene.guest.answer(asked).unwrap().success().unwrap().to_vec();
    assert_eq!(body.len(), ENTRY_LEN + 16);
    assert_eq!(fs::read(scene.share.host("file")).unwrap(), b"");
}

#[test]
fn truncation_of_a_leased_file_waits() {
    let mut scene = LeaseScene::new(&["file"]);
    let node = scene.guest.look_up("file").unwrap();
    let lease = scene.take_lease(LeaseKind::Read, &["file"]);
    let asked = scene.waits(truncate(node, 3), 104);
    lease.give_up().unwrap();
    assert_eq!(scene.guest.outcome(asked).unwrap(), 0);
    assert_eq!(fs::read(scene.share.host("file")).unwrap(), b"con");
}

#[test]
fn lock_that_needs_another_description_waits_for_a_lease() {
    // The name ends with `-shm`, as that of an SQLite index. For such a file, the daemon locks the
    // whole file on the host, and needs a writable open file description for that. The open of this
    // description conflicts with the lease.
    let mut scene = LeaseScene::new(&["db-shm"]);
    let opened = scene.guest.open("db-shm", O_RDONLY).unwrap();
    let lease = scene.take_lease(LeaseKind::Read, &["db-shm"]);
    let lock = Lock::posix(READ, 7, 0, 9);
    assert_eq!(scene.guest.set(opened, lock).unwrap(), EAGAIN, "a non-blocking lock must fail");
    let asked = scene.waits(lock.frame(SETLKW, opened), 0);
    lease.give_up().unwrap();
    assert_eq!(scene.guest.outcome(asked).unwrap(), 0);
    let other = scene.guest.get(opened, Lock::posix(WRITE, 8, 0, 9)).unwrap();
    assert_eq!(other.map(|other| other.kind), Some(READ));
}

#[test]
fn many_waits_for_leases_block_neither_queue_nor_pool() {
    // `LEASED_REQUESTS_MAX` of the daemon. Further requests get EAGAIN, as from a non-blocking
    // open(2).
    const WAIT: usize = 64;
    const FILES: usize = 80;
    let names: Vec<String> = (0..FILES).map(|number| format!("file-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut scene = LeaseScene::new(&names);
    let nodes: Vec<u64> = names.iter().map(|name| scene.guest.look_up(name).unwrap()).collect();
    let free = scene.guest.open(names[FILES - 1], O_RDWR).unwrap();
    let lease = scene.take_lease(LeaseKind::Write, &names[..FILES - 1]);
    let asked: Vec<PendingRequest> =
        nodes[..FILES - 1].iter().map(|node| scene.guest.submit(open(*node, O_RDWR), 16).unwrap()).collect();
    scene.guest.is_alive().unwrap();
    let fsync = Frame::new(FSYNC, free.0).u64(free.1).u32(0).u32(0);
    assert_eq!(scene.guest.errno(fsync, 0).unwrap(), 0);
    std::thread::park_timeout(A_WHILE);
    for asked in &asked[..WAIT] {
        assert!(!scene.guest.is_answered(*asked).unwrap());
    }
    for asked in &asked[WAIT..] {
        assert_eq!(scene.guest.outcome(*asked).unwrap(), EAGAIN);
    }
    lease.give_up().unwrap();
    for asked in &asked[..WAIT] {
        assert_eq!(scene.guest.outcome(*asked).unwrap(), 0);
    }
}

#[test]
fn stopping_a_queue_does_not_wait_for_a_lease() {
    let mut scene = LeaseScene::new(&["file"]);
    let node = scene.guest.look_up("file").unwrap();
    let _lease = scene.take_lease(LeaseKind::Write, &["file"]);
    let asked = scene.waits(open(node, O_RDONLY), 16);
    let began = Instant::now();
    scene.guest.guest.stop_queue(1).unwrap();
    assert!(began.elapsed() < STOPPED_WITHIN, "{:?}", began.elapsed());
    // After ESTALE, Linux looks the path up again and sends another OPEN. The daemon answers it
    // once the queue runs again.
    assert_eq!(scene.guest.outcome(asked).unwrap(), ESTALE);
    assert!(scene.daemon.wait_at_most(Duration::ZERO).unwrap().is_none(), "{}", scene.daemon.stderr());
}
