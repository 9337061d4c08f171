//! If a file system of the host does not respond, does that block only the requests that need it?
//!
//! The share contains a mount, which a second daemon (`pinhole mount`) serves. A test stops this
//! second daemon by SIGSTOP. Then each request that needs the mount waits until SIGCONT. Needs root
//! and /dev/fuse.

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::frame::opcode::{FSYNC, GETATTR, LOOKUP, OPEN_FILE, READ, RELEASE, WRITE};
use pinhole_tests::frontend::frame::{Frame, check, u64_at};
use pinhole_tests::frontend::{
    Bench, EVENT_IDX, Footprint, Frontend, INDIRECT, OUT_HEADER_LEN, Reply, Sent, Setup, Shape, eventually,
    wait_until_at_rest,
};
use pinhole_tests::linux::{ATTR_LEN, EBADF, ENTRY_LEN, O_RDWR, ROOT};
use pinhole_tests::program::{Program, pinhole};
use rustix::fs::{Advice, fadvise};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Write as _};
use std::num::NonZero;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PAGE: usize = 4096;
/// Long enough to notice a wait that ends too early.
const A_WHILE: Duration = Duration::from_millis(300);
/// Time limit for a change of the number of threads, or for all threads to stop. An idle pool
/// thread ends within this time.
const THREADS_LIMIT: Duration = Duration::from_secs(40);
/// Set-up with space for a thousand requests in each queue, if each takes one descriptor.
const WIDE: Setup = Setup { queues: 3, queue_size: 1024, features: INDIRECT | EVENT_IDX };
/// Layout of a request that takes one descriptor of the ring.
const NARROW_SHAPE: Shape = Shape { indirect: true, descriptor_len_max: 1 << 20 };

/// Returns `len` bytes of the content of a test file, from `offset` on. Every page is different.
fn content(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|at| u8::try_from((at / PAGE * 31 + at) % 251).unwrap()).collect()
}

/// Share with the file `fast` and the mount `slow`, whose file `cold` is not in the page cache.
struct Scene {
    guest: Option<Frontend>,
    /// Daemon under test.
    daemon: Serving,
    /// Second daemon, which serves the mount `slow`.
    server: Program,
    folder: TempDir,
    /// Node id and file handle of `cold`.
    cold: (u64, u64),
    /// Node id and file handle of `fast`.
    fast: (u64, u64),
}

/// Length of the file `cold` in bytes.
const COLD_LEN: usize = 16 << 20;

fn message(frame: Frame, unique: u64) -> Vec<u8> {
    frame.unique(unique).message()
}

fn read((node, handle): (u64, u64), offset: usize, size: usize) -> Frame {
    let size = u32::try_from(size).unwrap();
    let frame = Frame::new(READ, node).u64(handle).u64(offset as u64);
    frame.u32(size).u32(0).u64(0).u32(0).u32(0)
}

fn getattr() -> Frame {
    Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0)
}

fn body(guest: &mut Frontend, frame: Frame, len: usize) -> Vec<u8> {
    let reply = guest.raw(1, &frame.message(), OUT_HEADER_LEN + len).unwrap();
    reply.success().unwrap().to_vec()
}

fn look_up(guest: &mut Frontend, parent: u64, name: &str) -> u64 {
    u64_at(&body(guest, Frame::new(LOOKUP, parent).name(name), ENTRY_LEN), 0).unwrap()
}

fn open(guest: &mut Frontend, parent: u64, name: &str) -> (u64, u64) {
    let node = look_up(guest, parent, name);
    (node, u64_at(&body(guest, Frame::new(OPEN_FILE, node).u32(O_RDWR).u32(0), 16), 0).unwrap())
}

