//! How many queued requests does the daemon serve before a queue stops, and is every request
//! answered exactly once afterwards?
//!
//! A VMM stops its queues for a pause, a reset and its end, and its main loop waits for the daemon
//! meanwhile. The tests count the requests that are answered between the front-end's message and
//! its reply. They print times. They bound a time only if a daemon that serves everything first
//! would take minutes.

mod memory;

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::frame::opcode::{
    COPY_FILE_RANGE, CREATE, FALLOCATE, FSYNC, GETATTR, INIT, LOOKUP, OPEN_FILE, SETLK, SETLKW, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, check, u64_at};
use pinhole_tests::frontend::locks::{self, Lock};
use pinhole_tests::frontend::{
    EVENT_IDX, Frontend, INDIRECT, LIMIT, OUT_HEADER_LEN, Sent, Setup, Shape, eventually,
};
use pinhole_tests::lease::{LeaseKind, Leases};
use pinhole_tests::linux::{ATTR_LEN, EINTR, ENTRY_LEN, ESTALE, O_RDONLY, O_RDWR, ROOT};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vhost::vhost_user::VhostUserFrontend as _;

/// Number of queues of the guest.
const QUEUES: usize = 4;
/// Set-up of a device whose queues hold many requests.
const WIDE: Setup = Setup { queues: QUEUES, queue_size: 1024, features: INDIRECT | EVENT_IDX };
/// Layout with one descriptor of the ring for each request.
const NARROW: Shape = Shape { indirect: true, descriptor_len_max: 1 << 20 };
/// Number of reservations that a test queues at once.
const MANY: usize = 120;
/// Length of a reservation that takes seconds, in bytes.
const LONG: u64 = 3 << 30;
/// Length of a reservation during which its queue thread takes no further requests, in bytes.
const HALF: u64 = 512 << 20;
/// Length of a reservation that does not hold up its queue thread, in bytes.
const SHORT: u64 = 8 << 20;
/// Largest number of requests that may be served while a queue is being stopped: one in progress,
/// and a few on a host that delays the message to the daemon. A daemon that serves the backlog
/// first serves all.
const FEW: usize = MANY / 10;
/// Number of stops of a queue whose requests wait behind the requests of another queue.
const ROUNDS: usize = 6;
/// Upper bound on the time of a stop on a busy host. Serving all requests of the scenario takes
/// more than a minute.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Open file of the guest: node and file handle.
type File = (u64, u64);

/// Request that was offered.
struct Offered {
    sent: Sent,
    unique: u64,
    /// Errno of its reply; 0 is success.
    errno: Option<i32>,
}

/// Queue of the guest, and all requests that were offered on it, in order.
struct Lane {
    queue: usize,
    /// Index in the used ring of the first request of this lane.
    first: u16,
    offered: Vec<Offered>,
}

impl Lane {
    const fn new(queue: usize) -> Self {
        Self { queue, first: 0, offered: Vec::new() }
    }

    /// Offers a request without a kick.
    fn offer(&mut self, guest: &mut Frontend, frame: Frame, room: usize) {
        let unique = ((self.queue as u64) << 32) + 2 * self.offered.len() as u64;
        let (queue, memory) = guest.queue(self.queue).unwrap();
        let message = frame.unique(unique).message();
        if self.offered.is_empty() {
            self.first = queue.next_used();
        }
        let sent = queue.submit(memory, &message, OUT_HEADER_LEN + room, NARROW).unwrap();
        self.offered.push(Offered { sent, unique, errno: None });
    }

    /// Kicks the queue.
    fn kick(&self, guest: &mut Frontend) {
        guest.queue(self.queue).unwrap().0.kick().unwrap();
    }

    /// Takes all used requests and checks that the daemon has returned each only once. Returns the
    /// number of answered requests.
    fn collect(&mut self, guest: &mut Frontend) -> usize {
        let (queue, memory) = guest.queue(self.queue).unwrap();
        while let Some(used) = queue.take_used(memory).unwrap() {
            let mut unanswered = self.offered.iter_mut().filter(|offered| offered.errno.is_none());
            let known = unanswered.find(|offered| u32::from(offered.sent.head) == used.head);
            let offered = known.expect("a request is given back that was answered before, or not offered");
            let reply = queue.take_reply(memory, &offered.sent, used.len).unwrap();
            check(&reply, offered.unique).unwrap();
            offered.errno = Some(reply.error().unwrap().map_or(0, pinhole_protocol::Errno::raw));
        }
        self.answered()
    }

