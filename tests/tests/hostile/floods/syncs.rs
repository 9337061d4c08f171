//! If `syncfs(2)` is slow or fails on the host, do floods of SYNCFS and FSYNC delay other requests?
//!
//! For an FSYNC of a file that has lost its name, the daemon calls `syncfs(2)` too. strace delays
//! these calls.

use super::flood::{Flood, WIDE, get_attr, kick, request_root};
use pinhole_protocol::{
    Errno, Fsync, FsyncFlags, Handle, Lookup, Name, NodeId, Open, OpenFlags, Operation, SyncFs,
};
use pinhole_tests::child::wait_for_exit;
use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::frame::u64_at;
use pinhole_tests::frontend::{Bench, Frontend, OUT_HEADER_LEN, Sent, Shape, eventually};
use pinhole_tests::linux::O_RDWR;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vm_memory::{Bytes as _, GuestAddress};

/// Delay that is longer than any test. A test ends it early.
const FOR_EVER: Duration = Duration::from_mins(10);
/// Delay in which many further requests arrive.
const A_WHILE: Duration = Duration::from_millis(200);
/// Number of requests in each of four queues.
const REQUESTS: usize = 100;

/// strace that delays each `syncfs` call of a running daemon.
struct SlowSyncfs {
    strace: Child,
    folder: TempDir,
    delay: Duration,
    began: Instant,
}

impl SlowSyncfs {
    /// Starts strace. `outcome` is the result of the calls in the syntax of strace's `inject`, or
    /// empty for the real result.
    fn new(process: u32, delay: Duration, outcome: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let injected = format!("inject=syncfs:delay_enter={}{outcome}", delay.as_micros());
        let mut command = Command::new("strace");
        command.args(["-f", "-e", "trace=syncfs", "-e", &injected, "-p", &process.to_string(), "-o"]);
        command.arg(folder.path().join("trace")).stdin(Stdio::null()).stderr(File::create(&log).unwrap());
        let mut strace = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start strace ({error}): run `apt-get install --yes strace`")
        });
        eventually("strace is attached", || {
            let said = fs::read_to_string(&log).unwrap();
            assert!(strace.try_wait().unwrap().is_none(), "strace has ended: {said}");
            said.contains(" attached")
        });
        Self { strace, folder, delay, began: Instant::now() }
    }

    /// Ends the delays. Returns how many calls the daemon has made, and how many delayed calls fit
    /// into the time if they come one after another. If the first number is larger, two calls were
    /// in progress at the same time.
    fn end(mut self) -> (usize, usize) {
        let took = self.began.elapsed();
        kill_process(Pid::from_child(&self.strace), Signal::INT).unwrap();
        assert!(wait_for_exit(&self.strace, Some(FOR_EVER)).unwrap());
        self.strace.wait().unwrap();
        let trace = fs::read_to_string(self.folder.path().join("trace")).unwrap();
        let calls = trace.lines().filter(|line| line.contains("syncfs") && line.contains(" = ")).count();
        let most = took.as_micros() / self.delay.as_micros();
        (calls, usize::try_from(most).unwrap() + 1)
    }

    /// Ends the delays by killing strace. The kernel then continues the delayed calls.
    fn end_at_once(mut self) {
        self.strace.kill().unwrap();
        self.strace.wait().unwrap();
    }
}

impl Drop for SlowSyncfs {
    fn drop(&mut self) {
        drop(self.strace.kill());
        drop(self.strace.wait());
    }
}

/// Requests in progress, each with its queue. Four queues have [`REQUESTS`] requests each.
struct PendingRequests(Vec<(usize, Sent)>);

impl PendingRequests {
    /// Sends the same request in all places. It is about `node`.
    fn new(guest: &mut Frontend, node: NodeId, operation: &Operation<'_>) -> Self {
        let mut sent = Vec::new();
        for queue in 2..=5 {
            for _ in 0..REQUESTS {
                let message = guest.encode(node, operation, &[]);
                let shape = Shape { indirect: true, descriptor_len_max: 1 << 20 };
                let (ring, memory) = guest.queue(queue).unwrap();
                sent.push((queue, ring.submit(memory, &message, OUT_HEADER_LEN, shape).unwrap()));
            }
        }
        (2..=5).for_each(|queue| kick(guest, queue));
        Self(sent)
    }

    /// Returns whether no further reply is in the four queues.
    fn has_no_reply(&self, guest: &mut Frontend) -> bool {
        (2..=5).all(|queue| {
            let (ring, memory) = guest.queue(queue).unwrap();
            ring.take_used(memory).unwrap().is_none()
        })
    }

