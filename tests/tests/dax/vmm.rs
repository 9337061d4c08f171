//! If a VMM does not do what the daemon asks it, does that harm only mappings? The VMM of a test
//! does not reply, refuses, closes the back channel, stops queues during a mapping, or lacks
//! features.

use pinhole::limits::WINDOW_PATIENCE;
use pinhole_protocol::InitFlags;
use pinhole_tests::dax_vmm::{Dax, Protection, Rules, Window, connect, setup_mapping};
use pinhole_tests::frontend::frame::opcode::{GETATTR, LOOKUP, OPEN_FILE, RELEASE};
use pinhole_tests::frontend::frame::{Frame, check, u64_at};
use pinhole_tests::frontend::{
    Bench, Footprint, Frontend, OUT_HEADER_LEN, Reply, Sent, Setup, Shape, eventually, wait_until_at_rest,
};
use pinhole_tests::linux::{EIO, ENOSYS};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs;
use std::time::{Duration, Instant};
use vhost::VhostBackend as _;
use vhost::vhost_user::VhostUserFrontend as _;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

/// Length of a slot of the window in bytes.
const SLOT: u64 = 2 << 20;
/// Arguments of the daemon for a window that is used for every file.
const WINDOW: [&str; 2] = ["--dax-window=16M", "--dax=always"];
/// Time limit, on a busy host, for a queue to stop and for a request that does not need the VMM. A
/// request that needs a silent VMM waits for [`WINDOW_PATIENCE`], more than three times as long.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// Starts a share with a file of four slots. Also returns the node id of the file.
fn start_with_file(rules: Rules) -> (Dax, u64) {
    let mut dax = Dax::new(rules, &WINDOW).unwrap();
    dax.file("file", 4 * SLOT).unwrap();
    let (node, _) = dax.open("file", OFlags::RDWR.bits()).unwrap();
    (dax, node)
}

/// Sends a request without waiting for its reply.
fn send(guest: &mut Frontend, queue: usize, frame: Frame) -> Sent {
    let (queue, memory) = guest.queue(queue).unwrap();
    let sent = queue.submit(memory, &frame.message(), OUT_HEADER_LEN + 128, Shape::default()).unwrap();
    queue.kick().unwrap();
    sent
}

/// Waits for the reply to `sent` on its queue. Drops other replies that arrive before it.
fn wait_for_reply(guest: &mut Frontend, queue: usize, sent: &Sent) -> Reply {
    let (queue, memory) = guest.queue(queue).unwrap();
    loop {
        let used = queue.wait(memory).unwrap();
        if used.head == u32::from(sent.head) {
            return queue.take_reply(memory, sent, used.len).unwrap();
        }
    }
}

/// Returns the errno of a reply; 0 is success.
fn errno(reply: &Reply) -> i32 {
    reply.error().unwrap().map_or(0, pinhole_protocol::Errno::raw)
}

/// Returns a SETUPMAPPING of one slot of a file, writable, at the same slot of the window.
fn setup_mapping_frame(node: u64, slot: u64) -> Frame {
    setup_mapping(node, [slot * SLOT, SLOT, 3, slot * SLOT])
}

fn getattr() -> Frame {
    Frame::new(GETATTR, 1).u32(0).u32(0).u64(0)
}

/// Checks that the daemon has sent no invalid message to the VMM.
#[track_caller]
fn check_no_faults(dax: &Dax) {
    assert_eq!(dax.window.faults(), Vec::<String>::new());
}

