//! Can a guest do harm with its DAX window? The tests send invalid ranges, node ids that are not
//! regular files and many requests, and store to files that the guest must not write.

use pinhole_tests::dax_vmm::{Dax, Rules, remove_mapping, setup_mapping};
use pinhole_tests::frontend::eventually;
use pinhole_tests::frontend::frame::opcode::FORGET;
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::linux::{EINVAL, ENOENT, ESTALE};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

/// Length of a slot of the window in bytes.
const SLOT: u64 = 2 << 20;
/// Number of slots of the window.
const SLOTS: u64 = 8;
/// Length of the window in bytes.
const LEN: u64 = SLOTS * SLOT;
/// Arguments of the daemon for a window that is used for every file.
const WINDOW: [&str; 2] = ["--dax-window=16M", "--dax=always"];
/// Rules of the VMMs.
const VMM_RULES: [Rules; 3] = [Rules::strict(), Rules::mapping(), Rules::greedy()];

/// Starts a share with a file of four slots. Returns also the node id of the file.
fn start_with_file(rules: Rules, arguments: &[&str]) -> (Dax, u64) {
    let arguments: Vec<&str> = WINDOW.iter().chain(arguments).copied().collect();
    let mut dax = Dax::new(rules, &arguments).unwrap();
    dax.file("file", 4 * SLOT).unwrap();
    let node = dax.look_up("file").unwrap().node;
    dax.window.take_messages();
    (dax, node)
}

/// Checks that the daemon still answers, and has sent no invalid message to the VMM.
#[track_caller]
fn check_unharmed(dax: &mut Dax) {
    dax.bench.is_alive().unwrap();
    assert_eq!(dax.window.faults(), Vec::<String>::new());
}

/// Generator of random numbers that a seed repeats.
struct Seeded(u64);

impl Seeded {
    /// Returns the next number, which is less than `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

#[test]
fn wrong_range_is_einval_without_a_message() {
    for rules in VMM_RULES {
        let (mut dax, node) = start_with_file(rules, &[]);
        let received = dax.window.counts().received;
        let huge = [LEN, LEN + SLOT, 1 << 40, 1 << 63, u64::MAX - SLOT + 1, u64::MAX];
        let odd = [1, 4095, 4096, SLOT - 1, SLOT / 2, SLOT + 1, SLOT + 4096];
        for bad in huge.into_iter().chain(odd) {
            for (from, at, len) in [(0, bad, SLOT), (0, 0, bad), (0, SLOT, bad), (0, bad, bad)] {
                if len <= LEN && at < LEN && len % SLOT == 0 && at % SLOT == 0 && at + len <= LEN {
                    continue;
                }
                assert_eq!(dax.map(node, from, at, len).unwrap(), EINVAL, "{from:#x} {at:#x} {len:#x}");
                assert_eq!(dax.unmap(node, &[(at, len)]).unwrap(), EINVAL, "{at:#x} {len:#x}");
            }
        }
        for from in odd.into_iter().chain([(1 << 63) - SLOT, 1 << 63, u64::MAX - SLOT + 1, u64::MAX]) {
            assert_eq!(dax.map(node, from, 0, SLOT).unwrap(), EINVAL, "{from:#x}");
        }
        assert_eq!(dax.map(node, 0, 0, 0).unwrap(), EINVAL);
        assert_eq!(dax.unmap(node, &[(0, 0)]).unwrap(), EINVAL);
        assert_eq!(dax.window.counts().received, received);
        check_unharmed(&mut dax);
    }
}

#[test]
fn unknown_flags_map_nothing_writable() {
    for flags in [0, 4, 1 << 63, !1] {
        let (mut dax, node) = start_with_file(Rules::mapping(), &[]);
        let errno = dax.bench.errno(setup_mapping(node, [0, SLOT, flags, 0]), 0).unwrap();
        assert!([0, EINVAL].contains(&errno), "{flags:#x}: {errno}");
        assert_eq!(dax.window.store(0, b"x"), Err(Errno::FAULT), "{flags:#x}");
        check_unharmed(&mut dax);
    }
}

#[test]
fn removal_with_one_wrong_range_removes_nothing() {
    for rules in VMM_RULES {
        let (mut dax, node) = start_with_file(rules, &[]);
        for slot in 0..4 {
            assert_eq!(dax.map_writable(node, slot * SLOT, slot * SLOT, SLOT).unwrap(), 0);
        }
        assert_eq!(dax.map_writable(node, 0, 4 * SLOT, 2 * SLOT).unwrap(), 0);
        let places = dax.window.places();
        let good = (0, SLOT);
        for bad in [(LEN, SLOT), (SLOT, 1), (1, SLOT), (0, 0), (4 * SLOT, SLOT)] {
            for ranges in [[good, bad], [bad, good]] {
                assert_eq!(dax.unmap(node, &ranges).unwrap(), EINVAL, "{ranges:?}");
            }
        }
        assert_eq!(dax.map_writable(node, 0, 5 * SLOT, SLOT).unwrap(), EINVAL, "a part of a mapping");
        assert_eq!(dax.window.places(), places);
        check_unharmed(&mut dax);
    }
}

#[test]
fn removal_list_shorter_than_its_count_is_refused() {
    let (mut dax, node) = start_with_file(Rules::strict(), &[]);
    assert_eq!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0);
    for count in [1_u32, 2, 256, 257, u32::MAX] {
        let frame = Frame::new(49, node).u32(count);
        assert_ne!(dax.bench.errno(frame, 0).unwrap(), 0, "a list of {count} entries without any entry");
    }
    let frame = Frame::new(49, node).u32(u32::MAX).u64(0).u64(SLOT);
    assert_ne!(dax.bench.errno(frame, 0).unwrap(), 0);
    assert_eq!(dax.window.places(), [(0, SLOT)]);
    // A list with the same range 4000 times, which is more than Linux puts into one message.
    let many = vec![(0, SLOT); 4000];
    let errno = dax.bench.errno(remove_mapping(node, &many), 0).unwrap();
    assert!([0, EINVAL, 7].contains(&errno), "{errno}");
    assert!(dax.window.counts().received < 100);
    check_unharmed(&mut dax);
}