    /// Waits for all replies. Returns the error of each, or `None` for success.
    fn finish(mut self, guest: &mut Frontend) -> Vec<Option<Errno>> {
        let mut outcomes = Vec::new();
        for queue in 2..=5 {
            let (ring, memory) = guest.queue(queue).unwrap();
            for _ in 0..REQUESTS {
                let used = ring.wait(memory).unwrap();
                let is_it = |(its, sent): &(usize, Sent)| *its == queue && u32::from(sent.head) == used.head;
                let (_, sent) = self.0.swap_remove(self.0.iter().position(is_it).expect("answered once"));
                outcomes.push(ring.take_reply(memory, &sent, used.len).unwrap().error().unwrap());
            }
        }
        outcomes
    }
}

fn open(guest: &mut Frontend, name: &str) -> (NodeId, Handle) {
    let name = std::ffi::CString::new(name).unwrap();
    let name = Name::parse(&name).unwrap();
    let found = request_root(guest, 1, &Operation::Lookup(Lookup { name: name.into() })).unwrap();
    let node = NodeId(u64_at(&found, 0).unwrap());
    let open = Operation::Open(Open { flags: OpenFlags::from_bits_retain(O_RDWR), kill_suidgid: false });
    let opened = guest.request(1, node, &open, &[]).unwrap();
    (node, Handle(u64_at(opened.success().unwrap(), 0).unwrap()))
}

fn fsync(handle: Handle) -> Operation<'static> {
    Operation::Fsync(Fsync { handle, flags: FsyncFlags::empty() })
}

/// Checks that the daemon answers FSYNCs of `file` in queue 1. A thread of the offload pool serves
/// them.
#[track_caller]
fn check_pool_answers(guest: &mut Frontend, (node, handle): (NodeId, Handle)) {
    for _ in 0..20 {
        guest.request(1, node, &fsync(handle), &[]).unwrap().success().unwrap();
    }
}

#[test]
fn flood_of_syncfs_is_one_host_call_at_a_time() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    let slow_syncfs = SlowSyncfs::new(bench.daemon.serving_id(), A_WHILE, "");
    let pending = PendingRequests::new(&mut bench.guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    let outcomes = pending.finish(&mut bench.guest);
    assert!(outcomes.iter().all(Option::is_none));
    let (calls, most) = slow_syncfs.end();
    println!("{} requests, {calls} calls, {most} one after another", outcomes.len());
    assert!((2..=most).contains(&calls), "{calls} calls, {most} one after another");
}

#[test]
fn flood_of_syncfs_takes_no_pool_thread() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    fs::write(bench.host("file"), "").unwrap();
    let guest = &mut bench.guest;
    let file = open(guest, "file");
    check_pool_answers(guest, file);
    let slow_syncfs = SlowSyncfs::new(bench.daemon.serving_id(), FOR_EVER, "");
    let pending = PendingRequests::new(guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    // The daemon answers FSYNCs in another queue while all SYNCFS wait.
    check_pool_answers(guest, file);
    assert!(pending.has_no_reply(guest), "answered before the host was");
    slow_syncfs.end_at_once();
    assert!(pending.finish(guest).iter().all(Option::is_none));
}

/// A front-end stops a queue by GET_VRING_BASE and waits for the reply. The daemon must reply
/// before the host's `syncfs(2)` returns.
#[test]
fn queue_with_syncfs_stops_before_the_host_answers() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    let guest = &mut bench.guest;
    let slow_syncfs = SlowSyncfs::new(bench.daemon.serving_id(), FOR_EVER, "");
    let pending = PendingRequests::new(guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    eventually("the queue thread has taken all requests", || {
        // `avail_event` is the index of the next request for which the daemon wants a kick.
        let (ring, memory) = guest.queue(2).unwrap();
        let event_at = ring.place().used + 4 + 8 * u64::from(ring.size());
        let event: u16 = memory.load(GuestAddress(event_at), Ordering::SeqCst).unwrap();
        usize::from(u16::from_le(event)) == REQUESTS
    });
    // The daemon puts all requests back, because none was answered. So the queue will resume at 0.
    assert_eq!(guest.stop_queue(2).unwrap(), 0);
    assert!(pending.has_no_reply(guest), "answered before the host was");
    slow_syncfs.end_at_once();
    guest.resume_queue(2, 0).unwrap();
    assert!(pending.finish(guest).iter().all(Option::is_none));
}

