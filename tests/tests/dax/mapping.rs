//! Does the DAX window show the guest the current pages of a file?
//!
//! The tests load and store through the window, and compare with the file on the host after each
//! kind of change. Most tests run with two VMMs: one has the rules of QEMU, and the other one maps
//! over existing mappings, as crosvm does.

use pinhole_protocol::InitFlags;
use pinhole_tests::dax_vmm::{Dax, RecordedMessage, Rules, connect};
use pinhole_tests::frontend::frame::opcode::{
    CREATE, DESTROY, FALLOCATE, FORGET, FSYNC, RENAME, SETATTR, UNLINK, WRITE,
};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Bench, OUT_HEADER_LEN, Setup, eventually};
use pinhole_tests::linux::O_RDWR;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::FileExt as _;
use vhost::vhost_user::VhostUserFrontend as _;

/// Length of a slot in bytes. Linux maps whole slots, and the daemon announces them as the
/// alignment.
const SLOT: u64 = 2 << 20;
/// Number of slots of the window.
const SLOTS: u64 = 8;
/// Arguments of the daemon for a window of 8 slots that is used for every file.
const WINDOW: [&str; 2] = ["--dax-window=16M", "--dax=always"];

/// Rules of the two VMMs.
const VMM_RULES: [Rules; 2] = [Rules::strict(), Rules::mapping()];

/// Calls `check` once for each VMM, with a share that has the file `file` of `slots` slots. `check`
/// gets the node id of the file and a file handle for reading and writing.
fn with_each_vmm(slots: u64, check: impl Fn(&mut Dax, u64, u64)) {
    for rules in VMM_RULES {
        let mut dax = Dax::new(rules, &WINDOW).unwrap();
        dax.file("file", slots * SLOT).unwrap();
        let (node, handle) = dax.open("file", O_RDWR).unwrap();
        dax.window.take_messages();
        check(&mut dax, node, handle);
        dax.bench.is_alive().unwrap();
        assert_eq!(dax.window.faults(), Vec::<String>::new(), "{rules:?}");
    }
}

/// Returns the number that the page at the offset `at` of the window begins with. [`Dax::file`]
/// stores in each page its index in the file.
fn page_number(dax: &Dax, at: u64) -> u64 {
    u64::from_le_bytes(dax.window.load(at, 8).unwrap().try_into().unwrap())
}