#[test]
fn only_regular_files_are_opened_for_mapping() {
    for rules in VMM_RULES {
        let (mut dax, _) = start_with_file(rules, &[]);
        let host = |name: &str| dax.bench.host(name);
        fs::create_dir(host("directory")).unwrap();
        std::os::unix::fs::symlink("file", host("link")).unwrap();
        let permissions = Mode::from(0o666);
        rustix::fs::mknodat(CWD, host("fifo"), FileType::Fifo, permissions, 0).unwrap();
        let zero = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(CWD, host("device"), FileType::CharacterDevice, permissions, zero).unwrap();
        let disk = fs::metadata("/").unwrap().dev();
        rustix::fs::mknodat(CWD, host("disk"), FileType::BlockDevice, permissions, disk).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(host("socket")).unwrap();
        let received = dax.window.counts().received;
        for name in ["directory", "link", "fifo", "device", "disk", "socket"] {
            let node = dax.look_up(name).unwrap().node;
            assert_ne!(dax.map(node, 0, 0, SLOT).unwrap(), 0, "{name}");
            assert_ne!(dax.map_writable(node, 0, 0, SLOT).unwrap(), 0, "{name}");
        }
        assert_ne!(dax.map(1, 0, 0, SLOT).unwrap(), 0, "the root");
        assert_eq!(dax.window.counts().received, received);
        check_unharmed(&mut dax);
    }
}

#[test]
fn unknown_node_is_not_mapped() {
    for rules in VMM_RULES {
        let (mut dax, node) = start_with_file(rules, &[]);
        for invented in [0, node + 1, node ^ 1 << 40, u64::MAX] {
            let errno = dax.map(invented, 0, 0, SLOT).unwrap();
            assert!([ENOENT, EINVAL, ESTALE].contains(&errno), "{invented:#x}: {errno}");
        }
        let forget = Frame::new(FORGET, node).u64(1).message();
        assert!(dax.bench.guest.raw(0, &forget, 0).unwrap().is_unanswered());
        let received = dax.window.counts().received;
        assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), ESTALE);
        assert_eq!(dax.window.counts().received, received);
        check_unharmed(&mut dax);
    }
}