#[test]
fn silent_vmm_costs_one_eio_and_blocks_no_request() {
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules);
        dax.window.stop_replying();
        let guest = &mut dax.bench.guest;
        let began = Instant::now();
        let mapping = send(guest, 1, setup_mapping_frame(node, 0));
        for queue in [1, 2, 1, 2] {
            let sent = send(guest, queue, getattr());
            let (queue, memory) = guest.queue(queue).unwrap();
            let used = queue.wait(memory).unwrap();
            assert_eq!(used.head, u32::from(sent.head), "the mapping was answered first");
            let reply = queue.take_reply(memory, &sent, used.len).unwrap();
            check(&reply, pinhole_tests::frontend::frame::UNIQUE).unwrap();
        }
        let reply = wait_for_reply(guest, 1, &mapping);
        let took = began.elapsed();
        assert_eq!(errno(&reply), EIO);
        assert!(took >= WINDOW_PATIENCE && took < WINDOW_PATIENCE + AT_ONCE, "{took:?}");
        // Only the first request waits for a silent VMM. A later one fails at once, so its reply is
        // in the queue as soon as all threads of the daemon sleep again.
        let process = dax.bench.daemon.serving_id();
        let guest = &mut dax.bench.guest;
        let sent = send(guest, 1, setup_mapping_frame(node, 1));
        wait_until_at_rest(process);
        let (queue, memory) = guest.queue(1).unwrap();
        let used = queue.take_used(memory).unwrap().expect("the second request waits for the VMM too");
        assert_eq!(errno(&queue.take_reply(memory, &sent, used.len).unwrap()), EIO);
        dax.window.reply_normally();
        eventually("a mapping", || dax.map_writable(node, SLOT, 2 * SLOT, SLOT).unwrap() == 0);
        dax.window.store(2 * SLOT, b"late").unwrap();
        assert_eq!(&fs::read(dax.bench.host("file")).unwrap()[2 << 20..][..4], b"late");
        check_no_faults(&dax);
    }
}

#[test]
fn queue_stops_while_a_mapping_waits_for_the_vmm() {
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules);
        dax.window.stop_replying();
        let before = dax.window.counts().received;
        let began = Instant::now();
        let mapping = send(&mut dax.bench.guest, 1, setup_mapping_frame(node, 0));
        assert!(dax.window.wait_for_messages(before + 1));
        let base = dax.bench.guest.stop_queue(1).unwrap();
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        let reply = wait_for_reply(&mut dax.bench.guest, 1, &mapping);
        assert_eq!(errno(&reply), EIO, "a taken request is answered before the queue stops");
        dax.window.reply_normally();
        dax.bench.guest.resume_queue(1, base).unwrap();
        eventually("a mapping", || dax.map_writable(node, SLOT, SLOT, SLOT).unwrap() == 0);
        check_no_faults(&dax);
    }
}

#[test]
fn queue_stop_with_pending_memory_messages_is_prompt() {
    let (mut dax, node) = start_with_file(Rules::strict());
    for round in 0..20_u64 {
        let slot = round % 4;
        let began = Instant::now();
        let sent = send(&mut dax.bench.guest, 1, setup_mapping_frame(node, slot));
        let base = dax.bench.guest.stop_queue(1).unwrap();
        assert!(began.elapsed() < AT_ONCE, "round {round}: {:?}", began.elapsed());
        let (queue, memory) = dax.bench.guest.queue(1).unwrap();
        // The request was answered, or is still in the ring.
        let answered = queue.take_used(memory).unwrap().is_some();
        dax.bench.guest.resume_queue(1, base).unwrap();
        if !answered {
            wait_for_reply(&mut dax.bench.guest, 1, &sent);
        }
        eventually("a removal", || dax.unmap(node, &[(slot * SLOT, SLOT)]).unwrap() == 0);
    }
    dax.bench.is_alive().unwrap();
    check_no_faults(&dax);
}

#[test]
fn no_message_comes_after_the_last_queue_has_stopped() {
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules);
        for slot in 0..2 {
            assert_eq!(dax.map_writable(node, slot * SLOT, slot * SLOT, SLOT).unwrap(), 0);
        }
        dax.window.stop_replying();
        let received = dax.window.counts().received;
        for slot in 2..4 {
            send(&mut dax.bench.guest, 1, setup_mapping_frame(node, slot));
        }
        send(
            &mut dax.bench.guest,
            2,
            pinhole_tests::dax_vmm::remove_mapping(node, &[(0, SLOT), (SLOT, SLOT)]),
        );
        assert!(dax.window.wait_for_messages(received + 1));
        let bases = [0, 1, 2].map(|queue| dax.bench.guest.stop_queue(queue).unwrap());
        dax.window.expect_nothing(true);
        dax.window.reply_normally();
        wait_until_at_rest(dax.bench.daemon.serving_id());
        assert_eq!(dax.window.counts().received, received + 1, "an unexpected message");
        check_no_faults(&dax);
        dax.window.expect_nothing(false);
        for (queue, base) in bases.into_iter().enumerate() {
            dax.bench.guest.resume_queue(queue, base).unwrap();
        }
        // The daemon now answers the requests that it had not taken when the queues stopped.
        for (queue, count) in [(1, 2), (2, 1)] {
            let (queue, memory) = dax.bench.guest.queue(queue).unwrap();
            for _ in 0..count {
                queue.wait(memory).unwrap();
            }
        }
        dax.bench.is_alive().unwrap();
        eventually("a mapping", || dax.map_writable(node, 0, 7 * SLOT, SLOT).unwrap() == 0);
        check_no_faults(&dax);
    }
}