    /// Returns the number of answered requests.
    fn answered(&self) -> usize {
        self.offered.iter().filter(|offered| offered.errno.is_some()).count()
    }

    /// Stops the queue. Returns the index to resume from, the number of replies before the message,
    /// and the time that the stop took. Checks that exactly the requests before the index have been
    /// answered.
    fn stop(&mut self, guest: &mut Frontend) -> (usize, usize, Duration) {
        let before = self.collect(guest);
        let began = Instant::now();
        let base = usize::from(guest.stop_queue(self.queue).unwrap() - self.first);
        let took = began.elapsed();
        self.collect(guest);
        let answered: Vec<bool> = self.offered.iter().map(|offered| offered.errno.is_some()).collect();
        let expected: Vec<bool> = (0..self.offered.len()).map(|at| at < base).collect();
        assert_eq!(answered, expected, "stopped at {base}");
        (base, before, took)
    }

    /// Starts the queue again at the index `base` that [`Lane::stop`] has returned.
    fn resume(&self, guest: &mut Frontend, base: usize) {
        guest.resume_queue(self.queue, self.first + u16::try_from(base).unwrap()).unwrap();
    }

    /// Waits until more than `than` requests are answered.
    fn wait_for_more(&mut self, guest: &mut Frontend, than: usize) {
        eventually("one more reply", || self.collect(guest) > than);
    }

    /// Waits until all requests are answered. Returns their errnos.
    fn finish(&mut self, guest: &mut Frontend) -> Vec<i32> {
        let (mut seen, mut since) = (0, Instant::now());
        while self.collect(guest) < self.offered.len() {
            if self.answered() > seen {
                (seen, since) = (self.answered(), Instant::now());
            }
            assert!(since.elapsed() < LIMIT, "{seen} of {} answered", self.offered.len());
            std::thread::park_timeout(Duration::from_millis(1));
        }
        self.offered.iter().filter_map(|offered| offered.errno).collect()
    }
}

/// Held by a test that fills memory, because only one such test fits at a time.
static MEMORY: Mutex<()> = Mutex::new(());

/// Guest and its daemon.
struct Scene {
    guest: Frontend,
    daemon: Serving,
    folder: TempDir,
    /// Released when the files are gone.
    _memory: Option<MutexGuard<'static, ()>>,
}

impl Scene {
    /// Starts a share in memory, where a reservation takes as long as zeroing.
    fn in_memory(arguments: &[&str]) -> Self {
        Self::within(Path::new("/dev/shm"), arguments)
    }

    /// Starts a share in a new folder in `parent`, and a guest that has sent INIT.
    fn within(parent: &Path, arguments: &[&str]) -> Self {
        let in_memory = parent == Path::new("/dev/shm");
        // A test that failed with the lock has removed its files, so the lock is usable.
        let memory = in_memory.then(|| MEMORY.lock().unwrap_or_else(PoisonError::into_inner));
        let folder = tempfile::Builder::new().prefix("pinhole-pauses-").tempdir_in(parent).unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        let daemon = Daemon::pinhole(folder.path().join("share")).unwrap().confined_to(folder.path());
        let daemon = arguments.iter().fold(daemon, |daemon, argument| daemon.argument(*argument));
        let daemon = daemon.start().unwrap();
        let guest = connect(&daemon);
        Self { guest, daemon, folder, _memory: memory }
    }

    /// Returns the host's path of a file of the share.
    fn host(&self, name: &str) -> PathBuf {
        self.folder.path().join("share").join(name)
    }

    /// Sends a request on the last queue, as the function [`reply_body`] does.
    fn reply_body(&mut self, frame: Frame, room: usize) -> Vec<u8> {
        reply_body(&mut self.guest, frame, room)
    }

    /// Creates and opens a file.
    fn create(&mut self, name: &str) -> File {
        let create = Frame::new(CREATE, ROOT).u32(O_RDWR).u32(0o100_644).u32(0).u32(0).name(name);
        let made = self.reply_body(create, ENTRY_LEN + 16);
        (u64_at(&made, 0).unwrap(), u64_at(&made, ENTRY_LEN).unwrap())
    }