/// Returns `len` bytes of a file from the offset `at` on, as the host reads them.
fn read_on_host(dax: &Dax, name: &str, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fs::File::open(dax.bench.host(name)).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Returns whether the daemon has sent no message since the last call that removes a mapping.
fn only_mapped(dax: &Dax) -> bool {
    let messages = dax.window.take_messages();
    messages.iter().all(|message| message.map)
}

#[test]
fn window_and_host_see_each_others_writes() {
    with_each_vmm(2, |dax, node, _| {
        assert_eq!(dax.map_writable(node, 0, SLOT, SLOT).unwrap(), 0);
        dax.window.store(SLOT + 100, b"stored").unwrap();
        assert_eq!(read_on_host(dax, "file", 100, 6), b"stored");
        let host = fs::OpenOptions::new().write(true).open(dax.bench.host("file")).unwrap();
        host.write_all_at(b"hosted", 5000).unwrap();
        assert_eq!(dax.window.load(SLOT + 5000, 6).unwrap(), b"hosted");
    });
}

#[test]
fn window_agrees_with_read_and_write_requests() {
    with_each_vmm(1, |dax, node, handle| {
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.window.store(10, b"stored").unwrap();
        let read = Frame::new(15, node).u64(handle).u64(10).u32(6).u32(0).u64(0).u32(O_RDWR).u32(0);
        assert_eq!(dax.bench.body(read, 6).unwrap(), b"stored");
        let write = Frame::new(WRITE, node).u64(handle).u64(20).u32(7).u32(0).u64(0).u32(O_RDWR).u32(0);
        dax.bench.body(write.bytes(b"written"), 8).unwrap();
        assert_eq!(dax.window.load(20, 7).unwrap(), b"written");
    });
}

#[test]
fn each_slot_has_the_requested_part_of_the_file() {
    with_each_vmm(4, |dax, node, _| {
        for (at, from) in [(0, 3), (1, 0), (2, 2), (7, 1)] {
            assert_eq!(dax.map(node, from * SLOT, at * SLOT, SLOT).unwrap(), 0);
        }
        for (at, from) in [(0, 3), (1, 0), (2, 2), (7, 1)] {
            assert_eq!(page_number(dax, at * SLOT), from * SLOT / 4096);
            assert_eq!(page_number(dax, at * SLOT + SLOT - 4096), (from + 1) * SLOT / 4096 - 1);
        }
        // Map several slots at once, three empty ones and one that is mapped.
        assert_eq!(dax.map(node, 0, 4 * SLOT, 4 * SLOT).unwrap(), 0);
        let pages = [4, 5, 6, 7].map(|at| page_number(dax, at * SLOT));
        assert_eq!(pages, [0, 1, 2, 3].map(|from| from * SLOT / 4096));
    });
}

#[test]
fn repeated_mapping_sends_no_message() {
    with_each_vmm(1, |dax, node, _| {
        assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
        let before = dax.window.counts().received;
        for _ in 0..3 {
            assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
        }
        assert_eq!(dax.window.counts().received, before);
    });
}

#[test]
fn read_mapping_is_upgraded_in_place() {
    with_each_vmm(1, |dax, node, _| {
        assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
        assert_eq!(page_number(dax, 4096), 1);
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.window.store(4096, b"upgraded").unwrap();
        assert_eq!(read_on_host(dax, "file", 4096, 8), b"upgraded");
        assert_eq!(dax.window.places(), [(0, SLOT)]);
        assert!(only_mapped(dax), "the daemon removed the old mapping first");
    });
}

#[test]
fn vmm_gets_read_only_descriptors_until_the_guest_writes() {
    let mut dax = Dax::new(Rules::greedy(), &WINDOW).unwrap();
    dax.file("file", SLOT).unwrap();
    let node = dax.look_up("file").unwrap().node;
    dax.window.take_messages();
    assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
    assert_eq!(dax.window.store(0, b"x"), Err(Errno::FAULT));
    assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
    dax.window.store(0, b"x").unwrap();
    let descriptors: Vec<bool> =
        dax.window.take_messages().iter().map(|message| message.writable_descriptor).collect();
    assert_eq!(descriptors, [false, true]);
}

#[test]
fn several_ranges_are_removed_by_one_request() {
    with_each_vmm(4, |dax, node, _| {
        for slot in 0..4 {
            assert_eq!(dax.map_writable(node, slot * SLOT, slot * SLOT, SLOT).unwrap(), 0);
        }
        dax.window.take_messages();
        assert_eq!(dax.unmap(node, &[(0, SLOT), (3 * SLOT, SLOT), (SLOT, SLOT)]).unwrap(), 0);
        assert_eq!(dax.window.places(), [(2 * SLOT, SLOT)]);
        assert_eq!(dax.window.load(0, 1), Err(Errno::FAULT));
        assert_eq!(page_number(dax, 2 * SLOT), 2 * SLOT / 4096);
        let messages: Vec<RecordedMessage> = dax.window.take_messages();
        assert!(
            messages.len() == 3 && messages.iter().all(|message| !message.map && message.accepted),
            "{messages:?}"
        );
        assert_eq!(
            dax.unmap(node, &[(0, SLOT), (2 * SLOT, SLOT)]).unwrap(),
            0,
            "to remove a range without a mapping must succeed"
        );
        assert_eq!(dax.window.places(), []);
    });
}

#[test]
fn reused_slot_has_the_new_file() {
    with_each_vmm(1, |dax, node, _| {
        dax.file("other", 2 * SLOT).unwrap();
        let (other, _) = dax.open("other", O_RDWR).unwrap();
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        assert_eq!(
            dax.map_writable(other, SLOT, 0, SLOT).unwrap(),
            0,
            "the old mapping was not removed before"
        );
        assert_eq!(page_number(dax, 0), SLOT / 4096);
        dax.window.store(0, b"to the other").unwrap();
        assert_eq!(read_on_host(dax, "other", SLOT, 12), b"to the other");
        assert_eq!(read_on_host(dax, "file", 0, 8), [0; 8]);
    });
}

#[test]
fn destroy_removes_all_mappings() {
    with_each_vmm(2, |dax, node, _| {
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        assert_eq!(dax.bench.errno(Frame::new(DESTROY, 1), 0).unwrap(), 0);
        eventually("an empty window", || dax.window.places().is_empty());
        dax.bench.guest.init().unwrap();
        let (node, _) = dax.open("file", O_RDWR).unwrap();
        assert_eq!(dax.map_writable(node, SLOT, 0, SLOT).unwrap(), 0);
        assert_eq!(page_number(dax, 0), SLOT / 4096);
    });
}

#[test]
fn guest_that_reboots_without_destroy_finds_empty_window() {
    with_each_vmm(2, |dax, node, _| {
        for slot in 0..2 {
            assert_eq!(dax.map_writable(node, slot * SLOT, slot * SLOT, SLOT).unwrap(), 0);
        }
        dax.bench.guest.init().unwrap();
        assert_eq!(dax.window.places(), []);
        let (node, _) = dax.open("file", O_RDWR).unwrap();
        assert_eq!(dax.map_writable(node, SLOT, 0, SLOT).unwrap(), 0);
        assert_eq!((page_number(dax, 0), dax.window.places()), (SLOT / 4096, vec![(0, SLOT)]));
    });
}

#[test]
fn every_slot_can_be_mapped_after_a_device_reset() {
    with_each_vmm(2, |dax, node, _| {
        // Map two slots by one request. After the reset, the test maps only one of them.
        assert_eq!(dax.map_writable(node, 0, 0, 2 * SLOT).unwrap(), 0);
        dax.window.expect_nothing(true);
        for queue in 0..Setup::default().queues {
            dax.bench.guest.stop_queue(queue).unwrap();
        }
        dax.bench.guest.connection().reset_device().unwrap();
        dax.bench.guest.negotiate(Setup::default().features).unwrap();
        dax.window.reset().unwrap();
        dax.bench.guest.share_memory().unwrap();
        dax.window.expect_nothing(false);
        for queue in 0..Setup::default().queues {
            dax.bench.guest.start_queue(queue, Setup::default()).unwrap();
        }
        dax.bench.guest.init().unwrap();
        let (node, _) = dax.open("file", O_RDWR).unwrap();
        assert_eq!(dax.map_writable(node, SLOT, 0, SLOT).unwrap(), 0);
        assert_eq!((page_number(dax, 0), dax.window.places()), (SLOT / 4096, vec![(0, SLOT)]));
    });
}

#[test]
fn window_is_empty_after_the_vmm_connects_again() {
    for rules in VMM_RULES {
        let arguments: Vec<&str> = WINDOW.into_iter().chain(["--keep-listening"]).collect();
        let (folder, daemon) = Bench::serve(&arguments).unwrap();
        for round in 0..3 {
            let (mut guest, window) = connect(daemon.socket(), Setup::default(), rules).unwrap();
            guest.init().unwrap();
            fs::write(folder.path().join("share/file"), vec![round; 2 << 20]).unwrap();
            let looked =
                guest.raw(1, &Frame::new(1, 1).name("file").message(), OUT_HEADER_LEN + 128).unwrap();
            let node = u64_at(looked.success().unwrap(), 0).unwrap();
            let setup = pinhole_tests::dax_vmm::setup_mapping(node, [0, SLOT, 3, 0]);
            let mapped = guest.raw(1, &setup.message(), OUT_HEADER_LEN).unwrap();
            assert_eq!(mapped.error().unwrap(), None, "round {round}: {}", daemon.stderr());
            assert_eq!(window.load(SLOT - 1, 1).unwrap(), [round]);
            assert_eq!(window.faults(), Vec::<String>::new());
            drop(guest);
        }
    }
}

#[test]
fn mapping_outlives_file_handle_and_names() {
    with_each_vmm(1, |dax, node, handle| {
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.release(node, handle).unwrap();
        dax.window.store(0, b"released").unwrap();
        assert_eq!(read_on_host(dax, "file", 0, 8), b"released");
        let rename = Frame::new(RENAME, 1).u64(1).name("file").name("moved");
        assert_eq!(dax.bench.errno(rename, 0).unwrap(), 0);
        dax.window.store(0, b"renamed!").unwrap();
        assert_eq!(read_on_host(dax, "moved", 0, 8), b"renamed!");
        let kept = fs::File::open(dax.bench.host("moved")).unwrap();
        assert_eq!(dax.bench.errno(Frame::new(UNLINK, 1).name("moved"), 0).unwrap(), 0);
        dax.window.store(0, b"unlinked").unwrap();
        let mut seen = [0; 8];
        kept.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"unlinked");
        assert_eq!(dax.unmap(node, &[(0, SLOT)]).unwrap(), 0);
    });
}

