//! How many system calls does a request cost that is answered from memory, and how many does an
//! idle guest cost?
//!
//! All threads of the daemon run under strace, at queue depth 1 and without polling. Each request
//! may cost the sleep before it, its own call and the interrupt after it, and nothing else.

use super::traced::Traced;
use pinhole_tests::frontend::frame::opcode::{GETATTR, LOOKUP, OPEN_FILE, READ, TMPFILE, WRITE};
use pinhole_tests::frontend::frame::{Frame, UNIQUE, check, u64_at};
use pinhole_tests::frontend::{Bench, EVENT_IDX, Frontend, INDIRECT, OUT_HEADER_LEN, Setup, Shape};
use pinhole_tests::linux::{ATTR_LEN, ENTRY_LEN, O_RDWR, ROOT};
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Length of a page in bytes.
const PAGE: usize = 4096;
/// Upper bound on a wait.
const LIMIT: Duration = Duration::from_secs(20);
/// Time without a request in which no thread may run.
const IDLE: Duration = Duration::from_millis(500);
/// Number of repetitions of each request.
const ROUNDS: usize = 10;

/// Sends a request and returns the body of its successful reply.
fn body(traced: &mut Traced, frame: &Frame, len: usize) -> Vec<u8> {
    traced.ask(&frame.clone().message(), len).success().unwrap().to_vec()
}

/// Repeats a request and checks the system calls of the daemon for each.
#[track_caller]
fn check_costs(traced: &mut Traced, what: &str, frame: &Frame, len: usize, expected: &[&str]) {
    for _ in 0..3 {
        traced.wait_until_it_sleeps();
        body(traced, frame, len);
    }
    let before = traced.calls_after_settling(0).len();
    for _ in 0..ROUNDS {
        traced.wait_until_it_sleeps();
        body(traced, frame, len);
    }
    let calls = traced.calls_after_settling(before + ROUNDS * expected.len()).split_off(before);
    let all: Vec<&str> = std::iter::repeat_n(expected, ROUNDS).flatten().copied().collect();
    assert_eq!(calls, all, "{what}");
}

#[test]
fn cached_request_costs_three_system_calls() {
    let fill = |share: &Path| fs::write(share.join("file"), [1; 2 * PAGE]).unwrap();
    let mut traced = Traced::new(&[], fill);
    let lookup = Frame::new(LOOKUP, ROOT).name("file");
    let node = u64_at(&body(&mut traced, &lookup, ENTRY_LEN), 0).unwrap();
    let opened = body(&mut traced, &Frame::new(OPEN_FILE, node).u32(O_RDWR).u32(0), 16);
    let handle = u64_at(&opened, 0).unwrap();
    let size = u32::try_from(PAGE).unwrap();

    let getattr = Frame::new(GETATTR, node).u32(0).u32(0).u64(0);
    check_costs(&mut traced, "GETATTR", &getattr, ATTR_LEN, &["epoll_wait", "statx", "write"]);
    let read = Frame::new(READ, node).u64(handle).u64(0).u32(size).u32(0).u64(0).u32(0).u32(0);
    check_costs(&mut traced, "READ", &read, PAGE, &["epoll_wait", "preadv2", "write"]);
    let write = Frame::new(WRITE, node).u64(handle).u64(0).u32(size).u32(0).u64(0).u32(O_RDWR).u32(0);
    check_costs(&mut traced, "WRITE", &write.bytes(&[7; PAGE]), 8, &["epoll_wait", "pwritev2", "write"]);
    check_costs(&mut traced, "LOOKUP", &lookup, ENTRY_LEN, &["epoll_wait", "statx", "write"]);
}

