//! A daemon with all of its threads under strace, and a test client that sends FUSE requests.

use pinhole_tests::child::wait_for_exit;
use pinhole_tests::daemon::pinhole_program;
use pinhole_tests::frontend::{Frontend, OUT_HEADER_LEN, Reply, eventually};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vm_memory::{Bytes as _, GuestAddress};

/// Upper bound on a wait.
const LIMIT: Duration = Duration::from_secs(20);
/// Time in which an unexpected call would appear in the trace.
const SETTLED: Duration = Duration::from_millis(100);

/// Daemon under strace with a guest.
pub(crate) struct Traced {
    strace: Child,
    guest: Option<Frontend>,
    work: TempDir,
}

impl Traced {
    /// Serves a share that `prepare` fills, with these arguments.
    pub(crate) fn new(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let work = tempfile::Builder::new().prefix("pinhole-system-calls-").tempdir().unwrap();
        let path = |name: &str| work.path().join(name);
        fs::create_dir(path("share")).unwrap();
        prepare(&path("share"));
        let log = File::create(path("log")).unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(path("trace"));
        command
            .arg(pinhole_program().unwrap())
            .args(["--poll-us", "0"])
            .args(arguments)
            .arg("--shared-dir")
            .arg(path("share"));
        command.arg("--socket-path").arg(path("socket"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let strace = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start strace ({error}): run `apt-get install --yes strace`")
        });
        let mut traced = Self { strace, guest: None, work };
        let began = Instant::now();
        while !traced.read("log").contains("Waiting for vhost-user socket connection") {
            let ended = wait_for_exit(&traced.strace, Some(Duration::from_millis(20))).unwrap();
            assert!(!ended && began.elapsed() < LIMIT, "not ready: {}", traced.read("log"));
        }
        let mut guest = Frontend::connect(&traced.path("socket")).unwrap();
        guest.init().unwrap();
        traced.guest = Some(guest);
        traced
    }

    /// Returns the path of a name in the folder of the test.
    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Returns the text of a file in the folder of the test.
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn guest(&mut self) -> &mut Frontend {
        self.guest.as_mut().expect("connected")
    }

    /// Sends a message and takes its reply, as a driver does that sleeps until it is interrupted.
    pub(crate) fn ask(&mut self, message: &[u8], len: usize) -> Reply {
        let guest = self.guest();
        let (queue, memory) = guest.queue(1).unwrap();
        // Before the request, as a driver does: after it, the reply may already be there, and no
        // interrupt would come.
        queue.want_interrupt(memory, queue.next_used()).unwrap();
        guest.raw(1, message, OUT_HEADER_LEN + len).unwrap()
    }

    /// Waits until the queue thread sleeps and wants a kick for the next request. Under strace the
    /// thread is slow: without this wait, it could find the next request before it sleeps.
    pub(crate) fn wait_until_it_sleeps(&mut self) {
        let trace = self.work.path().join("trace");
        let guest = self.guest.as_mut().expect("connected");
        let (queue, memory) = guest.queue(1).unwrap();
        let event_at = queue.place().used + 4 + 8 * u64::from(queue.size());
        let next_used = queue.next_used();
        let asks =
            || u16::from_le(memory.load(GuestAddress(event_at), Ordering::SeqCst).unwrap()) == next_used;
        eventually("the queue thread sleeps", || asks() && is_asleep(&fs::read_to_string(&trace).unwrap()));
    }

    /// Returns the names of the completed calls, in the order of their ends.
    fn calls(&self) -> Vec<String> {
        let trace = self.read("trace");
        // A line without an end is an unfinished call.
        let whole = trace.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(call_of).collect()
    }

    /// Waits until the trace has at least `least` calls and no further call appears. Returns the
    /// names of all calls.
    pub(crate) fn calls_after_settling(&self, least: usize) -> Vec<String> {
        let began = Instant::now();
        let mut before = self.calls();
        loop {
            std::thread::park_timeout(SETTLED);
            let now = self.calls();
            if now.len() == before.len() && now.len() >= least {
                return now;
            }
            assert!(began.elapsed() < LIMIT, "fewer than {least} calls: {:?}", now.last_chunk::<40>());
            before = now;
        }
    }
}

/// Returns whether the thread of queue 1 has begun to wait for a kick: the last line of the thread
/// is the call that waits, without a result.
fn is_asleep(trace: &str) -> bool {
    let name = "prctl(PR_SET_NAME, \"request-1\"";
    let thread = trace.lines().find(|line| line.contains(name)).and_then(|line| line.split(' ').next());
    let own = |line: &&str| thread.is_some() && line.split(' ').next() == thread;
    let last = trace.lines().rfind(own).unwrap_or_default();
    last.contains(" epoll_") && !last.contains(" = ")
}

/// Returns the name of the call whose end a line shows, or `None` if the line shows no end.
fn call_of(line: &str) -> Option<String> {
    // A thread that has waited for work for some time makes a call that belongs to no request.
    if line.ends_with("<unfinished ...>") || (line.contains("futex") && line.contains("ETIMEDOUT")) {
        return None;
    }
    let call = line.split_once(' ')?.1.trim_start();
    let call = call.strip_prefix("<... ").unwrap_or(call);
    // The end of a thread is not a call.
    let name = call.split(['(', ' ']).next().filter(|name| !name.starts_with('+'))?;
    // The name of this call depends on the kind of processor.
    Some(if name.starts_with("epoll_p") { "epoll_wait".to_owned() } else { name.to_owned() })
}

impl Drop for Traced {
    fn drop(&mut self) {
        // The daemon ends with its guest, and strace with the daemon.
        self.guest = None;
        if !wait_for_exit(&self.strace, Some(LIMIT)).unwrap_or(false) {
            drop(self.strace.kill());
        }
        drop(self.strace.wait());
    }
}