#[test]
fn truncated_mapped_file_faults_and_grows_back_with_zeros() {
    with_each_vmm(1, |dax, node, handle| {
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        // FATTR_SIZE and FATTR_FH.
        let size = |len: u64| {
            let frame = Frame::new(SETATTR, node).u32(1 << 3 | 1 << 6).u32(0).u64(handle).u64(len);
            frame.bytes(&[0; 64])
        };
        dax.bench.body(size(4096), 104).unwrap();
        assert_eq!(dax.window.load(4096, 1), Err(Errno::FAULT));
        assert_eq!(dax.window.store(SLOT - 1, b"x"), Err(Errno::FAULT));
        assert_eq!(page_number(dax, 0), 0);
        dax.bench.is_alive().unwrap();
        dax.bench.body(size(SLOT), 104).unwrap();
        assert_eq!(dax.window.load(4096, 8).unwrap(), [0; 8]);
        fs::OpenOptions::new().write(true).open(dax.bench.host("file")).unwrap().set_len(0).unwrap();
        assert_eq!(dax.window.load(0, 1), Err(Errno::FAULT));
        dax.bench.is_alive().unwrap();
    });
}

#[test]
fn punched_hole_in_a_mapped_file_loads_as_zeros() {
    with_each_vmm(1, |dax, node, handle| {
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        assert_eq!(page_number(dax, 4096), 1);
        // FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
        let punch = Frame::new(FALLOCATE, node).u64(handle).u64(4096).u64(4096).u32(3).u32(0);
        assert_eq!(dax.bench.errno(punch, 0).unwrap(), 0);
        assert_eq!((page_number(dax, 4096), page_number(dax, 8192)), (0, 2));
        let host = fs::OpenOptions::new().write(true).open(dax.bench.host("file")).unwrap();
        let flags = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
        rustix::fs::fallocate(&host, flags, 8192, 4096).unwrap();
        assert_eq!(page_number(dax, 8192), 0);
        dax.window.store(8192, b"filled").unwrap();
        assert_eq!(read_on_host(dax, "file", 8192, 6), b"filled");
    });
}