impl Scene {
    fn new(setup: Setup, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("pinhole-waiting-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["behind", "share", "share/slow"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("behind/cold"), content(0, COLD_LEN)).unwrap();
        fs::write(path("share/fast"), content(0, PAGE)).unwrap();
        let mut mount = pinhole(["mount"]).unwrap();
        let mut server = Program::start(mount.arg(path("behind")).arg(path("share/slow"))).unwrap();
        server.wait_for("Mounted ").unwrap();
        let mut daemon = Daemon::pinhole(path("share")).unwrap().confined_to(folder.path());
        for argument in arguments {
            daemon = daemon.argument(*argument);
        }
        let daemon = daemon.start().unwrap();
        let mut scene = Self { guest: None, daemon, server, folder, cold: (0, 0), fast: (0, 0) };
        scene.connect_guest(setup);
        scene
    }

    /// Connects a new guest and opens both files.
    fn connect_guest(&mut self, setup: Setup) {
        let mut guest = Frontend::connect_with(self.daemon.socket(), setup).unwrap();
        guest.init().unwrap();
        let slow = look_up(&mut guest, ROOT, "slow");
        (self.cold, self.fast) = (open(&mut guest, slow, "cold"), open(&mut guest, ROOT, "fast"));
        // Bring the file into the page cache of the host.
        body(&mut guest, read(self.fast, 0, PAGE), PAGE);
        self.guest = Some(guest);
    }

    fn guest(&mut self) -> &mut Frontend {
        self.guest.as_mut().expect("a guest is connected")
    }

    fn signal_server(&self, signal: Signal) {
        let id = i32::try_from(self.server.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Stops the server of the mount, so that every later request to the mount waits. Each thread
    /// handles the signal later than `kill` returns, so this function waits for all threads.
    fn stop_server(&self) {
        self.signal_server(Signal::STOP);
        let threads = format!("/proc/{}/task", self.server.id());
        let stopped = |thread: fs::DirEntry| {
            // A thread without this file has ended.
            let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { return true };
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        let began = Instant::now();
        while !fs::read_dir(&threads).unwrap().all(|thread| stopped(thread.unwrap())) {
            assert!(began.elapsed() < THREADS_LIMIT, "the mount does not stop");
            std::thread::yield_now();
        }
    }

    /// Lets the server of the mount continue.
    fn continue_server(&self) {
        self.signal_server(Signal::CONT);
    }

    fn submit(&mut self, queue: usize, message: &[u8], room: usize) -> Sent {
        let (queue, memory) = self.guest().queue(queue).unwrap();
        queue.submit(memory, message, OUT_HEADER_LEN + room, NARROW_SHAPE).unwrap()
    }

    fn kick(&mut self, queue: usize) {
        self.guest().queue(queue).unwrap().0.kick().unwrap();
    }

    /// Sends READs of single pages of `cold` that do not touch each other. Returns the requests
    /// with their expected data.
    fn submit_reads(&mut self, queue: usize, numbers: std::ops::Range<usize>) -> WaitingReads {
        let cold = self.cold;
        let sent = numbers.map(|number| {
            let offset = number * 3 * PAGE % COLD_LEN;
            let message = message(read(cold, offset, PAGE), number as u64);
            let sent = self.submit(queue, &message, PAGE);
            (u32::from(sent.head), (sent, number as u64, content(offset, PAGE)))
        });
        let hanging = WaitingReads(sent.collect());
        self.kick(queue);
        hanging
    }

    /// Waits for the next reply on a queue, which must be the reply to `sent`.
    fn wait_for(&mut self, queue: usize, sent: &Sent, unique: u64) -> Reply {
        let (queue, memory) = self.guest().queue(queue).unwrap();
        let used = queue.wait(memory).unwrap();
        assert_eq!(used.head, u32::from(sent.head), "another request was answered first");
        let reply = queue.take_reply(memory, sent, used.len).unwrap();
        check(&reply, unique).unwrap();
        reply
    }

    /// Sends a request that does not need the mount, and returns the body of its reply. The reply
    /// must be the next one on that queue.
    fn request_now(&mut self, queue: usize, frame: Frame, room: usize) -> Vec<u8> {
        let sent = self.submit(queue, &message(frame, 1 << 40), room);
        self.kick(queue);
        self.wait_for(queue, &sent, 1 << 40).success().unwrap().to_vec()
    }

    /// Returns whether no further reply is in the queue.
    fn has_no_reply(&mut self, queue: usize) -> bool {
        let (queue, memory) = self.guest().queue(queue).unwrap();
        queue.take_used(memory).unwrap().is_none()
    }

    /// Waits until all requests that do not need the stopped mount are done.
    fn settle(&self) {
        wait_until_at_rest(self.daemon.serving_id());
    }

    fn footprint(&self) -> Footprint {
        Footprint::of(self.daemon.serving_id()).unwrap()
    }

    fn wait_for_threads(&self, count: usize) {
        let began = Instant::now();
        while self.footprint().threads != count {
            assert!(began.elapsed() < THREADS_LIMIT, "{:?}, not {count} threads", self.footprint());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // If the server stayed stopped, the mount and the processes that wait for it would remain.
        self.continue_server();
        if let Err(error) =
            rustix::mount::unmount(self.folder.path().join("share/slow"), UnmountFlags::DETACH)
        {
            println!("the slow mount is left mounted: {error}");
        }
    }
}

/// READs in progress, by their first descriptor: each request with its `unique` and the expected
/// data.
struct WaitingReads(HashMap<u32, (Sent, u64, Vec<u8>)>);

impl WaitingReads {
    /// Waits for the replies to all READs, in any order, and checks their data.
    fn finish(mut self, scene: &mut Scene, queue: usize) {
        let (queue, memory) = scene.guest().queue(queue).unwrap();
        while !self.0.is_empty() {
            let used = queue.wait(memory).unwrap();
            let (sent, unique, expected) = self.0.remove(&used.head).expect("answered once");
            let reply = queue.take_reply(memory, &sent, used.len).unwrap();
            check(&reply, unique).unwrap();
            assert!(reply.success().unwrap() == expected, "READ {unique}");
        }
        assert!(queue.take_used(memory).unwrap().is_none());
    }
}

#[test]
fn hanging_reads_and_fsync_do_not_block_later_requests() {
    let mut scene = Scene::new(WIDE, &[]);
    scene.stop_server();
    let hanging = scene.submit_reads(1, 0..32);
    let (node, handle) = scene.cold;
    let fsync = message(Frame::new(FSYNC, node).u64(handle).u32(0).u32(0), 99);
    let fsync = scene.submit(1, &fsync, 0);
    scene.kick(1);
    for _ in 0..20 {
        assert_eq!(scene.request_now(1, getattr(), ATTR_LEN).len(), ATTR_LEN);
        let fast = read(scene.fast, 0, PAGE);
        assert!(scene.request_now(1, fast, PAGE) == content(0, PAGE));
        let lookup = Frame::new(LOOKUP, ROOT).name("fast");
        assert_eq!(scene.request_now(1, lookup, ENTRY_LEN).len(), ENTRY_LEN);
    }
    scene.settle();
    assert!(scene.has_no_reply(1), "a request that needs the mount was answered");
    scene.continue_server();
    let mut all = hanging;
    all.0.insert(u32::from(fsync.head), (fsync, 99, Vec::new()));
    all.finish(&mut scene, 1);
    scene.request_now(1, getattr(), ATTR_LEN);
}

#[test]
fn hanging_write_does_not_block_later_requests() {
    let mut scene = Scene::new(Setup::default(), &[]);
    scene.stop_server();
    let (node, handle) = scene.cold;
    let write =
        Frame::new(WRITE, node).u64(handle).u64(0).u32(5).u32(0).u64(0).u32(O_RDWR).u32(0).bytes(b"bytes");
    let written = scene.submit(1, &message(write, 7), 8);
    scene.kick(1);
    for _ in 0..10 {
        assert_eq!(scene.request_now(1, getattr(), ATTR_LEN).len(), ATTR_LEN);
    }
    assert!(scene.has_no_reply(1));
    scene.continue_server();
    scene.wait_for(1, &written, 7).success().unwrap();
    assert!(fs::read(scene.folder.path().join("behind/cold")).unwrap().starts_with(b"bytes"));
}

#[test]
fn full_backlog_stops_the_queue_without_using_more_memory() {
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "2"]);
    scene.stop_server();
    let hanging = scene.submit_reads(1, 0..500);
    scene.settle();
    let full = scene.footprint();
    let more = scene.submit_reads(1, 500..900);
    let behind = message(getattr(), 7);
    let behind = scene.submit(1, &behind, ATTR_LEN);
    scene.kick(1);
    scene.request_now(2, getattr(), ATTR_LEN);
    scene.settle();
    assert!(scene.has_no_reply(1), "the daemon took a request beyond the full backlog");
    let after = scene.footprint();
    assert!(after.anonymous_kib <= full.anonymous_kib + 64, "{full:?} became {after:?}");
    assert_eq!((after.threads, after.descriptors), (full.threads, full.descriptors));
    scene.continue_server();
    let mut all = hanging;
    all.0.extend(more.0);
    let getattr_head = u32::from(behind.head);
    let (queue, memory) = scene.guest().queue(1).unwrap();
    let mut answered = false;
    while !all.0.is_empty() || !answered {
        let used = queue.wait(memory).unwrap();
        if used.head == getattr_head {
            check(&queue.take_reply(memory, &behind, used.len).unwrap(), 7).unwrap();
            answered = true;
            continue;
        }
        let (sent, unique, expected) = all.0.remove(&used.head).expect("answered once");
        let reply = queue.take_reply(memory, &sent, used.len).unwrap();
        check(&reply, unique).unwrap();
        assert!(reply.success().unwrap() == expected, "READ {unique}");
    }
}

#[test]
fn policy_limits_how_many_requests_may_wait() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "[limits]\nqueued-requests = 5\n").unwrap();
    let policy = policy.to_str().unwrap();
    let mut scene = Scene::new(WIDE, &["--policy", policy, "--thread-pool-size", "2"]);
    scene.stop_server();
    let mut hanging = scene.submit_reads(1, 0..5);
    // The daemon answers a request after five waiting ones.
    scene.request_now(1, getattr(), ATTR_LEN);
    // It does not answer a request after six waiting ones, but it serves another queue.
    let sixth = scene.submit_reads(1, 5..6);
    hanging.0.extend(sixth.0);
    let behind = scene.submit(1, &message(getattr(), 7), ATTR_LEN);
    scene.kick(1);
    scene.request_now(2, getattr(), ATTR_LEN);
    scene.settle();
    assert!(scene.has_no_reply(1), "the daemon took a request beyond the limit");
    scene.continue_server();
    let (queue, memory) = scene.guest().queue(1).unwrap();
    for _ in 0..7 {
        let used = queue.wait(memory).unwrap();
        let known = hanging.0.remove(&used.head);
        let (sent, unique) = known.map_or((behind, 7), |(sent, unique, _)| (sent, unique));
        check(&queue.take_reply(memory, &sent, used.len).unwrap(), unique).unwrap();
    }
    assert!(hanging.0.is_empty());
}

#[test]
fn queued_requests_limit_without_a_pool_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "[limits]\nqueued-requests = 5\n").unwrap();
    let arguments = ["--policy", policy.to_str().unwrap()];
    for (pool, said) in [("0", true), ("2", false)] {
        let scene = Scene::new(WIDE, &[&arguments[..], &["--thread-pool-size", pool]].concat());
        assert_eq!(
            scene.daemon.stderr().contains("queued-requests has no effect"),
            said,
            "{}",
            scene.daemon.stderr()
        );
    }
}

