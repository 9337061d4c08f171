//! Does the daemon start, end and start again correctly? VMMs die at any moment, second guests
//! connect, signals and resets arrive, memory is added and removed. Nothing may stay behind.

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::frame::opcode::{
    BATCH_FORGET, CREATE, FORGET, GETATTR, LOOKUP, OPEN_FILE, READ, RELEASE, UNLINK, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, check, u64_at};
use pinhole_tests::frontend::wire::Message;
use pinhole_tests::frontend::{
    Bench, Descriptor, Footprint, Frontend, FrontendError, LIMIT, MEMORY_LEN, MEMORY_START, OUT_HEADER_LEN,
    QUEUE_LEN, Sent, Setup, Shape, eventually, wait_until_at_rest,
};
use pinhole_tests::linux::{ENTRY_LEN, ROOT};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::fs;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};
use vhost::vhost_user::VhostUserFrontend as _;
use vm_memory::{Bytes as _, GuestAddress};

/// Length in bytes of a file that takes a while to read.
const LARGE: usize = 1 << 20;

/// Returns a GETATTR of the root.
fn getattr() -> Frame {
    Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0)
}

/// Checks that the daemon ends by itself, with success.
#[track_caller]
fn assert_ends_successfully(daemon: &mut Serving) {
    let status = daemon.wait_at_most(LIMIT).unwrap();
    let status = status.unwrap_or_else(|| panic!("still running:\n{}", daemon.stderr()));
    assert!(status.success(), "{status}:\n{}", daemon.stderr());
}

/// Connects a guest, which sends INIT and one request.
fn visit(daemon: &Serving) -> Result<Frontend, FrontendError> {
    let mut guest = Frontend::connect(daemon.socket())?;
    guest.init()?;
    let reply = guest.raw(1, &getattr().message(), OUT_HEADER_LEN + 104)?;
    reply.success()?;
    Ok(guest)
}

#[test]
fn the_daemon_ends_when_its_only_vmm_goes_away() {
    let (_folder, mut daemon) = Bench::serve(&[]).unwrap();
    let socket = daemon.socket().to_owned();
    drop(visit(&daemon).unwrap());
    assert_ends_successfully(&mut daemon);
    assert!(!socket.exists(), "the socket still exists");
}

#[test]
fn second_guest_is_served_with_keep_listening() {
    let (_folder, mut daemon) = Bench::serve(&["--keep-listening"]).unwrap();
    for _ in 0..20 {
        drop(visit(&daemon).unwrap());
    }
    assert_eq!(daemon.wait_at_most(Duration::ZERO).unwrap(), None);
    daemon.signal(Signal::TERM).unwrap();
    assert_ends_successfully(&mut daemon);
}

#[test]
fn second_guest_does_not_know_nodes_of_the_first() {
    let (folder, daemon) = Bench::serve(&["--keep-listening"]).unwrap();
    fs::write(folder.path().join("share/file"), "x").unwrap();
    let mut first = visit(&daemon).unwrap();
    let looked =
        first.raw(1, &Frame::new(LOOKUP, ROOT).name("file").message(), OUT_HEADER_LEN + ENTRY_LEN).unwrap();
    let node = u64_at(looked.success().unwrap(), 0).unwrap();
    let asked = Frame::new(GETATTR, node).u32(0).u32(0).u64(0).message();
    assert!(first.raw(1, &asked, OUT_HEADER_LEN + 104).unwrap().error().unwrap().is_none());
    drop(first);
    let mut second = visit(&daemon).unwrap();
    assert!(second.raw(1, &asked, OUT_HEADER_LEN + 104).unwrap().error().unwrap().is_some());
}