    /// Returns the number of blocks of 512 bytes that a file occupies.
    fn blocks(&self, name: &str) -> u64 {
        fs::metadata(self.host(name)).unwrap().blocks()
    }
}

/// Connects a guest that has sent INIT.
fn connect(daemon: &Serving) -> Frontend {
    let mut guest = Frontend::connect_with(daemon.socket(), WIDE).unwrap();
    guest.init().unwrap();
    guest
}

/// Sends a request on the last queue, which no test stops, and returns the body of the reply.
fn reply_body(guest: &mut Frontend, frame: Frame, room: usize) -> Vec<u8> {
    let reply = guest.raw(QUEUES - 1, &frame.message(), OUT_HEADER_LEN + room).unwrap();
    reply.success().unwrap().to_vec()
}

/// Returns a FALLOCATE that reserves the first `len` bytes.
fn fallocate((node, handle): File, len: u64) -> Frame {
    Frame::new(FALLOCATE, node).u64(handle).u64(0).u64(len).u32(0).u32(0)
}

/// Returns an FSYNC.
fn fsync((node, handle): File) -> Frame {
    Frame::new(FSYNC, node).u64(handle).u32(0).u32(0)
}

/// Returns a COPY_FILE_RANGE of the first `len` bytes.
fn copy(from: File, to: File, len: u64) -> Frame {
    Frame::new(COPY_FILE_RANGE, from.0).u64(from.1).u64(0).u64(to.0).u64(to.1).u64(0).u64(len).u64(0)
}

/// Returns a WRITE of four bytes at the offset `at`.
fn write((node, handle): File, at: u64) -> Frame {
    let frame = Frame::new(WRITE, node).u64(handle).u64(at).u32(4).u32(0).u64(0).u32(O_RDWR).u32(0);
    frame.bytes(b"data")
}

/// Returns a GETATTR.
fn getattr(node: u64) -> Frame {
    Frame::new(GETATTR, node).u32(0).u32(0).u64(0)
}

#[test]
fn stop_interrupts_a_long_reservation() {
    stops_while_it_reserves(&[]);
}

#[test]
fn stop_interrupts_a_reservation_before_short_requests() {
    // If these were answered, the daemon would have to finish the requests before them.
    stops_while_it_reserves(&[getattr(ROOT)]);
}

/// Checks stops of a queue with [`MANY`] long reservations. The requests `behind` follow each one.
fn stops_while_it_reserves(behind: &[Frame]) {
    let mut scene = Scene::in_memory(&[]);
    let file = scene.create("file");
    let mut lane = Lane::new(1);
    while lane.offered.len() < MANY {
        lane.offer(&mut scene.guest, fallocate(file, LONG), 0);
        for frame in behind {
            lane.offer(&mut scene.guest, frame.clone(), ATTR_LEN);
        }
    }
    lane.kick(&mut scene.guest);
    // The first pause comes at once, the others in the middle of a reservation that has made
    // progress.
    let mut base = 0;
    for round in 0..5 {
        let blocks = scene.blocks("file");
        eventually("the reservation has begun", || scene.blocks("file") > blocks || round > 0);
        let (stopped, before, took) = lane.stop(&mut scene.guest);
        println!("stopped at {stopped} of {MANY} after {took:?}, {} while it stopped", stopped - before);
        assert!(stopped >= base && stopped - before <= FEW, "served {} first", stopped - before);
        assert!(took < STOP_LIMIT, "{took:?}");
        base = stopped;
        lane.resume(&mut scene.guest, base);
        // At least one more request is answered in each round, so the rounds make progress.
        lane.wait_for_more(&mut scene.guest, base);
    }
    assert_eq!(fs::metadata(scene.host("file")).unwrap().len(), LONG);
    assert!(lane.offered.iter().all(|offered| offered.errno.is_none_or(|errno| errno == 0)));
}

