//! Does a host that does not reply block only the requests that need it?
//!
//! The share contains a mount that a second `pinhole` serves. That daemon is stopped, and every
//! request that needs it waits until it continues. Needs root and /dev/fuse.

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
/// Longer than a pool thread waits for work before it ends.
const THREADS_LIMIT: Duration = Duration::from_secs(40);
/// Set-up with enough descriptors for a thousand requests, each behind one of them.
const WIDE: Setup = Setup { queues: 3, queue_size: 1024, features: INDIRECT | EVENT_IDX };
const NARROW_SHAPE: Shape = Shape { indirect: true, descriptor_len_max: 1 << 20 };

/// Returns the content of the slow file at `offset`. Every page is different.
fn content(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|at| u8::try_from((at / PAGE * 31 + at) % 251).unwrap()).collect()
}

/// Share with the file `fast` and the mount `slow`, whose file `cold` is not in the page cache.
struct Scene {
    guest: Option<Frontend>,
    daemon: Serving,
    server: Program,
    folder: TempDir,
    cold: (u64, u64),
    fast: (u64, u64),
}

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
        scene.visit(setup);
        scene
    }

    /// Connects a new guest and opens both files.
    fn visit(&mut self, setup: Setup) {
        let mut guest = Frontend::connect_with(self.daemon.socket(), setup).unwrap();
        guest.init().unwrap();
        let slow = look_up(&mut guest, ROOT, "slow");
        (self.cold, self.fast) = (open(&mut guest, slow, "cold"), open(&mut guest, ROOT, "fast"));
        // From here on the file is in memory.
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

    /// Stops the server of the mount: every later request to the mount waits. The signal alone only
    /// asks its threads to stop.
    fn stall(&self) {
        self.signal_server(Signal::STOP);
        let threads = format!("/proc/{}/task", self.server.id());
        let stopped = |thread: fs::DirEntry| {
            // A thread that has ended gives no replies either.
            let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { return true };
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        let began = Instant::now();
        while !fs::read_dir(&threads).unwrap().all(|thread| stopped(thread.unwrap())) {
            assert!(began.elapsed() < THREADS_LIMIT, "the mount does not stop");
            std::thread::yield_now();
        }
    }

    fn go_on(&self) {
        self.signal_server(Signal::CONT);
    }

    fn submit(&mut self, queue: usize, message: &[u8], room: usize) -> Sent {
        let (queue, memory) = self.guest().queue(queue).unwrap();
        queue.submit(memory, message, OUT_HEADER_LEN + room, NARROW_SHAPE).unwrap()
    }

    fn kick(&mut self, queue: usize) {
        self.guest().queue(queue).unwrap().0.kick().unwrap();
    }

    /// Offers READs of pages that are far apart. Each reply must be `content`.
    fn submit_reads(&mut self, queue: usize, numbers: std::ops::Range<usize>) -> Hanging {
        let cold = self.cold;
        let sent = numbers.map(|number| {
            let offset = number * 3 * PAGE % COLD_LEN;
            let message = message(read(cold, offset, PAGE), number as u64);
            let sent = self.submit(queue, &message, PAGE);
            (u32::from(sent.head), (sent, number as u64, content(offset, PAGE)))
        });
        let hanging = Hanging(sent.collect());
        self.kick(queue);
        hanging
    }

    /// Waits for the next reply on a queue, which must be that of `sent`.
    fn wait_for(&mut self, queue: usize, sent: &Sent, unique: u64) -> Reply {
        let (queue, memory) = self.guest().queue(queue).unwrap();
        let used = queue.wait(memory).unwrap();
        assert_eq!(used.head, u32::from(sent.head), "answered out of turn");
        let reply = queue.take_reply(memory, sent, used.len).unwrap();
        check(&reply, unique).unwrap();
        reply
    }

    /// Sends a request that does not wait. Its reply must be the next one on that queue.
    fn ask_at_once(&mut self, queue: usize, frame: Frame, room: usize) -> Vec<u8> {
        let sent = self.submit(queue, &message(frame, 1 << 40), room);
        self.kick(queue);
        self.wait_for(queue, &sent, 1 << 40).success().unwrap().to_vec()
    }

    fn is_silent(&mut self, queue: usize) -> bool {
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
        // A stopped server would leave the mount and its waiting processes behind.
        self.go_on();
        if let Err(error) =
            rustix::mount::unmount(self.folder.path().join("share/slow"), UnmountFlags::DETACH)
        {
            println!("the slow mount stays behind: {error}");
        }
    }
}

/// READs without a reply, by their first descriptor.
struct Hanging(HashMap<u32, (Sent, u64, Vec<u8>)>);

impl Hanging {
    /// Waits for all of them, in any order.
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
    scene.stall();
    let hanging = scene.submit_reads(1, 0..32);
    let (node, handle) = scene.cold;
    let fsync = message(Frame::new(FSYNC, node).u64(handle).u32(0).u32(0), 99);
    let fsync = scene.submit(1, &fsync, 0);
    scene.kick(1);
    for _ in 0..20 {
        assert_eq!(scene.ask_at_once(1, getattr(), ATTR_LEN).len(), ATTR_LEN);
        let fast = read(scene.fast, 0, PAGE);
        assert!(scene.ask_at_once(1, fast, PAGE) == content(0, PAGE));
        let lookup = Frame::new(LOOKUP, ROOT).name("fast");
        assert_eq!(scene.ask_at_once(1, lookup, ENTRY_LEN).len(), ENTRY_LEN);
    }
    scene.settle();
    assert!(scene.is_silent(1), "something was answered that has to wait");
    scene.go_on();
    let mut all = hanging;
    all.0.insert(u32::from(fsync.head), (fsync, 99, Vec::new()));
    all.finish(&mut scene, 1);
    scene.ask_at_once(1, getattr(), ATTR_LEN);
}

#[test]
fn hanging_write_does_not_block_later_requests() {
    let mut scene = Scene::new(Setup::default(), &[]);
    scene.stall();
    let (node, handle) = scene.cold;
    let write =
        Frame::new(WRITE, node).u64(handle).u64(0).u32(5).u32(0).u64(0).u32(O_RDWR).u32(0).bytes(b"bytes");
    let written = scene.submit(1, &message(write, 7), 8);
    scene.kick(1);
    for _ in 0..10 {
        assert_eq!(scene.ask_at_once(1, getattr(), ATTR_LEN).len(), ATTR_LEN);
    }
    assert!(scene.is_silent(1));
    scene.go_on();
    scene.wait_for(1, &written, 7).success().unwrap();
    assert!(fs::read(scene.folder.path().join("behind/cold")).unwrap().starts_with(b"bytes"));
}

#[test]
fn a_backlog_pushes_back_and_does_not_grow() {
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "2"]);
    scene.stall();
    let hanging = scene.submit_reads(1, 0..500);
    scene.settle();
    let full = scene.footprint();
    let more = scene.submit_reads(1, 500..900);
    let behind = message(getattr(), 7);
    let behind = scene.submit(1, &behind, ATTR_LEN);
    scene.kick(1);
    scene.ask_at_once(2, getattr(), ATTR_LEN);
    scene.settle();
    assert!(scene.is_silent(1), "answered although an earlier request has not been taken");
    let after = scene.footprint();
    assert!(after.anonymous_kib <= full.anonymous_kib + 64, "{full:?} became {after:?}");
    assert_eq!((after.threads, after.descriptors), (full.threads, full.descriptors));
    scene.go_on();
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
fn a_policy_says_how_many_requests_may_wait() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "[limits]\nqueued-requests = 5\n").unwrap();
    let policy = policy.to_str().unwrap();
    let mut scene = Scene::new(WIDE, &["--policy", policy, "--thread-pool-size", "2"]);
    scene.stall();
    let mut hanging = scene.submit_reads(1, 0..5);
    // A request behind five waiting ones is served.
    scene.ask_at_once(1, getattr(), ATTR_LEN);
    // A request behind six is not served, but another queue is.
    let sixth = scene.submit_reads(1, 5..6);
    hanging.0.extend(sixth.0);
    let behind = scene.submit(1, &message(getattr(), 7), ATTR_LEN);
    scene.kick(1);
    scene.ask_at_once(2, getattr(), ATTR_LEN);
    scene.settle();
    assert!(scene.is_silent(1), "answered although there is no space for an earlier request");
    scene.go_on();
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
fn without_a_pool_a_queue_waits_for_its_own() {
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "0"]);
    scene.stall();
    let hanging = scene.submit_reads(1, 0..4);
    scene.ask_at_once(2, getattr(), ATTR_LEN);
    scene.settle();
    assert!(scene.is_silent(1));
    scene.go_on();
    hanging.finish(&mut scene, 1);
}