/// Returns the messages of a VMM until its first queue runs.
fn handshake<'f>(memory: &'f fs::File, events: &'f [rustix::fd::OwnedFd; 3]) -> Vec<Message<'f>> {
    let [kick, call, err] = events;
    let vmm = 0x7000_0000_0000 + MEMORY_START;
    let half = |low: u64, high: u64| low | high << 32;
    vec![
        Message::new(3, &[], 0),                                               // SET_OWNER
        Message::new(1, &[], 0),                                               // GET_FEATURES
        Message::new(2, &[1 << 32 | 1 << 30 | 1 << 29 | 1 << 28], 8),          // SET_FEATURES
        Message::new(15, &[], 0),                                              // GET_PROTOCOL_FEATURES
        Message::new(16, &[1 | 1 << 3 | 1 << 9], 8),                           // SET_PROTOCOL_FEATURES
        Message::new(17, &[], 0),                                              // GET_QUEUE_NUM
        Message::new(5, &[1, MEMORY_START, 1 << 20, vmm, 0], 40).with(memory), // SET_MEM_TABLE
        Message::new(8, &[half(1, 128)], 8),                                   // SET_VRING_NUM
        Message::new(10, &[half(1, 0)], 8),                                    // SET_VRING_BASE
        // SET_VRING_ADDR: index and flags, descriptors, used, available, log.
        Message::new(9, &[1, vmm, vmm + 0x2000, vmm + 0x1000, 0], 40),
        Message::new(14, &[1], 8).with(err),  // SET_VRING_ERR
        Message::new(13, &[1], 8).with(call), // SET_VRING_CALL
        Message::new(12, &[1], 8).with(kick), // SET_VRING_KICK
        Message::new(18, &[half(1, 1)], 8),   // SET_VRING_ENABLE
        Message::new(11, &[half(1, 0)], 8),   // GET_VRING_BASE
    ]
}

/// Returns a memory file and the three events of a queue.
fn memory_and_events() -> (fs::File, [rustix::fd::OwnedFd; 3]) {
    let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let memory = fs::File::from(memory);
    memory.set_len(1 << 20).unwrap();
    let event = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    (memory, [event(), event(), event()])
}

#[test]
fn a_vmm_may_die_after_any_byte_of_its_greeting() {
    let (_folder, daemon) = Bench::serve(&["--keep-listening"]).unwrap();
    drop(visit(&daemon).unwrap());
    let settled = |daemon: &Serving| Footprint::of(daemon.serving_id()).unwrap();
    // Two threads of the daemon, and three queue threads with the thread that serves them, which
    // wait for the next guest.
    eventually("the first guest is gone", || settled(&daemon).threads <= 6);
    let before = settled(&daemon);
    let (memory, events) = memory_and_events();
    let messages = handshake(&memory, &events);
    let total: usize = messages.iter().map(|message| message.bytes.len()).sum();
    for len in 0..=total {
        let stream = UnixStream::connect(daemon.socket()).unwrap();
        let mut left = len;
        for message in &messages {
            let part = left.min(message.bytes.len());
            message.send_part(&stream, part).unwrap();
            left -= part;
        }
        drop(stream);
    }
    drop(visit(&daemon).unwrap());
    eventually("everything is given back", || {
        let now = settled(&daemon);
        now.threads <= before.threads && now.descriptors <= before.descriptors
    });
    let after = settled(&daemon);
    assert!(after.anonymous_kib <= before.anonymous_kib + 4096, "{before:?} became {after:?}");
}

#[test]
fn every_byte_of_a_greeting_may_be_wrong() {
    let (_folder, daemon) = Bench::serve(&["--keep-listening"]).unwrap();
    let (memory, events) = memory_and_events();
    let count = handshake(&memory, &events).len();
    for index in 0..count {
        let len = handshake(&memory, &events)[index].bytes.len();
        for at in 0..len {
            for wrong in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut messages = handshake(&memory, &events);
                messages[index].bytes[at] = wrong;
                let stream = UnixStream::connect(daemon.socket()).unwrap();
                for message in &messages {
                    // The daemon may have closed the connection by now, which is correct.
                    if message.send(&stream).is_err() {
                        break;
                    }
                }
            }
        }
    }
    drop(visit(&daemon).unwrap());
    assert!(!daemon.stderr().contains("overflow"), "{}", daemon.stderr());
}