#[test]
fn interrupted_reservation_is_complete_in_the_end() {
    let mut scene = Scene::in_memory(&["--thread-pool-size=1"]);
    let files: Vec<File> = (0..3).map(|number| scene.create(&format!("file{number}"))).collect();
    let mut lanes: Vec<Lane> = (1..=2).map(Lane::new).collect();
    for lane in &mut lanes {
        for number in 0..6 {
            let file = files[number % files.len()];
            lane.offer(&mut scene.guest, fallocate(file, HALF), 0);
            lane.offer(&mut scene.guest, getattr(file.0), ATTR_LEN);
        }
        lane.kick(&mut scene.guest);
    }
    for round in 0..12 {
        let lane = &mut lanes[round % 2];
        std::thread::park_timeout(Duration::from_millis(round as u64 * 3));
        let (base, _, _) = lane.stop(&mut scene.guest);
        lane.resume(&mut scene.guest, base);
    }
    for lane in &mut lanes {
        assert!(lane.finish(&mut scene.guest).iter().all(|errno| *errno == 0));
    }
    for number in 0..files.len() {
        let data = fs::metadata(scene.host(&format!("file{number}"))).unwrap();
        assert_eq!((data.len(), data.blocks() * 512), (HALF, HALF));
    }
}

#[test]
fn a_stop_waits_for_few_of_many_copies() {
    let mut scene = Scene::in_memory(&[]);
    let (from, to) = (scene.create("from"), scene.create("to"));
    fs::write(scene.host("from"), vec![7; 64 << 20]).unwrap();
    let mut lane = Lane::new(1);
    for _ in 0..MANY / 2 {
        lane.offer(&mut scene.guest, copy(from, to, 64 << 20), 8);
        // Once this is answered, the copy before it has to be finished.
        lane.offer(&mut scene.guest, getattr(ROOT), ATTR_LEN);
    }
    lane.kick(&mut scene.guest);
    eventually("a request is done", || lane.collect(&mut scene.guest) > 0);
    let (base, before, took) = lane.stop(&mut scene.guest);
    println!("stopped at {base} of {MANY} after {took:?}, {} while it stopped", base - before);
    assert!(base - before <= 2 * FEW, "served {} first", base - before);
    lane.resume(&mut scene.guest, base);
    assert!(lane.finish(&mut scene.guest).iter().all(|errno| *errno == 0));
    assert_eq!(fs::read(scene.host("to")).unwrap(), vec![7; 64 << 20]);
}

/// Repeatable random numbers.
struct Numbers(u64);