#[test]
fn without_a_pool_a_waiting_read_blocks_only_its_queue() {
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "0"]);
    scene.stop_server();
    let hanging = scene.submit_reads(1, 0..4);
    scene.request_now(2, getattr(), ATTR_LEN);
    scene.settle();
    assert!(scene.has_no_reply(1));
    scene.continue_server();
    hanging.finish(&mut scene, 1);
}

/// Calls `wait` while requests of queue 1 wait for the mount. Checks that `wait` returns only after
/// the daemon has answered these requests.
fn check_that_wait_covers_requests(wait: impl FnOnce(&Frontend) + Send) {
    // Stopping a queue does not wait for requests that no thread has begun. So the pool has a
    // thread for each request.
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "12"]);
    scene.stop_server();
    let hanging = scene.submit_reads(1, 0..12);
    // The queue thread takes requests in order. Once it has answered this one, all READs are in the
    // pool.
    scene.request_now(1, getattr(), ATTR_LEN);
    scene.settle();
    let (done, ended) = channel();
    std::thread::scope(|scope| {
        let guest = scene.guest.as_ref().unwrap();
        scope.spawn(move || {
            wait(guest);
            done.send(()).unwrap();
        });
        assert!(ended.recv_timeout(A_WHILE).is_err(), "the call did not wait for the hanging requests");
        scene.continue_server();
        ended.recv().unwrap();
    });
    let (queue, memory) = scene.guest().queue(1).unwrap();
    let mut all = hanging.0;
    while let Some(used) = queue.take_used(memory).unwrap() {
        let (sent, unique, expected) = all.remove(&used.head).expect("answered once");
        let reply = queue.take_reply(memory, &sent, used.len).unwrap();
        check(&reply, unique).unwrap();
        assert!(reply.success().unwrap() == expected, "READ {unique}");
    }
    assert!(all.is_empty(), "{} requests were not answered before the call returned", all.len());
}