#[test]
fn a_vmm_may_die_with_requests_in_flight() {
    let (folder, daemon) = Bench::serve(&["--keep-listening"]).unwrap();
    fs::write(folder.path().join("share/file"), vec![7; 1 << 20]).unwrap();
    for _ in 0..50 {
        let mut guest = visit(&daemon).unwrap();
        for index in 0..3 {
            let (queue, memory) = guest.queue(index).unwrap();
            for _ in 0..40 {
                let message = Frame::new(LOOKUP, ROOT).name("file").message();
                queue.submit(memory, &message, OUT_HEADER_LEN + ENTRY_LEN, Shape::default()).unwrap();
            }
            queue.kick().unwrap();
        }
        drop(guest);
    }
    // Threads of the last guest may not have ended yet.
    let settled = || {
        wait_until_at_rest(daemon.serving_id());
        let now = Footprint::of(daemon.serving_id()).unwrap();
        (now.descriptors, now.threads)
    };
    let guest = visit(&daemon).unwrap();
    let before = settled();
    drop(guest);
    let _guest = visit(&daemon).unwrap();
    assert_eq!(settled(), before);
}

#[test]
fn signal_ends_idle_and_busy_daemon_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let (_folder, mut daemon) = Bench::serve(&["--keep-listening"]).unwrap();
        daemon.signal(signal).unwrap();
        assert_ends_successfully(&mut daemon);

        let (folder, mut daemon) = Bench::serve(&[]).unwrap();
        fs::write(folder.path().join("share/file"), vec![7; 1 << 20]).unwrap();
        let mut guest = visit(&daemon).unwrap();
        let (queue, memory) = guest.queue(1).unwrap();
        for _ in 0..60 {
            let message = Frame::new(LOOKUP, ROOT).name("file").message();
            queue.submit(memory, &message, OUT_HEADER_LEN + ENTRY_LEN, Shape::default()).unwrap();
        }
        queue.kick().unwrap();
        daemon.signal(signal).unwrap();
        assert_ends_successfully(&mut daemon);
        // Every taken request has a complete reply, in order.
        while let Some(used) = queue.take_used(memory).unwrap() {
            assert_eq!(used.len, u32::try_from(OUT_HEADER_LEN + ENTRY_LEN).unwrap());
        }
    }
}

/// A user may repeat the signal before the daemon has ended. The daemon must end with success or
/// with the exit code of a signal, and never because a filter forbids a call of the thread that
/// gets the signal.
#[test]
fn several_signals_at_once_end_the_daemon() {
    for sandbox in ["--sandbox=namespace", "--sandbox=none"] {
        for _ in 0..10 {
            let (_folder, mut daemon) = Bench::serve(&["--keep-listening", sandbox]).unwrap();
            let _guest = visit(&daemon).unwrap();
            let process = i32::try_from(daemon.serving_id()).ok().and_then(Pid::from_raw).unwrap();
            for signal in [Signal::TERM, Signal::INT, Signal::TERM, Signal::INT] {
                // An earlier signal may have ended the process.
                let sent = rustix::process::kill_process(process, signal);
                assert!(sent.is_ok() || sent == Err(Errno::SRCH), "{sent:?}");
            }
            let status = daemon.wait_at_most(Duration::from_secs(20)).unwrap().expect("the daemon ends");
            assert!(matches!(status.code(), Some(0 | 130 | 143)), "{status}: {}", daemon.stderr());
        }
    }
}

