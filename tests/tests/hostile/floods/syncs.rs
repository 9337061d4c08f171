//! SYNCFS and FSYNC of files that have lost their name, on a host whose `syncfs(2)` is slow or
//! fails. strace delays the daemon's calls.

use super::flood::{Flood, WIDE, ask, get_attr, kick};
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

/// Longer than any wait of a test.
const FOR_EVER: Duration = Duration::from_mins(10);
/// Short, but long enough for many requests to arrive meanwhile.
const A_WHILE: Duration = Duration::from_millis(200);
/// Number of requests in each of four queues.
const REQUESTS: usize = 100;

/// strace that delays each `syncfs` call of a running daemon.
struct Slowed {
    strace: Child,
    folder: TempDir,
    delay: Duration,
    began: Instant,
}

impl Slowed {
    /// Starts strace. `outcome` is the result of the calls in the syntax of strace.
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

    /// Ends the delay. Returns how many calls have ended by now, and how many fit one after
    /// another. More calls mean that two were in progress at the same time.
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

    /// Ends the delay: the kernel continues the calls when their tracer is killed.
    fn let_go(mut self) {
        self.strace.kill().unwrap();
        self.strace.wait().unwrap();
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        drop(self.strace.kill());
        drop(self.strace.wait());
    }
}

/// Requests in progress in four queues.
struct Flooded(Vec<(usize, Sent)>);

impl Flooded {
    /// Sends all requests at once.
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

    fn is_silent(&self, guest: &mut Frontend) -> bool {
        (2..=5).all(|queue| {
            let (ring, memory) = guest.queue(queue).unwrap();
            ring.take_used(memory).unwrap().is_none()
        })
    }

    /// Waits for every reply. Returns the error of each.
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
    let found = ask(guest, 1, &Operation::Lookup(Lookup { name: name.into() })).unwrap();
    let node = NodeId(u64_at(&found, 0).unwrap());
    let open = Operation::Open(Open { flags: OpenFlags::from_bits_retain(O_RDWR), kill_suidgid: false });
    let opened = guest.request(1, node, &open, &[]).unwrap();
    (node, Handle(u64_at(opened.success().unwrap(), 0).unwrap()))
}

fn fsync(handle: Handle) -> Operation<'static> {
    Operation::Fsync(Fsync { handle, flags: FsyncFlags::empty() })
}

/// Checks that an FSYNC, which a pool thread serves, is answered in another queue.
#[track_caller]
fn pool_is_free(guest: &mut Frontend, (node, handle): (NodeId, Handle)) {
    for _ in 0..20 {
        guest.request(1, node, &fsync(handle), &[]).unwrap().success().unwrap();
    }
}

#[test]
fn flood_of_syncfs_is_one_host_call_at_a_time() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    let slowed = Slowed::new(bench.daemon.serving_id(), A_WHILE, "");
    let flooded = Flooded::new(&mut bench.guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    let outcomes = flooded.finish(&mut bench.guest);
    assert!(outcomes.iter().all(Option::is_none));
    let (calls, most) = slowed.end();
    println!("{} requests, {calls} calls, {most} one after another", outcomes.len());
    assert!((2..=most).contains(&calls), "{calls} calls, {most} one after another");
}

#[test]
fn flood_of_syncfs_takes_no_pool_thread() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    fs::write(bench.host("file"), "").unwrap();
    let guest = &mut bench.guest;
    let file = open(guest, "file");
    pool_is_free(guest, file);
    let slowed = Slowed::new(bench.daemon.serving_id(), FOR_EVER, "");
    let flooded = Flooded::new(guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    // Each queue has taken all requests when it answers one behind them.
    pool_is_free(guest, file);
    assert!(flooded.is_silent(guest), "answered before the host was");
    slowed.let_go();
    assert!(flooded.finish(guest).iter().all(Option::is_none));
}