#[test]
fn death_of_a_vmm_with_a_waiting_mapping_leaks_nothing() {
    let arguments: Vec<&str> = WINDOW.into_iter().chain(["--keep-listening"]).collect();
    let (folder, daemon) = Bench::serve(&arguments).unwrap();
    fs::write(folder.path().join("share/file"), vec![1; 4 << 20]).unwrap();
    let mut first = None;
    for round in 0..20 {
        let (mut guest, window) = connect(daemon.socket(), Setup::default(), Rules::strict()).unwrap();
        guest.init().unwrap();
        let sent = send(&mut guest, 1, Frame::new(LOOKUP, 1).name("file"));
        let found = wait_for_reply(&mut guest, 1, &sent);
        let node = u64_at(found.success().unwrap(), 0).unwrap();
        window.stop_replying();
        let received = window.counts().received;
        send(&mut guest, 1, setup_mapping_frame(node, 0));
        assert!(window.wait_for_messages(received + 1));
        assert_eq!(window.faults(), Vec::<String>::new());
        let now = Footprint::of(daemon.serving_id()).unwrap();
        match first {
            None if round == 4 => first = Some(now),
            None => {}
            // A thread of the previous round may still run.
            Some(Footprint { threads, descriptors, .. }) => {
                assert!(
                    now.threads <= threads + 2 && now.descriptors <= descriptors + 2,
                    "{first:?} {now:?}"
                );
            }
        }
    }
}

#[test]
fn refused_mapping_is_eio_and_the_next_is_tried() {
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules);
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.window.refuse();
        assert_eq!(dax.map_writable(node, SLOT, SLOT, SLOT).unwrap(), EIO);
        assert_eq!(dax.unmap(node, &[(0, SLOT)]).unwrap(), EIO);
        dax.window.reply_normally();
        assert_eq!(dax.map_writable(node, SLOT, SLOT, SLOT).unwrap(), 0);
        assert_eq!(
            dax.map_writable(node, 2 * SLOT, 0, SLOT).unwrap(),
            0,
            "mapping over one that the VMM had refused to remove"
        );
        let number = (2 * SLOT / 4096).to_le_bytes();
        assert_eq!(dax.window.load(0, 8).unwrap(), number);
        check_no_faults(&dax);
    }
}

#[test]
fn closed_back_channel_fails_only_mappings() {
    let (mut dax, node) = start_with_file(Rules::mapping());
    dax.window.close_channel().unwrap();
    let began = Instant::now();
    assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), EIO);
    assert!(began.elapsed() < WINDOW_PATIENCE, "the daemon waited for a closed channel");
    dax.bench.is_alive().unwrap();
    // The VMM opens another channel, and the guest boots again.
    let window = Window::open(&mut dax.bench.guest, Rules::mapping()).unwrap();
    dax.window = window;
    let reply = dax.bench.guest.init().unwrap();
    assert!(reply.flags.contains(InitFlags::HAS_INODE_DAX), "{}", dax.bench.daemon.stderr());
    let node = dax.look_up("file").unwrap().node;
    assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
    check_no_faults(&dax);
}

/// Connects as a VMM that lacks the protocol features `features`.
fn connect_without(
    socket: &std::path::Path,
    features: VhostUserProtocolFeatures,
) -> (Frontend, Option<Window>) {
    let mut guest = Frontend::greet(socket).unwrap();
    let setup = Setup::default();
    let connection = guest.connection();
    connection.get_features().unwrap();
    connection.set_features(setup.features | 1 << 32 | 1 << 30).unwrap();
    let offered = connection.get_protocol_features().unwrap();
    connection.set_protocol_features(offered - features).unwrap();
    let has_window = !features.contains(VhostUserProtocolFeatures::SHMEM);
    let window = has_window.then(|| Window::open(&mut guest, Rules::mapping()).unwrap());
    guest.share_memory().unwrap();
    for index in 0..setup.queues {
        guest.start_queue(index, setup).unwrap();
    }
    (guest, window)
}