/// A shell ignores SIGINT for programs that it starts in the background, and service managers block
/// signals.
#[test]
fn inherited_ignored_or_blocked_signals_still_end_the_daemon() {
    for way in ["--ignore-signal", "--block-signal"] {
        for (signal, ends) in [(Signal::TERM, true), (Signal::INT, true), (Signal::KILL, false)] {
            let folder = tempfile::Builder::new().prefix("pinhole-lifecycle-").tempdir().unwrap();
            let env = ["env".to_owned(), format!("{way}=INT,TERM,CHLD")];
            let daemon = Daemon::pinhole(folder.path()).unwrap().under(env.map(Into::into));
            let mut daemon = daemon.start().unwrap();
            let _guest = visit(&daemon).unwrap();
            let target = if ends { daemon.id() } else { daemon.serving_id() };
            let target = Pid::from_raw(i32::try_from(target).unwrap()).unwrap();
            rustix::process::kill_process(target, signal).unwrap();
            let ended = daemon.wait_at_most(LIMIT).unwrap().unwrap();
            let expected = if ends { (Some(0), None) } else { (None, Some(signal.as_raw())) };
            assert_eq!((ended.code(), ended.signal()), expected, "{way} {}", daemon.stderr());
            assert!(!daemon.socket().exists(), "{way}");
        }
    }
}

/// Opens a file of [`LARGE`] bytes and returns its node and file handle. A read or write of all of
/// it takes long enough to be interrupted.
fn large_file(bench: &mut Bench) -> (u64, u64) {
    fs::write(bench.host("large"), vec![7; LARGE]).unwrap();
    let node = u64_at(&bench.body(Frame::new(LOOKUP, ROOT).name("large"), ENTRY_LEN).unwrap(), 0).unwrap();
    let opened = bench.body(Frame::new(OPEN_FILE, node).u32(2).u32(0), 16).unwrap();
    (node, u64_at(&opened, 0).unwrap())
}

/// Waits a little longer each round, so that the next step happens in every phase of a request.
fn dither(round: u64) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_micros(20 * (round % 25)) {
        std::hint::spin_loop();
    }
}

#[test]
fn queue_resumes_where_it_stopped() {
    let mut bench = Bench::new().unwrap();
    let (node, handle) = large_file(&mut bench);
    let size = u32::try_from(LARGE).unwrap();
    let write = Frame::new(WRITE, node).u64(handle).u64(0).u32(size).u32(0).u64(0).u32(2).u32(0);
    let write = write.bytes(&vec![8; LARGE]);
    for round in 0..50u64 {
        let (queue, memory) = bench.guest.queue(1).unwrap();
        let sent: Vec<_> = (0..5)
            .map(|number| {
                let message = write.clone().unique(round * 100 + number).message();
                queue.submit(memory, &message, OUT_HEADER_LEN + 8, Shape::default()).unwrap()
            })
            .collect();
        queue.kick().unwrap();
        dither(round);
        let base = bench.guest.stop_queue(1).unwrap();
        // A device must return every request that it has taken before it answers GET_VRING_BASE.
        let (queue, memory) = bench.guest.queue(1).unwrap();
        let mut answered = 0;
        while queue.take_used(memory).unwrap().is_some() {
            answered += 1;
        }
        assert_eq!(base, queue.next_used(), "round {round}: {answered} of 5 given back");
        bench.guest.resume_queue(1, base).unwrap();
        let (queue, memory) = bench.guest.queue(1).unwrap();
        for (number, sent) in (0..).zip(&sent).skip(answered) {
            let used = queue.wait(memory).unwrap();
            let reply = queue.take_reply(memory, sent, used.len).unwrap();
            check(&reply, round * 100 + number).unwrap();
        }
    }
    bench.is_alive().unwrap();
}

