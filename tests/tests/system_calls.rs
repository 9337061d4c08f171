//! How many system calls does a request cost that hits memory, and what does it cost when there is none? The whole
//! daemon runs under strace, all of its threads, at queue depth 1 and without polling; each request may cost the sleep
//! before it, its own one call and the interrupt behind it, and nothing else.
#![cfg(test)]

use pinhole_tests::daemon::{pinhole_program, wait_for_exit};
use pinhole_tests::frontend::frame::opcode::{GETATTR, LOOKUP, OPEN_FILE, READ, WRITE};
use pinhole_tests::frontend::frame::{Frame, UNIQUE, check, u64_at};
use pinhole_tests::frontend::{Bench, EVENT_IDX, Frontend, INDIRECT, OUT_HEADER_LEN, Setup, Shape};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vm_memory::{Bytes as _, GuestAddress};

const ROOT: u64 = 1;
const ENTRY: usize = 128;
const ATTR: usize = 104;
const O_RDWR: u32 = 2;
const PAGE: usize = 4096;
const LIMIT: Duration = Duration::from_secs(20);
/// Long enough for a call too many to appear.
const SETTLED: Duration = Duration::from_millis(100);
/// Without a request a thread must not have run in it.
const IDLE: Duration = Duration::from_millis(500);
/// Each request so often.
const ROUNDS: usize = 10;

/// A daemon under strace with a guest.
struct Traced {
    strace: Child,
    guest: Option<Frontend>,
    work: TempDir,
}