#[test]
fn without_acknowledged_messages_there_is_no_dax() {
    for missing in [VhostUserProtocolFeatures::REPLY_ACK, VhostUserProtocolFeatures::SHMEM] {
        let (folder, daemon) = Bench::serve(&WINDOW).unwrap();
        fs::write(folder.path().join("share/file"), vec![1; 4 << 20]).unwrap();
        let (guest, window) = connect_without(daemon.socket(), missing);
        let mut bench = Bench::of(guest, daemon, folder);
        let agreed = bench.guest.init().unwrap();
        let dax = InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX;
        assert!(!agreed.flags.intersects(dax), "{missing:?}");
        let refused = bench.errno(setup_mapping(1, [0, SLOT, 2, 0]), 0).unwrap();
        assert!([ENOSYS, EIO].contains(&refused), "{missing:?}: {refused}");
        if let Some(window) = window {
            assert_eq!((window.counts().mapped, window.faults()), (0, vec![]));
        }
        bench.is_alive().unwrap();
    }
}

#[test]
fn failed_upgrade_keeps_the_mapping_where_overlap_is_refused() {
    let rules =
        Rules { overlap: pinhole_tests::dax_vmm::Overlap::Refused, exact_unmap: true, ..Rules::mapping() };
    let (mut dax, node) = start_with_file(rules);
    assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
    assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
    dax.window.store(0, b"x").unwrap();
    check_no_faults(&dax);
    // Do the same in a read-only share. The upgrade fails, and the mapping stays.
    let mut dax = Dax::new(rules, &[WINDOW[0], "--profile=rootfs"]).unwrap();
    dax.file("file", SLOT).unwrap();
    let node = dax.look_up("file").unwrap().node;
    assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
    assert_ne!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
    assert_eq!(dax.window.load(4096, 8).unwrap(), 1_u64.to_le_bytes());
    assert_eq!(dax.window.store(0, b"x"), Err(Errno::FAULT));
    assert_eq!(rules.protection, Protection::AsAsked);
}

#[test]
fn refused_upgrade_keeps_the_old_mapping() {
    let (mut dax, node) = start_with_file(Rules::mapping());
    assert_eq!(dax.map(node, SLOT, 0, SLOT).unwrap(), 0);
    dax.window.refuse_writable();
    assert_eq!(dax.map_writable(node, SLOT, 0, SLOT).unwrap(), EIO);
    assert_eq!(dax.window.load(0, 8).unwrap(), (SLOT / 4096).to_le_bytes());
    dax.window.reply_normally();
    assert_eq!(dax.map_writable(node, SLOT, 0, SLOT).unwrap(), 0);
    dax.window.store(0, b"x").unwrap();
    check_no_faults(&dax);
}

#[test]
fn invalid_message_from_vmm_is_eio_until_new_channel() {
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules);
        dax.window.send_invalid_replies();
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), EIO);
        dax.bench.is_alive().unwrap();
        assert_eq!(dax.map_writable(node, 0, SLOT, SLOT).unwrap(), EIO);
        dax.window = Window::open(&mut dax.bench.guest, Rules { announces_memory: false, ..rules }).unwrap();
        let agreed = dax.bench.guest.init().unwrap();
        assert!(agreed.flags.contains(InitFlags::HAS_INODE_DAX), "{}", dax.bench.daemon.stderr());
        let node = dax.look_up("file").unwrap().node;
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        check_no_faults(&dax);
    }
}