/// Capabilities stay the same between a create by a user and a write.
#[test]
fn alternating_creates_and_writes_cost_no_capset() {
    const USER: u32 = 1000;
    const KILL_SUIDGID: u32 = 4;
    let fill = |share: &Path| fs::write(share.join("file"), [1; PAGE]).unwrap();
    let mut traced = Traced::new(&[], fill);
    let node = u64_at(&body(&mut traced, &Frame::new(LOOKUP, ROOT).name("file"), ENTRY_LEN), 0).unwrap();
    let opened = body(&mut traced, &Frame::new(OPEN_FILE, node).u32(O_RDWR).u32(0), 16);
    let handle = u64_at(&opened, 0).unwrap();
    let write = Frame::new(WRITE, node).u64(handle).u64(0).u32(1).u32(KILL_SUIDGID).u64(0).u32(O_RDWR).u32(0);
    let write = write.bytes(&[7]).caller(USER, USER);
    let make =
        Frame::new(TMPFILE, ROOT).u32(O_RDWR).u32(0o100_600).u32(0).u32(0).name("/").caller(USER, USER);
    let pair = |traced: &mut Traced| {
        for (frame, len) in [(&make, ENTRY_LEN + 16), (&write, 8)] {
            traced.wait_until_it_sleeps();
            body(traced, frame, len);
        }
    };
    pair(&mut traced);
    let before = traced.calls_after_settling(0).len();
    for _ in 0..ROUNDS {
        pair(&mut traced);
    }
    let make = ["setresgid", "setresuid", "openat2", "setresuid", "setresgid", "statx", "name_to_handle_at"];
    let expected: Vec<&str> =
        [&["epoll_wait"][..], &make, &["write", "epoll_wait", "pwritev2", "write"]].concat();
    let calls = traced.calls_after_settling(before + ROUNDS * expected.len()).split_off(before);
    let all: Vec<&str> = std::iter::repeat_n(&expected, ROUNDS).flatten().copied().collect();
    assert_eq!(calls, all);
}

/// Kicks only if the device asks for it, as drivers do. If the device forgets to ask, the test
/// hangs.
fn send_and_kick_on_demand(guest: &mut Frontend, rounds: usize) -> usize {
    let mut kicks = 0;
    let message = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0).message();
    for _ in 0..rounds {
        let (queue, memory) = guest.queue(1).unwrap();
        queue.want_interrupt(memory, queue.next_used()).unwrap();
        let sent = queue.submit(memory, &message, OUT_HEADER_LEN + ATTR_LEN, Shape::default()).unwrap();
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
fn polling_queue_thread_loses_no_request() {
    for features in [0, EVENT_IDX, EVENT_IDX | INDIRECT] {
        for budget in ["0", "5", "30", "1000"] {
            let setup = Setup { features, ..Setup::default() };
            let mut bench = Bench::with(setup, &["--poll-us", budget]).unwrap();
            let kicks = send_and_kick_on_demand(&mut bench.guest, 1000);
            assert!(kicks <= 1000, "{kicks} kicks with {features:#x} and --poll-us {budget}");
            bench.is_alive().unwrap();
        }
    }
}

/// Returns how often the threads of a process have gone to sleep or were preempted.
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
fn idle_guest_costs_no_processor_time() {
    let mut bench = Bench::with(Setup::default(), &["--poll-us", "1000"]).unwrap();
    send_and_kick_on_demand(&mut bench.guest, 1000);
    let began = Instant::now();
    let mut before = switches(bench.daemon.serving_id());
    loop {
        std::thread::park_timeout(IDLE);
        let now = switches(bench.daemon.serving_id());
        if now == before {
            break;
        }
        assert!(began.elapsed() < LIMIT, "the threads do not come to rest");
        before = now;
    }
    // A thread at rest must sleep, and not run.
    let stat = fs::read_dir(format!("/proc/{}/task", bench.daemon.serving_id())).unwrap();
    for thread in stat {
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        let state = stat.rsplit_once(") ").unwrap().1.chars().next();
        assert_eq!(state, Some('S'), "{stat}");
    }
    bench.is_alive().unwrap();
}