#[test]
fn removed_memory_is_not_written() {
    let mut bench = Bench::new().unwrap();
    let (node, handle) = large_file(&mut bench);
    let last = MEMORY_START + MEMORY_LEN - QUEUE_LEN;
    bench.guest.remap(&[(MEMORY_START, MEMORY_LEN - QUEUE_LEN)]).unwrap();
    let size = u32::try_from(LARGE).unwrap();
    let read = Frame::new(READ, node).u64(handle).u64(0).u32(size).u32(0).u64(0).u32(0).u32(0).message();
    let process = bench.daemon.serving_id();
    let (mut in_time, mut too_late) = (0, 0);
    for round in 0..100 {
        let region = bench.guest.region(last, QUEUE_LEN);
        bench.guest.connection().add_mem_region(&region).unwrap();
        let (queue, memory) = bench.guest.queue(2).unwrap();
        let place = queue.place();
        let len = u32::try_from(read.len()).unwrap();
        let descriptors = [
            Descriptor { address: place.buffers, len, flags: Descriptor::NEXT, next: 1 },
            Descriptor { address: last, len: size + 16, flags: Descriptor::WRITE, next: 0 },
        ];
        queue.write_table(memory, place.descriptors, &descriptors).unwrap();
        memory.write_slice(&read, GuestAddress(place.buffers)).unwrap();
        queue.offer(memory, 0).unwrap();
        queue.kick().unwrap();
        if round % 10 == 0 {
            // On a busy host the daemon may come too late in all other rounds.
            wait_until_at_rest(process);
        } else {
            dither(round);
        }
        let region = bench.guest.region(last, QUEUE_LEN);
        bench.guest.connection().remove_mem_region(&region).unwrap();
        bench.guest.poke(last, &vec![0xa5; LARGE + 16]).unwrap();
        let (queue, memory) = bench.guest.queue(2).unwrap();
        let done = queue.take_used(memory).unwrap();
        let used = done.unwrap_or_else(|| queue.wait(memory).unwrap());
        if done.is_some() && used.len > 0 {
            in_time += 1;
        } else {
            // The daemon reached the request after the memory was removed, and returned it unread.
            assert_eq!(used.len, 0, "round {round}: served in memory that was removed");
            too_late += 1;
        }
        let untouched = bench.guest.peek(last, LARGE + 16).unwrap().iter().all(|byte| *byte == 0xa5);
        assert!(untouched, "round {round}: written after it was removed");
    }
    assert!(in_time >= 10, "{too_late} of 100 requests came too late");
    bench.is_alive().unwrap();
}

#[test]
fn disabled_queue_serves_no_request_until_enabled() {
    let mut bench = Bench::new().unwrap();
    let process = bench.daemon.serving_id();
    for _ in 0..20 {
        bench.guest.connection().set_vring_enable(1, false).unwrap();
        let (queue, memory) = bench.guest.queue(1).unwrap();
        let message = getattr().message();
        let sent = queue.submit(memory, &message, OUT_HEADER_LEN + 104, Shape::default()).unwrap();
        queue.kick().unwrap();
        wait_until_at_rest(process);
        assert!(queue.take_used(memory).unwrap().is_none(), "served while disabled");
        bench.guest.connection().set_vring_enable(1, true).unwrap();
        let (queue, memory) = bench.guest.queue(1).unwrap();
        let used = queue.wait(memory).unwrap();
        assert!(queue.take_reply(memory, &sent, used.len).unwrap().error().unwrap().is_none());
    }
}

#[test]
fn reset_device_forgets_its_guest() {
    let mut bench = Bench::new().unwrap();
    fs::write(bench.host("file"), "x").unwrap();
    for features in [0, Setup::default().features, 0] {
        let node = u64_at(&bench.body(Frame::new(LOOKUP, ROOT).name("file"), ENTRY_LEN).unwrap(), 0).unwrap();
        bench.guest.connection().reset_device().unwrap();
        let setup = Setup { features, ..Setup::default() };
        bench.guest.negotiate(features).unwrap();
        bench.guest.share_memory().unwrap();
        for index in 0..setup.queues {
            bench.guest.start_queue(index, setup).unwrap();
        }
        assert_eq!(bench.errno(getattr(), 104).unwrap(), 5, "before INIT");
        bench.guest.init().unwrap();
        bench.is_alive().unwrap();
        let asked = Frame::new(GETATTR, node).u32(0).u32(0).u64(0);
        assert_ne!(bench.errno(asked, 104).unwrap(), 0, "a node from before the reset");
    }
}