#[test]
fn flood_of_mappings_for_a_silent_vmm_is_bounded() {
    let (mut dax, node) = start_with_file(Rules::strict());
    let before = dax.bench.footprint().unwrap();
    dax.window.stop_replying();
    let guest = &mut dax.bench.guest;
    let asked = Instant::now();
    let flood: Vec<Sent> =
        (0..50).map(|number| send(guest, 1, setup_mapping_frame(node, number % 8))).collect();
    let open = send(guest, 2, Frame::new(OPEN_FILE, node).u32(OFlags::RDWR.bits()).u32(0));
    let opened = wait_for_reply(guest, 2, &open);
    let (queue, memory) = guest.queue(1).unwrap();
    assert_eq!(queue.take_used(memory).unwrap(), None, "a request of the flood was answered before OPEN");
    let handle = u64_at(opened.success().unwrap(), 0).unwrap();
    for sent in &flood {
        let refused = errno(&wait_for_reply(guest, 1, sent));
        assert_ne!(refused, 0, "a silent VMM maps nothing");
    }
    assert!(asked.elapsed() < WINDOW_PATIENCE + AT_ONCE, "the requests waited one after another");
    let release = Frame::new(RELEASE, node).u64(handle).u32(0).u32(0).u64(0);
    dax.bench.body(release, 0).unwrap();
    dax.window.reply_normally();
    eventually("a mapping", || dax.map_writable(node, 0, 0, SLOT).unwrap() == 0);
    let after = dax.bench.footprint().unwrap();
    // QEMU announces each mapping as guest memory, for which the daemon has one descriptor. There
    // are 8 slots.
    assert!(after.descriptors <= before.descriptors + 10, "{before:?} {after:?}");
    // A thread that was started on demand ends when it has been idle for a while.
    eventually("no thread of the requests is left", || {
        dax.bench.footprint().unwrap().threads <= before.threads
    });
    check_no_faults(&dax);
}

#[test]
fn requests_wait_for_a_slow_vmm_that_replies() {
    let (mut dax, node) = start_with_file(Rules::strict());
    let slots: Vec<(u64, u64)> = (0..7).map(|slot| (slot * SLOT, SLOT)).collect();
    for (at, _) in &slots {
        assert_eq!(dax.map_writable(node, at % (4 * SLOT), *at, SLOT).unwrap(), 0);
    }
    // The seven replies take longer than `WINDOW_PATIENCE` together, but each takes less.
    dax.window.delay_replies(WINDOW_PATIENCE / 6);
    let received = dax.window.counts().received;
    let guest = &mut dax.bench.guest;
    let removal = send(guest, 1, pinhole_tests::dax_vmm::remove_mapping(node, &slots));
    assert!(dax.window.wait_for_messages(received + 1), "the removal has not begun");
    let mapping = send(guest, 2, setup_mapping_frame(node, 0));
    let began = Instant::now();
    assert_eq!(errno(&wait_for_reply(guest, 1, &removal)), 0);
    assert_eq!(errno(&wait_for_reply(guest, 2, &mapping)), 0);
    assert!(began.elapsed() > WINDOW_PATIENCE);
    assert_eq!(dax.window.places(), [(0, SLOT)]);
    check_no_faults(&dax);
}

#[test]
fn other_queues_use_the_window_after_one_stops() {
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules);
        dax.bench.guest.stop_queue(2).unwrap();
        for slot in 0..4 {
            assert_eq!(dax.map_writable(node, slot * SLOT, slot * SLOT, SLOT).unwrap(), 0);
            std::thread::park_timeout(Duration::from_millis(100));
        }
        check_no_faults(&dax);
    }
}

#[test]
fn slot_under_removal_does_not_count_as_mapped() {
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules);
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.window.stop_replying();
        let received = dax.window.counts().received;
        let process = dax.bench.daemon.serving_id();
        let guest = &mut dax.bench.guest;
        // A mapping of slot 1 is in progress. The removal of slot 0 waits for it. Then the guest
        // maps slot 0 again.
        let other = send(guest, 0, setup_mapping_frame(node, 1));
        assert!(dax.window.wait_for_messages(received + 1));
        let removal = send(guest, 2, pinhole_tests::dax_vmm::remove_mapping(node, &[(0, SLOT)]));
        wait_until_at_rest(process);
        let again = send(guest, 1, setup_mapping_frame(node, 0));
        wait_until_at_rest(process);
        dax.window.reply_normally();
        let first = errno(&wait_for_reply(guest, 0, &other));
        let removed = errno(&wait_for_reply(guest, 2, &removal));
        let mapped = errno(&wait_for_reply(guest, 1, &again));
        assert_eq!((first, removed, mapped), (0, 0, 0));
        dax.window.load(0, 1).unwrap();
        check_no_faults(&dax);
    }
}