#[test]
fn every_syncfs_of_a_call_that_failed_is_an_error() {
    // To make a call fail, strace replaces it by another one, which the daemon's filter forbids.
    let mut bench = Bench::with(WIDE, &["--seccomp", "none"]).unwrap();
    let slow_syncfs = SlowSyncfs::new(bench.daemon.serving_id(), A_WHILE, ":error=EIO");
    let pending = PendingRequests::new(&mut bench.guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    let outcomes = pending.finish(&mut bench.guest);
    assert!(outcomes.iter().all(|outcome| *outcome == Some(Errno::EIO)), "{outcomes:?}");
    slow_syncfs.end();
    request_root(&mut bench.guest, 1, &Operation::SyncFs(SyncFs)).unwrap();
}

/// The queues are always full. They have more requests than may wait for a shared `syncfs(2)` call.
#[test]
fn too_many_syncfs_block_only_their_queues() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    fs::write(bench.host("file"), "").unwrap();
    let file = open(&mut bench.guest, "file");
    let slow_syncfs = SlowSyncfs::new(bench.daemon.serving_id(), A_WHILE, "");
    let mut flood = Flood::new(2..=5, Operation::SyncFs(SyncFs));
    let began = Instant::now();
    while flood.served < 4096 {
        flood.poll(&mut bench.guest);
        check_pool_answers(&mut bench.guest, file);
        request_root(&mut bench.guest, 1, &get_attr()).unwrap();
        assert!(began.elapsed() < FOR_EVER, "{} requests", flood.served);
    }
    let (calls, most) = slow_syncfs.end();
    assert!(calls <= most, "{calls} calls, {most} one after another");
}

/// Mounted overlayfs; `drop` unmounts it. For this file system, the daemon does not rely on `fsync`
/// alone if a file has lost its name.
struct Overlay(PathBuf);

impl Overlay {
    fn new(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name);
        for name in ["lower", "upper", "work", "share"] {
            fs::create_dir(path(name)).unwrap();
        }
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| path(name).display().to_string());
        let options = std::ffi::CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}"));
        let options = options.unwrap();
        rustix::mount::mount(
            "overlay",
            path("share"),
            "overlay",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("overlayfs is needed: run as root on a kernel that has it");
        Self(path("share"))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// Share on overlayfs. The guest has two files open: `nameless` has lost the name by which the
/// guest opened it, and `file` has its name.
struct RenamedFile {
    guest: Frontend,
    daemon: Serving,
    nameless: (NodeId, Handle),
    file: (NodeId, Handle),
    _overlay: Overlay,
    _folder: TempDir,
}

impl RenamedFile {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pinhole-floods-").tempdir().unwrap();
        let overlay = Overlay::new(folder.path());
        let share = folder.path().join("share");
        fs::write(share.join("old"), "").unwrap();
        fs::write(share.join("file"), "").unwrap();
        let daemon = Daemon::pinhole(&share).unwrap().confined_to(folder.path()).start().unwrap();
        let mut guest = Frontend::connect_with(daemon.socket(), WIDE).unwrap();
        guest.init().unwrap();
        let (nameless, file) = (open(&mut guest, "old"), open(&mut guest, "file"));
        fs::hard_link(share.join("old"), share.join("new")).unwrap();
        fs::remove_file(share.join("old")).unwrap();
        Self { guest, daemon, nameless, file, _overlay: overlay, _folder: folder }
    }
}

#[test]
fn flood_of_nameless_fsync_is_one_call_at_a_time() {
    let mut scene = RenamedFile::new();
    let slow_syncfs = SlowSyncfs::new(scene.daemon.serving_id(), A_WHILE, "");
    let (node, handle) = scene.nameless;
    let pending = PendingRequests::new(&mut scene.guest, node, &fsync(handle));
    let outcomes = pending.finish(&mut scene.guest);
    assert!(outcomes.iter().all(Option::is_none), "{outcomes:?}");
    let (calls, most) = slow_syncfs.end();
    println!("{} requests, {calls} calls, {most} one after another", outcomes.len());
    assert!((2..=most).contains(&calls), "{calls} calls, {most} one after another");
}

#[test]
fn flood_of_nameless_fsync_takes_no_pool_thread() {
    let mut scene = RenamedFile::new();
    let slow_syncfs = SlowSyncfs::new(scene.daemon.serving_id(), FOR_EVER, "");
    let (node, handle) = scene.nameless;
    let pending = PendingRequests::new(&mut scene.guest, node, &fsync(handle));
    check_pool_answers(&mut scene.guest, scene.file);
    assert!(pending.has_no_reply(&mut scene.guest), "answered before the host was");
    slow_syncfs.end_at_once();
    assert!(pending.finish(&mut scene.guest).iter().all(Option::is_none));
}