#[test]
fn memory_is_added_and_removed_while_requests_run() {
    let mut bench = Bench::new().unwrap();
    // The test adds and removes the last region. The daemon serves a request with buffers there
    // only while the region exists.
    let last = MEMORY_START + MEMORY_LEN - QUEUE_LEN;
    let slots = bench.guest.connection().get_max_mem_slots().unwrap();
    assert!(slots >= 8, "{slots} memory slots");
    bench.guest.remap(&[(MEMORY_START, MEMORY_LEN - QUEUE_LEN)]).unwrap();
    let message = getattr().message();
    bench.guest.poke(last, &message).unwrap();
    let chain = |flags, next| Descriptor {
        address: if flags == 1 { last } else { last + 4096 },
        len: if flags == 1 { 56 } else { 120 },
        flags,
        next,
    };
    for _ in 0..50 {
        // Requests in progress on another queue.
        let (queue, memory) = bench.guest.queue(2).unwrap();
        let sent: Vec<_> = (0..20)
            .map(|number| {
                let message = getattr().unique(number).message();
                queue.submit(memory, &message, OUT_HEADER_LEN + 104, Shape::default()).unwrap()
            })
            .collect();
        queue.kick().unwrap();
        assert_eq!(bench.guest.raw_chain(1, &[chain(1, 1), chain(2, 0)]).unwrap().len, 0, "no such memory");
        let region = bench.guest.region(last, QUEUE_LEN);
        bench.guest.connection().add_mem_region(&region).unwrap();
        assert_eq!(bench.guest.raw_chain(1, &[chain(1, 1), chain(2, 0)]).unwrap().len, 120);
        let region = bench.guest.region(last, QUEUE_LEN);
        bench.guest.connection().remove_mem_region(&region).unwrap();
        let (queue, memory) = bench.guest.queue(2).unwrap();
        for (number, sent) in (0..).zip(&sent) {
            let used = queue.wait(memory).unwrap();
            check(&queue.take_reply(memory, sent, used.len).unwrap(), number).unwrap();
        }
    }
    for _ in 0..50 {
        bench.guest.share_memory().unwrap();
        bench.is_alive().unwrap();
    }
}

/// Number of files that exist at the same time.
const AT_ONCE: u64 = 40;

/// Sends all `frames` at once and returns the body of each reply, in the order of the frames.
fn send_all(bench: &mut Bench, frames: impl IntoIterator<Item = Frame>, room: usize) -> Vec<Vec<u8>> {
    let (queue, memory) = bench.guest.queue(1).unwrap();
    let submit = |(unique, frame): (u64, Frame)| {
        let message = frame.unique(unique).message();
        queue.submit(memory, &message, OUT_HEADER_LEN + room, Shape::default()).unwrap()
    };
    let sent: Vec<Sent> = (0..).zip(frames).map(submit).collect();
    queue.kick().unwrap();
    let mut bodies = vec![Vec::new(); sent.len()];
    for _ in &sent {
        let used = queue.wait(memory).unwrap();
        let at =
            sent.iter().position(|sent| u32::from(sent.head) == used.head).expect("the request was sent");
        let reply = queue.take_reply(memory, &sent[at], used.len).unwrap();
        check(&reply, at as u64).unwrap();
        bodies[at] = reply.success().unwrap().to_vec();
    }
    bodies
}