#[test]
fn queue_stops_after_its_requests_in_the_pool() {
    check_that_wait_covers_requests(|guest| {
        assert!(guest.stop_queue(1).unwrap() >= 12);
    });
}

#[test]
fn memory_is_replaced_after_the_requests_in_the_pool() {
    check_that_wait_covers_requests(|guest| guest.share_memory().unwrap());
}

#[test]
fn death_of_a_vmm_with_hanging_requests_leaks_nothing() {
    let mut scene = Scene::new(WIDE, &["--keep-listening"]);
    let mut first = None;
    for round in 0..3 {
        scene.stop_server();
        scene.submit_reads(1, round * 1000..round * 1000 + 300);
        scene.submit_reads(2, round * 1000 + 300..round * 1000 + 500);
        scene.request_now(0, getattr(), ATTR_LEN);
        scene.guest = None;
        scene.settle();
        // The daemon still runs. It serves another guest once the requests of the dead VMM's guest
        // have ended.
        assert!(scene.daemon.wait_at_most(Duration::ZERO).unwrap().is_none(), "{}", scene.daemon.stderr());
        scene.continue_server();
        scene.connect_guest(WIDE);
        scene.request_now(1, getattr(), ATTR_LEN);
        // The round leaves no thread and no descriptor behind.
        let before = *first.get_or_insert_with(|| scene.footprint());
        eventually(&format!("threads and descriptors of round {round} are gone"), || {
            let now = scene.footprint();
            now.threads <= before.threads && now.descriptors <= before.descriptors
        });
    }
    assert!(!scene.daemon.stderr().contains("panic"), "{}", scene.daemon.stderr());
}