impl Traced {
    fn new() -> Self {
        let work = tempfile::Builder::new().prefix("pinhole-system-calls-").tempdir().unwrap();
        let path = |name: &str| work.path().join(name);
        fs::create_dir(path("share")).unwrap();
        fs::write(path("share/file"), [1; 2 * PAGE]).unwrap();
        let log = File::create(path("log")).unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(path("trace"));
        command.arg(pinhole_program().unwrap()).args(["--poll-us", "0", "--shared-dir"]).arg(path("share"));
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

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn body(&mut self, frame: Frame, len: usize) -> Vec<u8> {
        let guest = self.guest.as_mut().expect("connected");
        let (queue, memory) = guest.queue(1).unwrap();
        // Before the request, as a driver does: who asks later may find the answer first, and is not interrupted.
        queue.want_interrupt(memory, queue.next_used()).unwrap();
        guest.raw(1, &frame.message(), OUT_HEADER_LEN + len).unwrap().success().unwrap().to_vec()
    }

    /// Waits until the queue's worker has asked to be kicked: under strace it is slow enough to find the next request
    /// before it sleeps.
    fn wait_until_it_sleeps(&mut self) {
        let guest = self.guest.as_mut().expect("connected");
        let (queue, memory) = guest.queue(1).unwrap();
        let event_at = queue.place().used + 4 + 8 * u64::from(queue.size());
        let began = Instant::now();
        loop {
            let asked: u16 = memory.load(GuestAddress(event_at), Ordering::SeqCst).unwrap();
            if u16::from_le(asked) == queue.next_used() {
                return;
            }
            assert!(began.elapsed() < LIMIT, "the worker does not sleep");
            std::thread::yield_now();
        }
    }

    /// The calls that have ended, in that order, by their names.
    fn calls(&self) -> Vec<String> {
        let trace = self.read("trace");
        // A line without an end is a call without one.
        let whole = trace.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(call_of).collect()
    }

    /// Waits until nothing is called any more.
    fn settled(&self, least: usize) -> Vec<String> {
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

    /// What the daemon calls for one request, when it is asked for again and again.
    #[track_caller]
    fn costs(&mut self, what: &str, frame: &Frame, len: usize, expected: &[&str]) {
        for _ in 0..3 {
            self.wait_until_it_sleeps();
            self.body(frame.clone(), len);
        }
        let before = self.settled(0).len();
        for _ in 0..ROUNDS {
            self.wait_until_it_sleeps();
            self.body(frame.clone(), len);
        }
        let calls = self.settled(before + ROUNDS * expected.len()).split_off(before);
        let all: Vec<&str> = std::iter::repeat_n(expected, ROUNDS).flatten().copied().collect();
        assert_eq!(calls, all, "{what}");
    }
}

/// The name of a call that a line shows the end of.
fn call_of(line: &str) -> Option<String> {
    if line.ends_with("<unfinished ...>") {
        return None;
    }
    let call = line.split_once(' ')?.1.trim_start();
    let call = call.strip_prefix("<... ").unwrap_or(call);
    // A thread's end is no call's.
    let name = call.split(['(', ' ']).next().filter(|name| !name.starts_with('+'))?;
    // Of this there are several, by the processor's kind.
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

#[test]
fn a_request_that_hits_memory_costs_one_call_beside_its_wake_and_its_interrupt() {
    let mut traced = Traced::new();
    let lookup = Frame::new(LOOKUP, ROOT).name("file");
    let node = u64_at(&traced.body(lookup.clone(), ENTRY), 0).unwrap();
    let opened = traced.body(Frame::new(OPEN_FILE, node).u32(O_RDWR).u32(0), 16);
    let handle = u64_at(&opened, 0).unwrap();
    let size = u32::try_from(PAGE).unwrap();

    let getattr = Frame::new(GETATTR, node).u32(0).u32(0).u64(0);
    traced.costs("GETATTR", &getattr, ATTR, &["epoll_wait", "statx", "write"]);
    let read = Frame::new(READ, node).u64(handle).u64(0).u32(size).u32(0).u64(0).u32(0).u32(0);
    traced.costs("READ", &read, PAGE, &["epoll_wait", "preadv2", "write"]);
    let write = Frame::new(WRITE, node).u64(handle).u64(0).u32(size).u32(0).u64(0).u32(O_RDWR).u32(0);
    traced.costs("WRITE", &write.bytes(&[7; PAGE]), 8, &["epoll_wait", "pwritev2", "write"]);
    traced.costs("LOOKUP", &lookup, ENTRY, &["epoll_wait", "statx", "write"]);
}

/// Kicks only where the device asks for it, as drivers do. Whatever the device has forgotten to ask for hangs.
fn ask_as_asked(guest: &mut Frontend, rounds: usize) -> usize {
    let mut kicks = 0;
    let message = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0).message();
    for _ in 0..rounds {
        let (queue, memory) = guest.queue(1).unwrap();
        queue.want_interrupt(memory, queue.next_used()).unwrap();
        let sent = queue.submit(memory, &message, OUT_HEADER_LEN + ATTR, Shape::default()).unwrap();
        std::sync::atomic::fence(Ordering::SeqCst);
        if queue.wants_kick(memory).unwrap() {
            queue.kick().unwrap();
            kicks += 1;
        }
        let used = queue.wait(memory).unwrap();
        check(&queue.take_reply(memory, &sent, used.len).unwrap(), UNIQUE).unwrap();
    }
    kicks
}

#[test]
fn a_worker_that_looks_for_requests_loses_none() {
    for features in [0, EVENT_IDX, EVENT_IDX | INDIRECT] {
        for budget in ["0", "5", "30", "1000"] {
            let setup = Setup { features, ..Setup::default() };
            let mut bench = Bench::with(setup, &["--poll-us", budget]).unwrap();
            let kicks = ask_as_asked(&mut bench.guest, 1000);
            assert!(kicks <= 1000, "{kicks} kicks with {features:#x} and --poll-us {budget}");
            bench.is_alive().unwrap();
        }
    }
}

/// How often the threads of a process have gone to sleep or were sent to.
fn switches(id: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let status = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    let count = |status: String| -> u64 {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches:"));
        lines.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    status.map(count).sum()
}

#[test]
fn a_guest_that_asks_for_nothing_costs_nothing() {
    let mut bench = Bench::with(Setup::default(), &["--poll-us", "1000"]).unwrap();
    ask_as_asked(&mut bench.guest, 1000);
    let began = Instant::now();
    let mut before = switches(bench.daemon.id());
    loop {
        std::thread::park_timeout(IDLE);
        let now = switches(bench.daemon.id());
        if now == before {
            break;
        }
        assert!(began.elapsed() < LIMIT, "its threads do not come to rest");
        before = now;
    }
    // At rest is asleep, not busy.
    let stat = fs::read_dir(format!("/proc/{}/task", bench.daemon.id())).unwrap();
    for thread in stat {
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        let state = stat.rsplit_once(") ").unwrap().1.chars().next();
        assert_eq!(state, Some('S'), "{stat}");
    }
    bench.is_alive().unwrap();
}