/// Runs `wait` while requests of queue 1 hang. It must end only when they do.
fn ends_with_the_requests(wait: impl FnOnce(&Frontend) + Send) {
    // The stop does not wait for requests that no thread has begun, so there is a thread for each.
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "12"]);
    scene.stall();
    let hanging = scene.submit_reads(1, 0..12);
    // All of them are in the pool once this is answered.
    scene.ask_at_once(1, getattr(), ATTR_LEN);
    scene.settle();
    let (done, ended) = channel();
    std::thread::scope(|scope| {
        let guest = scene.guest.as_ref().unwrap();
        scope.spawn(move || {
            wait(guest);
            done.send(()).unwrap();
        });
        assert!(ended.recv_timeout(A_WHILE).is_err(), "the call did not wait for the hanging requests");
        scene.go_on();
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
    assert!(all.is_empty(), "{} requests were not given back before", all.len());
}

#[test]
fn queue_stops_after_its_requests_in_the_pool() {
    ends_with_the_requests(|guest| {
        assert!(guest.stop_queue(1).unwrap() >= 12);
    });
}

#[test]
fn memory_is_replaced_after_the_requests_in_the_pool() {
    ends_with_the_requests(|guest| guest.share_memory().unwrap());
}

#[test]
fn death_of_a_vmm_with_hanging_requests_leaks_nothing() {
    let mut scene = Scene::new(WIDE, &["--keep-listening"]);
    let mut first = None;
    for round in 0..3 {
        scene.stall();
        scene.submit_reads(1, round * 1000..round * 1000 + 300);
        scene.submit_reads(2, round * 1000 + 300..round * 1000 + 500);
        scene.ask_at_once(0, getattr(), ATTR_LEN);
        scene.guest = None;
        scene.settle();
        // Other guests are served when the requests of the dead one have ended.
        assert!(scene.daemon.wait_at_most(Duration::ZERO).unwrap().is_none(), "{}", scene.daemon.stderr());
        scene.go_on();
        scene.visit(WIDE);
        scene.ask_at_once(1, getattr(), ATTR_LEN);
        // Neither threads nor descriptors stay behind.
        let before = *first.get_or_insert_with(|| scene.footprint());
        eventually(&format!("all of round {round} is gone"), || {
            let now = scene.footprint();
            now.threads <= before.threads && now.descriptors <= before.descriptors
        });
    }
    assert!(!scene.daemon.stderr().contains("panic"), "{}", scene.daemon.stderr());
}

#[test]
fn a_handle_may_be_released_while_its_read_waits() {
    let mut scene = Scene::new(WIDE, &[]);
    scene.stall();
    let mut hanging = scene.submit_reads(1, 0..6).0;
    scene.settle();
    let (node, handle) = scene.cold;
    let release = Frame::new(RELEASE, node).u64(handle).u32(O_RDWR).u32(0).u64(0);
    assert!(scene.ask_at_once(1, release, 0).is_empty());
    scene.go_on();
    let (queue, memory) = scene.guest().queue(1).unwrap();
    while !hanging.is_empty() {
        let used = queue.wait(memory).unwrap();
        let (sent, unique, expected) = hanging.remove(&used.head).expect("answered once");
        let reply = queue.take_reply(memory, &sent, used.len).unwrap();
        check(&reply, unique).unwrap();
        // A request that no thread had begun by then finds no file handle any more.
        match reply.error().unwrap() {
            None => assert!(reply.success().unwrap() == expected, "READ {unique}"),
            Some(errno) => assert_eq!(errno.raw(), EBADF, "READ {unique}"),
        }
    }
    let late = read((node, handle), 0, PAGE);
    let reply = scene.guest().raw(1, &late.message(), OUT_HEADER_LEN + PAGE).unwrap();
    assert_eq!(reply.error().unwrap().map(pinhole_protocol::Errno::raw), Some(EBADF));
}

/// Writes `bytes` and drops every other piece of `piece` bytes from the host's page cache. Returns
/// whether a piece is gone, or `None` if the host's file system cannot tell.
fn half_cached(file: &File, len: usize, piece: usize) -> Option<bool> {
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
            let cold = half_cached(&file, LEN, piece);
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
    assert!(scene.footprint().threads <= threads.get() + 8, "more threads than were allowed");
}

#[test]
fn pool_threads_start_with_waiting_requests_and_end_after() {
    let mut scene = Scene::new(WIDE, &["--thread-pool-size", "4"]);
    scene.ask_at_once(2, getattr(), ATTR_LEN);
    let before = scene.footprint().threads;
    scene.stall();
    let hanging = scene.submit_reads(1, 0..20);
    scene.ask_at_once(1, getattr(), ATTR_LEN);
    scene.wait_for_threads(before + 4);
    scene.settle();
    assert_eq!(scene.footprint().threads, before + 4, "no more than were allowed");
    scene.go_on();
    hanging.finish(&mut scene, 1);
    scene.wait_for_threads(before);
}