#[test]
fn a_handle_may_be_released_while_its_read_waits() {
    let mut scene = Scene::new(WIDE, &[]);
    scene.stop_server();
    let mut hanging = scene.submit_reads(1, 0..6).0;
    scene.settle();
    let (node, handle) = scene.cold;
    let release = Frame::new(RELEASE, node).u64(handle).u32(O_RDWR).u32(0).u64(0);
    assert!(scene.request_now(1, release, 0).is_empty());
    scene.continue_server();
    let (queue, memory) = scene.guest().queue(1).unwrap();
    while !hanging.is_empty() {
        let used = queue.wait(memory).unwrap();
        let (sent, unique, expected) = hanging.remove(&used.head).expect("answered once");
        let reply = queue.take_reply(memory, &sent, used.len).unwrap();
        check(&reply, unique).unwrap();
        // A READ that no thread had begun before the RELEASE finds no file handle.
        match reply.error().unwrap() {
            None => assert!(reply.success().unwrap() == expected, "READ {unique}"),
            Some(errno) => assert_eq!(errno.raw(), EBADF, "READ {unique}"),
        }
    }
    let late = read((node, handle), 0, PAGE);
    let reply = scene.guest().raw(1, &late.message(), OUT_HEADER_LEN + PAGE).unwrap();
    assert_eq!(reply.error().unwrap().map(pinhole_protocol::Errno::raw), Some(EBADF));
}