/// The front-end waits for the reply to GET_VRING_BASE. The host's disk takes longer.
#[test]
fn queue_with_syncfs_stops_before_the_host_answers() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    let guest = &mut bench.guest;
    let slowed = Slowed::new(bench.daemon.serving_id(), FOR_EVER, "");
    let flooded = Flooded::new(guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    eventually("the queue has taken all of them", || {
        // `avail_event`: the device asks to be kicked for the request behind them.
        let (ring, memory) = guest.queue(2).unwrap();
        let event_at = ring.place().used + 4 + 8 * u64::from(ring.size());
        let event: u16 = memory.load(GuestAddress(event_at), Ordering::SeqCst).unwrap();
        usize::from(u16::from_le(event)) == REQUESTS
    });
    // No request has been answered, so the guest resumes at the start.
    assert_eq!(guest.stop_queue(2).unwrap(), 0);
    assert!(flooded.is_silent(guest), "answered before the host was");
    slowed.let_go();
    guest.resume_queue(2, 0).unwrap();
    assert!(flooded.finish(guest).iter().all(Option::is_none));
}

#[test]
fn every_syncfs_of_a_call_that_failed_is_an_error() {
    // strace lets a call fail by replacing it with another one that no filter permits.
    let mut bench = Bench::with(WIDE, &["--seccomp", "none"]).unwrap();
    let slowed = Slowed::new(bench.daemon.serving_id(), A_WHILE, ":error=EIO");
    let flooded = Flooded::new(&mut bench.guest, NodeId::ROOT, &Operation::SyncFs(SyncFs));
    let outcomes = flooded.finish(&mut bench.guest);
    assert!(outcomes.iter().all(|outcome| *outcome == Some(Errno::EIO)), "{outcomes:?}");
    slowed.end();
    ask(&mut bench.guest, 1, &Operation::SyncFs(SyncFs)).unwrap();
}

/// The rings are always full: there are more requests than may wait without a thread.
#[test]
fn too_many_syncfs_block_only_their_queues() {
    let mut bench = Bench::with(WIDE, &[]).unwrap();
    fs::write(bench.host("file"), "").unwrap();
    let file = open(&mut bench.guest, "file");
    let slowed = Slowed::new(bench.daemon.serving_id(), A_WHILE, "");
    let mut flood = Flood::new(2..=5, Operation::SyncFs(SyncFs));
    let began = Instant::now();
    while flood.served < 4096 {
        flood.poll(&mut bench.guest);
        pool_is_free(&mut bench.guest, file);
        ask(&mut bench.guest, 1, &get_attr()).unwrap();
        assert!(began.elapsed() < FOR_EVER, "{} requests", flood.served);
    }
    let (calls, most) = slowed.end();
    assert!(calls <= most, "{calls} calls, {most} one after another");
}

/// Mounted overlayfs. The daemon does not know that its `fsync` keeps names. Dropping it unmounts
/// it.
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

/// Share on overlayfs with a file that has lost the name by which its guest opened it, and another
/// file.
struct Renamed {
    guest: Frontend,
    daemon: Serving,
    nameless: (NodeId, Handle),
    file: (NodeId, Handle),
    _overlay: Overlay,
    _folder: TempDir,
}

impl Renamed {
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
    let mut scene = Renamed::new();
    let slowed = Slowed::new(scene.daemon.serving_id(), A_WHILE, "");
    let (node, handle) = scene.nameless;
    let flooded = Flooded::new(&mut scene.guest, node, &fsync(handle));
    let outcomes = flooded.finish(&mut scene.guest);
    assert!(outcomes.iter().all(Option::is_none), "{outcomes:?}");
    let (calls, most) = slowed.end();
    println!("{} requests, {calls} calls, {most} one after another", outcomes.len());
    assert!((2..=most).contains(&calls), "{calls} calls, {most} one after another");
}

#[test]
fn flood_of_nameless_fsync_takes_no_pool_thread() {
    let mut scene = Renamed::new();
    let slowed = Slowed::new(scene.daemon.serving_id(), FOR_EVER, "");
    let (node, handle) = scene.nameless;
    let flooded = Flooded::new(&mut scene.guest, node, &fsync(handle));
    pool_is_free(&mut scene.guest, scene.file);
    assert!(flooded.is_silent(&mut scene.guest), "answered before the host was");
    slowed.let_go();
    assert!(flooded.finish(&mut scene.guest).iter().all(Option::is_none));
}