#[test]
fn fsync_after_stores_succeeds() {
    with_each_vmm(1, |dax, node, handle| {
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.window.store(0, &vec![7; 2 << 20]).unwrap();
        let fsync = Frame::new(FSYNC, node).u64(handle).u32(0).u32(0);
        assert_eq!(dax.bench.errno(fsync, 0).unwrap(), 0);
        assert_eq!(read_on_host(dax, "file", SLOT - 8, 8), [7; 8]);
    });
}

#[test]
fn file_created_by_the_guest_can_be_mapped() {
    with_each_vmm(1, |dax, _, _| {
        let create = Frame::new(CREATE, 1).u32(O_RDWR).u32(0o100_644).u32(0).u32(0).name("made");
        let body = dax.bench.body(create, 128 + 16).unwrap();
        let node = u64_at(&body, 0).unwrap();
        fs::OpenOptions::new().write(true).open(dax.bench.host("made")).unwrap().set_len(SLOT).unwrap();
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.window.store(0, b"made").unwrap();
        assert_eq!(read_on_host(dax, "made", 0, 4), b"made");
    });
}

#[test]
fn two_guests_share_pages_without_requests() {
    let mut first = Dax::new(Rules::mapping(), &WINDOW).unwrap();
    first.file("file", SLOT).unwrap();
    let (folder, daemon) = Bench::serve(&WINDOW).unwrap();
    fs::hard_link(first.bench.host("file"), folder.path().join("share/file")).unwrap();
    let (guest, window) = connect(daemon.socket(), Setup::default(), Rules::strict()).unwrap();
    let mut second = Dax { window, bench: Bench::of(guest, daemon, folder) };
    second.bench.guest.init().unwrap();
    for dax in [&mut first, &mut second] {
        let node = dax.look_up("file").unwrap().node;
        assert_eq!(dax.map_writable(node, 0, SLOT, SLOT).unwrap(), 0);
    }
    let frames = [&first, &second].map(|dax| dax.window.frame(SLOT + 4096).unwrap());
    assert_eq!(frames[0], frames[1], "the guests map different physical pages");
    first.window.store(SLOT, b"from the first").unwrap();
    assert_eq!(second.window.load(SLOT, 14).unwrap(), b"from the first");
    second.window.store(SLOT, b"and back").unwrap();
    assert_eq!(first.window.load(SLOT, 14).unwrap(), b"and back first");
}