/// Leaves only every other piece of `file` in the host's page cache. `len` is the length of the
/// file and `piece` the length of a piece, both in bytes. Returns whether at least one piece is not
/// in the page cache, or `None` if the host's file system cannot tell.
fn cache_every_other_piece(file: &File, len: usize, piece: usize) -> Option<bool> {
    file.sync_all().unwrap();
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
    let mut warm = vec![0; piece];
    let mut cold = None;
    for (number, offset) in (0..len).step_by(piece).enumerate() {
        if number % 2 == 0 {
            fadvise(file, 0, None, Advice::Random).unwrap();
            assert_eq!(rustix::io::pread(file, warm.as_mut_slice(), offset as u64).unwrap(), piece);
        }
    }
    for (number, offset) in (0..len).step_by(piece).enumerate() {
        let now = rustix::io::preadv2(
            file,
            &mut [IoSliceMut::new(&mut warm)],
            offset as u64,
            rustix::io::ReadWriteFlags::NOWAIT,
        );
        match now {
            Err(rustix::io::Errno::OPNOTSUPP) => return None,
            Ok(got) if got == piece => {}
            Ok(_) | Err(_) => cold = Some(cold.unwrap_or(0) + 1),
        }
        assert!(number < len / piece);
    }
    Some(cold.is_some_and(|count| count > 0))
}

#[test]
fn half_cached_range_is_read_whole() {
    const LEN: usize = 1 << 20;
    let mut bench = Bench::new().unwrap();
    let bytes: Vec<u8> = (0..LEN).map(|at| u8::try_from((at / 64 + at) % 251).unwrap()).collect();
    let mut file = File::create_new(bench.host("half")).unwrap();
    file.write_all(&bytes).unwrap();
    let file = File::open(bench.host("half")).unwrap();
    let (node, handle) = open(&mut bench.guest, ROOT, "half");
    let mut seen_cold = false;
    for piece in [PAGE, 16 * PAGE, LEN / 2] {
        for (offset, size) in [(0, LEN), (3, LEN), (LEN / 4 + 1, LEN / 2), (LEN - 5, 100), (LEN, 100)] {
            let cold = cache_every_other_piece(&file, LEN, piece);
            seen_cold |= cold.unwrap_or(true);
            let frame = read((node, handle), offset, size);
            let got = bench.body(frame, size).unwrap();
            let end = (offset + size).min(LEN);
            assert!(got == bytes[offset..end], "{size} bytes at {offset}, every other {piece} bytes cold");
        }
    }
    assert!(seen_cold, "no page was cold: put TMPDIR on a disk");
}

#[test]
fn a_thousand_fsyncs_are_each_answered_once() {
    let mut scene = Scene::new(WIDE, &[]);
    let (node, handle) = scene.fast;
    let threads = NonZero::new(scene.footprint().threads).unwrap();
    for round in 0..4u64 {
        let sent: HashMap<u32, (Sent, u64)> = (0..250u64)
            .map(|number| {
                let unique = round * 1000 + number;
                let frame = Frame::new(FSYNC, node).u64(handle).u32(0).u32(0);
                let sent = scene.submit(1, &message(frame, unique), 0);
                (u32::from(sent.head), (sent, unique))
            })
            .collect();
        scene.kick(1);
        let (queue, memory) = scene.guest().queue(1).unwrap();
        let mut sent = sent;
        while !sent.is_empty() {
            let used = queue.wait(memory).unwrap();
            let (sent, unique) = sent.remove(&used.head).expect("answered once");
            let reply = queue.take_reply(memory, &sent, used.len).unwrap();
            check(&reply, unique).unwrap();
            assert!(reply.error().unwrap().is_none());
        }
    }
    assert!(scene.footprint().threads <= threads.get() + 8, "more pool threads than the option allows");
}

#[test]
fn pool_threads_start_with_waiting_requests_and_end_after() {
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "4"]);
    scene.request_now(2, getattr(), ATTR_LEN);
    let before = scene.footprint().threads;
    scene.stop_server();
    let hanging = scene.submit_reads(1, 0..20);
    scene.request_now(1, getattr(), ATTR_LEN);
    scene.wait_for_threads(before + 4);
    scene.settle();
    assert_eq!(scene.footprint().threads, before + 4, "more pool threads than the option allows");
    scene.continue_server();
    hanging.finish(&mut scene, 1);
    scene.wait_for_threads(before);
}