#[test]
fn repeated_mapping_of_one_slot_leaks_nothing() {
    // `PINHOLE_DAX_TURNS=1000000` makes a million turns.
    let turns =
        std::env::var("PINHOLE_DAX_TURNS").ok().and_then(|turns| turns.parse().ok()).unwrap_or(20_000);
    for rules in [Rules::strict(), Rules::mapping()] {
        let (mut dax, node) = start_with_file(rules, &[]);
        let turn = |dax: &mut Dax| {
            assert_eq!(dax.map_writable(node, SLOT, 3 * SLOT, SLOT).unwrap(), 0);
            assert_eq!(dax.unmap(node, &[(3 * SLOT, SLOT)]).unwrap(), 0);
        };
        for _ in 0..100 {
            turn(&mut dax);
        }
        let before = dax.bench.footprint().unwrap();
        for _ in 0..turns / 2 {
            turn(&mut dax);
        }
        let after = dax.bench.footprint().unwrap();
        assert_eq!(after.descriptors, before.descriptors);
        // A thread that was started on demand ends when it has been idle for a while.
        eventually("no thread of the requests is left", || {
            dax.bench.footprint().unwrap().threads <= before.threads
        });
        assert!(after.anonymous_kib < before.anonymous_kib + 512, "{before:?} {after:?}");
        assert_eq!(dax.window.places(), []);
        check_unharmed(&mut dax);
    }
}

#[test]
fn window_matches_replies_after_random_requests() {
    let seed = 0x5eed_0da7;
    println!("seed {seed:#x}");
    for rules in [Rules::strict(), Rules::mapping()] {
        let mut random = Seeded(seed);
        let (mut dax, first) = start_with_file(rules, &[]);
        dax.file("second", 3 * SLOT + 5000).unwrap();
        let second = dax.look_up("second").unwrap().node;
        // Expected mapping of each slot of the window: the node id, and the slot of the file.
        let mut known: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for _ in 0..1500 {
            let [at, from, slots] = [SLOTS + 1, 5, 3].map(|bound| random.below(bound));
            let range = at..(at + slots).min(SLOTS);
            if random.below(3) == 0 {
                if dax.unmap(first, &[(at * SLOT, slots * SLOT)]).unwrap() == 0 {
                    known.retain(|slot, _| !range.contains(slot));
                }
            } else {
                let node = [first, second][usize::from(random.below(2) == 1)];
                let errno = match random.below(2) {
                    0 => dax.map(node, from * SLOT, at * SLOT, slots * SLOT).unwrap(),
                    _ => dax.map_writable(node, from * SLOT, at * SLOT, slots * SLOT).unwrap(),
                };
                match errno {
                    0 => known.extend(range.map(|slot| (slot, (node, from + slot - at)))),
                    EINVAL => {}
                    // The VMM refused the new mapping, after the daemon had removed the old one.
                    _ => known.retain(|slot, _| !range.contains(slot)),
                }
            }
            let places: u64 = dax.window.places().iter().map(|(_, len)| len / SLOT).sum();
            assert_eq!(places, known.len() as u64);
        }
        for (slot, (node, from)) in known {
            let slots = if node == first { 4 } else { 3 };
            let found = dax.window.load(slot * SLOT, 8);
            if from < slots {
                assert_eq!(u64::from_le_bytes(found.unwrap().try_into().unwrap()), from * SLOT / 4096);
            } else if node == first || from > slots {
                assert_eq!(found, Err(Errno::FAULT), "past the end of the file");
            }
        }
        check_unharmed(&mut dax);
    }
}