#[test]
fn largest_window_can_be_filled_and_emptied() {
    with_each_vmm(SLOTS, |dax, node, _| {
        let all: Vec<(u64, u64)> = (0..SLOTS).map(|slot| (slot * SLOT, SLOT)).collect();
        for (at, len) in &all {
            assert_eq!(dax.map_writable(node, SLOTS * SLOT - len - at, *at, *len).unwrap(), 0);
        }
        assert_eq!(dax.window.places(), all);
        for (at, len) in &all {
            assert_eq!(page_number(dax, *at), (SLOTS * SLOT - len - at) / 4096);
        }
        assert_eq!(dax.unmap(node, &all).unwrap(), 0);
        assert_eq!(dax.window.places(), []);
    });
}

#[test]
fn mapping_of_a_forgotten_node_stays_until_removed() {
    with_each_vmm(1, |dax, node, handle| {
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.release(node, handle).unwrap();
        let forget = Frame::new(FORGET, node).u64(100).message();
        assert!(dax.bench.guest.raw(0, &forget, 0).unwrap().is_unanswered());
        dax.window.store(0, b"still").unwrap();
        assert_eq!(read_on_host(dax, "file", 0, 5), b"still");
        assert_eq!(
            dax.unmap(node, &[(0, SLOT)]).unwrap(),
            0,
            "a removal with a forgotten node id must succeed"
        );
        assert_eq!(dax.window.places(), []);
    });
}

#[test]
fn window_is_offered_only_to_guests_that_request_it() {
    let mut dax = Dax::before_init(Rules::mapping(), &WINDOW).unwrap();
    let without = InitFlags::all() - (InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX);
    let reply = dax.bench.guest.init_with(without).unwrap();
    assert!(!reply.flags.intersects(InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX));
    assert_eq!(dax.window.counts().received, 0, "the daemon sent a needless message");
    let reply = dax.bench.guest.init().unwrap();
    assert!(reply.flags.contains(InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX));
    assert!(reply.map_alignment <= 21, "Linux refuses to mount with more");
    let reply = Bench::before_init(Setup::default(), &[]).unwrap().guest.init().unwrap();
    assert!(!reply.flags.intersects(InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX));
}

#[test]
fn files_are_mapped_without_a_pool() {
    for rules in VMM_RULES {
        let mut dax = Dax::new(rules, &[WINDOW[0], WINDOW[1], "--thread-pool-size=0"]).unwrap();
        dax.file("file", SLOT).unwrap();
        let node = dax.look_up("file").unwrap().node;
        assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
        dax.window.store(0, b"x").unwrap();
        assert_eq!(read_on_host(&dax, "file", 0, 1), b"x");
    }
}