/// Makes, writes, reads, closes, removes and forgets some files.
fn use_and_forget_files(bench: &mut Bench, numbers: Range<u64>) {
    let name = |number: u64| format!("file-{number}");
    let create = |number| Frame::new(CREATE, ROOT).u32(2).u32(0o100_644).u32(0).u32(0).name(name(number));
    let made = send_all(bench, numbers.clone().map(create), ENTRY_LEN + 16);
    let files = made.iter().map(|made| (u64_at(made, 0).unwrap(), u64_at(made, ENTRY_LEN).unwrap()));
    let files: Vec<(u64, u64)> = files.collect();
    let write = |(node, handle): &(u64, u64)| {
        let frame = Frame::new(WRITE, *node).u64(*handle).u64(0).u32(4).u32(0).u64(0).u32(2).u32(0);
        frame.bytes(b"data")
    };
    send_all(bench, files.iter().map(write), 8);
    let read = |(node, handle): &(u64, u64)| {
        Frame::new(READ, *node).u64(*handle).u64(0).u32(16).u32(0).u64(0).u32(0).u32(0)
    };
    for read in send_all(bench, files.iter().map(read), 16) {
        assert_eq!(read, b"data");
    }
    let release = |(node, handle): &(u64, u64)| Frame::new(RELEASE, *node).u64(*handle).u32(2).u32(0).u64(0);
    send_all(bench, files.iter().map(release), 0);
    send_all(bench, numbers.map(|number| Frame::new(UNLINK, ROOT).name(name(number))), 0);
    let (queue, memory) = bench.guest.queue(0).unwrap();
    for (node, _) in &files {
        let forget = Frame::new(FORGET, *node).u64(1).message();
        queue.submit(memory, &forget, 0, Shape::default()).unwrap();
    }
    queue.kick().unwrap();
    for _ in &files {
        assert_eq!(queue.wait(memory).unwrap().len, 0, "FORGET has no reply");
    }
}

#[test]
fn ten_thousand_files_leave_no_descriptor_behind() {
    let mut bench = Bench::new().unwrap();
    for batch in 0..12 {
        use_and_forget_files(&mut bench, batch * AT_ONCE..(batch + 1) * AT_ONCE);
    }
    let before = bench.footprint().unwrap();
    for batch in 12..262 {
        use_and_forget_files(&mut bench, batch * AT_ONCE..(batch + 1) * AT_ONCE);
    }
    let after = bench.footprint().unwrap();
    assert_eq!(after.descriptors, before.descriptors);
    assert!(after.anonymous_kib <= before.anonymous_kib + 1024, "{before:?} became {after:?}");
}

#[test]
fn forgotten_nodes_leave_no_memory_behind() {
    let mut bench = Bench::new().unwrap();
    for number in 0..5000 {
        fs::write(bench.host(format!("file-{number}")), "").unwrap();
    }
    let mut settled: Option<Footprint> = None;
    let mut nodes = Vec::new();
    for round in 0..6 {
        nodes.clear();
        for batch in 0..5000 / AT_ONCE {
            let numbers = batch * AT_ONCE..(batch + 1) * AT_ONCE;
            let lookups = numbers.map(|number| Frame::new(LOOKUP, ROOT).name(format!("file-{number}")));
            let found = send_all(&mut bench, lookups, ENTRY_LEN);
            nodes.extend(found.iter().map(|entry| u64_at(entry, 0).unwrap()));
        }
        assert_eq!(nodes.len(), 5000);
        let held = bench.footprint().unwrap();
        for batch in nodes.chunks(100) {
            let count = u32::try_from(batch.len()).unwrap();
            let frame = Frame::new(BATCH_FORGET, 0).u32(count).u32(0);
            let frame = batch.iter().fold(frame, |frame, node| frame.u64(*node).u64(1));
            assert!(bench.guest.raw(0, &frame.message(), 0).unwrap().is_unanswered());
        }
        let after = bench.footprint().unwrap();
        let before = settled.get_or_insert(after);
        assert_eq!(after.descriptors, before.descriptors, "round {round}");
        assert!(held.descriptors >= after.descriptors);
        assert!(
            after.anonymous_kib <= before.anonymous_kib + 1024,
            "round {round}: {before:?} became {after:?}"
        );
    }
}