/// Maps the file `name` in every way, and checks that no store to the window succeeds.
fn check_stores_fail(dax: &mut Dax, name: &str) {
    let node = dax.look_up(name).unwrap().node;
    // Map for reading and for writing, in every order. A later request changes the mapping in
    // place.
    let orders = [[false, true], [true, false], [true, true], [false, false]];
    for (order, at) in orders.into_iter().zip((0..).step_by(2 << 20)) {
        for writable in order {
            if writable {
                assert_ne!(dax.map_writable(node, 0, at, SLOT).unwrap(), 0);
            } else {
                dax.map(node, 0, at, SLOT).unwrap();
            }
        }
        let every_flag = setup_mapping(node, [0, SLOT, u64::MAX, at]);
        assert_ne!(dax.bench.errno(every_flag, 0).unwrap(), 0);
    }
    for slot in 0..SLOTS {
        assert_eq!(dax.window.store(slot * SLOT + 64, b"gotcha"), Err(Errno::FAULT));
    }
    let messages = dax.window.take_messages();
    assert!(messages.iter().all(|message| !message.writable_descriptor), "{messages:?}");
}

#[test]
fn window_cannot_write_a_read_only_share() {
    for rules in VMM_RULES {
        let (mut dax, _) = start_with_file(rules, &["--profile=rootfs"]);
        let before = fs::read(dax.bench.host("file")).unwrap();
        check_stores_fail(&mut dax, "file");
        assert_eq!(fs::read(dax.bench.host("file")).unwrap(), before);
        check_unharmed(&mut dax);
    }
}

#[test]
fn window_cannot_write_a_file_made_read_only_by_rule() {
    let policy = tempfile::NamedTempFile::new().unwrap();
    let rule = "[[path]]\nmatch = \"/kept\"\naccess = [\"lookup\", \"stat\", \"read\", \"map-read\"]";
    fs::write(policy.path(), rule).unwrap();
    for rules in VMM_RULES {
        let (mut dax, writable) = start_with_file(rules, &["--policy", policy.path().to_str().unwrap()]);
        dax.file("kept", 4 * SLOT).unwrap();
        let before = fs::read(dax.bench.host("kept")).unwrap();
        check_stores_fail(&mut dax, "kept");
        // Map `kept` in a slot where a writable file was mapped. It must not become writable.
        assert_eq!(dax.map_writable(writable, 0, 7 * SLOT, SLOT).unwrap(), 0);
        dax.window.store(7 * SLOT, b"may").unwrap();
        let kept = dax.look_up("kept").unwrap().node;
        if dax.map(kept, 0, 7 * SLOT, SLOT).unwrap() == 0 {
            assert_eq!(dax.window.store(7 * SLOT, b"gotcha"), Err(Errno::FAULT));
        }
        assert_eq!(fs::read(dax.bench.host("kept")).unwrap(), before);
        check_unharmed(&mut dax);
    }
}

#[test]
fn read_only_mode_is_left_to_the_guests_kernel() {
    // As with OPEN, the daemon does not check the mode of the file. The guest mounts the share with
    // default_permissions, so its kernel does.
    let (mut dax, node) = start_with_file(Rules::mapping(), &[]);
    fs::set_permissions(dax.bench.host("file"), fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(dax.map(node, 0, 0, SLOT).unwrap(), 0);
    assert_eq!(dax.window.store(0, b"x"), Err(Errno::FAULT));
    check_unharmed(&mut dax);
}

#[test]
fn reused_slot_never_shows_the_old_file() {
    // The daemon must remove the old mapping before it replies, whether or not the VMM accepts a
    // mapping over an existing one.
    for rules in VMM_RULES {
        let (mut dax, node) = start_with_file(rules, &[]);
        fs::write(dax.bench.host("secret"), vec![0x55; 2 << 20]).unwrap();
        let body = dax.bench.body(Frame::new(1, 1).name("secret"), 128).unwrap();
        let secret = u64_at(&body, 0).unwrap();
        for _ in 0..50 {
            assert_eq!(dax.map_writable(secret, 0, 0, SLOT).unwrap(), 0);
            assert_eq!(dax.window.load(8, 1).unwrap(), [0x55]);
            assert_eq!(dax.map_writable(node, SLOT, 0, SLOT).unwrap(), 0);
            assert_eq!(dax.window.load(8, 1).unwrap(), [0]);
        }
        check_unharmed(&mut dax);
    }
}