impl Numbers {
    /// Returns a number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Offers a mixture of requests on each lane, and stops and starts the lanes meanwhile.
fn mixture(parent: &Path, arguments: &[&str], seed: u64) {
    println!("seed {seed} {arguments:?}");
    let mut numbers = Numbers(seed);
    let mut scene = Scene::within(parent, arguments);
    let files: Vec<File> = (0..4).map(|number| scene.create(&format!("file{number}"))).collect();
    fs::write(scene.host("source"), vec![7; 1 << 20]).unwrap();
    let source = scene.create("source");
    let mut lanes: Vec<Lane> = (1..QUEUES - 1).map(Lane::new).collect();
    for lane in &mut lanes {
        for at in 0..400 {
            let file = files[usize::try_from(numbers.below(4)).unwrap()];
            let (frame, room) = match numbers.below(16) {
                0..3 => (fsync(file), 0),
                3 => (fallocate(file, HALF / 2 + SHORT), 0),
                4..7 => (fallocate(file, SHORT), 0),
                7..9 => (copy(source, file, 1 << 20), 8),
                9..12 => (write(file, at), 8),
                _ => (getattr(file.0), ATTR_LEN),
            };
            lane.offer(&mut scene.guest, frame, room);
        }
    }
    for lane in &lanes {
        lane.kick(&mut scene.guest);
    }
    let mut stops = 0;
    for _ in 0..40 {
        let at = usize::try_from(numbers.below(lanes.len() as u64)).unwrap();
        std::thread::park_timeout(Duration::from_micros(numbers.below(3000)));
        let (base, before, _) = lanes[at].stop(&mut scene.guest);
        stops += usize::from(before < lanes[at].offered.len() && base < lanes[at].offered.len());
        lanes[at].resume(&mut scene.guest, base);
    }
    for lane in &mut lanes {
        assert_eq!(lane.finish(&mut scene.guest), vec![0; lane.offered.len()], "seed {seed}");
    }
    println!("{stops} stops came before the end");
    for number in 0..files.len() {
        assert!(fs::metadata(scene.host(&format!("file{number}"))).unwrap().len() >= SHORT);
    }
}

#[test]
fn every_mixed_request_is_answered_once_in_memory() {
    for seed in 1..=3 {
        mixture(Path::new("/dev/shm"), &[], seed);
    }
}

#[test]
fn every_mixed_request_is_answered_once_on_disk() {
    for seed in 11..=13 {
        mixture(&std::env::temp_dir(), &[], seed);
    }
}

#[test]
fn every_mixed_request_is_answered_once_with_few_threads() {
    for (seed, threads) in [(21, "0"), (22, "1"), (23, "2")] {
        mixture(Path::new("/dev/shm"), &["--thread-pool-size", threads], seed);
    }
}

#[test]
fn older_request_is_finished_after_a_later_reply() {
    let mut scene = Scene::in_memory(&["--thread-pool-size=1"]);
    let (long, file) = (scene.create("long"), scene.create("file"));
    let (mut reserving, mut lane) = (Lane::new(2), Lane::new(1));
    for _ in 0..MANY {
        reserving.offer(&mut scene.guest, fallocate(long, LONG), 0);
    }
    reserving.kick(&mut scene.guest);
    eventually("the reservation has begun", || scene.blocks("long") > 0);
    let mut waited_for = 0;
    for round in 0..ROUNDS {
        let answered = lane.answered();
        // The one pool thread works for the other queue, so of these requests only the
        // one with a reply begins.
        for frame in [fsync(file), fsync(file)] {
            lane.offer(&mut scene.guest, frame, 0);
        }
        lane.offer(&mut scene.guest, getattr(file.0), ATTR_LEN);
        lane.offer(&mut scene.guest, fsync(file), 0);
        lane.kick(&mut scene.guest);
        lane.wait_for_more(&mut scene.guest, answered);
        let others = reserving.collect(&mut scene.guest);
        let (base, _, took) = lane.stop(&mut scene.guest);
        let meanwhile = reserving.collect(&mut scene.guest) - others;
        println!("round {round}: stopped at {base} after {took:?}, {meanwhile} of the other queue meanwhile");
        assert!(base >= answered + 3, "{base}");
        waited_for += meanwhile;
        lane.resume(&mut scene.guest, base);
        assert!(lane.finish(&mut scene.guest).iter().all(|errno| *errno == 0));
    }
    // The stop makes space: otherwise each round would wait for a reservation. One may end by
    // itself at that moment.
    assert!(waited_for <= ROUNDS / 2, "{waited_for}");
}

#[test]
fn requests_waiting_for_leases_return_to_ring_or_estale() {
    let mut scene = Scene::within(&std::env::temp_dir(), &[]);
    fs::write(scene.host("leased"), "content").unwrap();
    let node = u64_at(&scene.reply_body(Frame::new(LOOKUP, ROOT).name("leased"), ENTRY_LEN), 0).unwrap();
    let lease = Leases::take(LeaseKind::Write, [scene.host("leased").as_path()]).unwrap();
    let open = Frame::new(OPEN_FILE, node).u32(O_RDONLY).u32(0);
    let mut lane = Lane::new(1);
    // The first two have a later request that is answered before them.
    for frame in [open.clone(), open.clone(), getattr(ROOT), open.clone(), open] {
        lane.offer(&mut scene.guest, frame, ATTR_LEN);
    }
    lane.kick(&mut scene.guest);
    lane.wait_for_more(&mut scene.guest, 0);
    let (base, _, _) = lane.stop(&mut scene.guest);
    assert_eq!(base, 3);
    lease.give_up().unwrap();
    lane.resume(&mut scene.guest, base);
    assert_eq!(lane.finish(&mut scene.guest), [ESTALE, ESTALE, 0, 0, 0]);
}

#[test]
fn pause_puts_the_last_lock_waits_back() {
    let mut scene = Scene::within(&std::env::temp_dir(), &[]);
    let file = scene.create("file");
    let set = |opcode, owner, kind| Lock::posix(kind, owner, 0, 9).frame(opcode, file);
    scene.reply_body(set(SETLK, 1, locks::WRITE), 0);
    let mut lane = Lane::new(1);
    lane.offer(&mut scene.guest, getattr(ROOT), ATTR_LEN);
    for owner in 2..=4 {
        lane.offer(&mut scene.guest, set(SETLKW, owner, locks::READ), 0);
    }
    lane.kick(&mut scene.guest);
    lane.wait_for_more(&mut scene.guest, 0);
    for _ in 0..3 {
        let (base, _, _) = lane.stop(&mut scene.guest);
        assert_eq!(base, 1);
        lane.resume(&mut scene.guest, base);
    }
    scene.reply_body(set(SETLK, 1, locks::UNLOCK), 0);
    assert_eq!(lane.finish(&mut scene.guest), [0; 4]);
}

#[test]
fn init_does_not_wait_for_a_long_reservation() {
    let mut scene = Scene::in_memory(&[]);
    let init = Frame::new(INIT, ROOT).u32(7).u32(45).u32(128 << 10).u32(u32::MAX).u32(0).bytes(&[0; 44]);
    let mut ended = Vec::new();
    for round in 0..5 {
        let name = format!("file{round}");
        let file = scene.create(&name);
        let mut lane = Lane::new(1);
        lane.offer(&mut scene.guest, fallocate(file, LONG / 2), 0);
        lane.kick(&mut scene.guest);
        eventually("the reservation has begun", || scene.blocks(&name) > 0);
        scene.reply_body(init.clone(), 64);
        ended.extend(lane.finish(&mut scene.guest));
        fs::remove_file(scene.host(&name)).unwrap();
    }
    // A reservation may have ended just before.
    assert!(ended.contains(&EINTR), "{ended:?}");
    scene.reply_body(getattr(ROOT), ATTR_LEN);
}

/// Queues [`MANY`] long reservations on each of two queues, and waits until one has begun.
fn start_busy(arguments: &[&str]) -> (Scene, Vec<Lane>) {
    let mut scene = Scene::in_memory(arguments);
    let file = scene.create("file");
    let mut lanes: Vec<Lane> = (1..=2).map(Lane::new).collect();
    for lane in &mut lanes {
        for _ in 0..MANY {
            lane.offer(&mut scene.guest, fallocate(file, LONG), 0);
        }
        lane.kick(&mut scene.guest);
    }
    eventually("the reservation has begun", || scene.blocks("file") > 0);
    (scene, lanes)
}

#[test]
fn the_first_signal_ends_a_busy_daemon() {
    let (mut scene, mut lanes) = start_busy(&[]);
    let before: usize = lanes.iter_mut().map(|lane| lane.collect(&mut scene.guest)).sum();
    let began = Instant::now();
    scene.daemon.signal(Signal::TERM).unwrap();
    let ended = scene.daemon.wait_at_most(LIMIT).unwrap();
    let after: usize = lanes.iter_mut().map(|lane| lane.collect(&mut scene.guest)).sum();
    println!("ended after {:?}, {} served meanwhile", began.elapsed(), after - before);
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", scene.daemon.stderr());
    assert!(after - before <= FEW, "served {} first", after - before);
}

#[test]
fn a_reset_waits_for_few_of_many_requests() {
    let (mut scene, mut lanes) = start_busy(&[]);
    let before: usize = lanes.iter_mut().map(|lane| lane.collect(&mut scene.guest)).sum();
    let began = Instant::now();
    scene.guest.connection().reset_device().unwrap();
    let after: usize = lanes.iter_mut().map(|lane| lane.collect(&mut scene.guest)).sum();
    println!("reset after {:?}, {} served meanwhile", began.elapsed(), after - before);
    assert!(after - before <= FEW, "served {} first", after - before);
}

#[test]
fn next_guest_does_not_wait_for_old_requests() {
    let (Scene { guest, daemon, folder, _memory }, _) = start_busy(&["--keep-listening"]);
    let began = Instant::now();
    // Its connection ends with it.
    drop(guest);
    let mut guest = connect(&daemon);
    println!("served again after {:?}", began.elapsed());
    assert!(began.elapsed() < STOP_LIMIT, "{:?}", began.elapsed());
    reply_body(&mut guest, getattr(ROOT), ATTR_LEN);
    drop(folder);
}
