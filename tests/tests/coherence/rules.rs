//! Do the replies of each daemon keep the rules of docs/use/coherence.md?
//!
//! Two daemons share one directory, and processes of the host change it too. Each daemon has a
//! guest that is a test client: it sends single requests and caches nothing. The module `kernels`
//! tests what Linux does with the replies.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pinhole_protocol::{Created, Handle, InitFlags, NodeId, OpenFlags, OpenReplyFlags, RenameFlags};
use pinhole_tests::frontend::files::Files;
use rustix::io::Errno;
use tempfile::TempDir;

/// Shared directory with two guests, each with a daemon of its own.
struct TwoGuests {
    one: Files,
    other: Files,
    folder: TempDir,
}

impl TwoGuests {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let share = folder.path().join("share");
        fs::create_dir(&share).unwrap();
        let guest = || Files::new(&share, folder.path(), arguments).unwrap();
        let (one, other) = (guest(), guest());
        Self { one, other, folder }
    }

    fn host(&self, name: &str) -> PathBuf {
        self.folder.path().join("share").join(name)
    }
}

fn errno<T: std::fmt::Debug>(answer: io::Result<T>) -> Errno {
    Errno::from_io_error(&answer.unwrap_err()).unwrap()
}

/// Opens a file by its name as Linux does: after ESTALE, looks the name up again and sends a second
/// OPEN.
fn open_by_name(guest: &mut Files, name: &str, flags: OpenFlags) -> (NodeId, Handle) {
    let node = guest.lookup(name).unwrap().0.node;
    match guest.open(node, flags) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::STALE) => {
            let node = guest.lookup(name).unwrap().0.node;
            (node, guest.open(node, flags).unwrap().handle)
        }
        opened => (node, opened.unwrap().handle),
    }
}

fn read_by_name(guest: &mut Files, name: &str) -> Vec<u8> {
    let (node, handle) = open_by_name(guest, name, OpenFlags::empty());
    let bytes = guest.read(node, handle, (0, 65_536)).unwrap();
    guest.release(node, handle).unwrap();
    bytes
}

const RDWR: OpenFlags = OpenFlags::from_bits_retain(2);
/// `O_WRONLY` and `O_APPEND`.
const APPEND: OpenFlags = OpenFlags::from_bits_retain(1).union(OpenFlags::APPEND);

/// What the replies of a daemon let a guest cache. The parts are the timeouts of attributes, of
/// names and of missing names (`None`: not cached), and the flags in the replies to an OPEN for
/// reading and to an OPEN for appending.
type CacheReplies = (Duration, Duration, Option<Duration>, OpenReplyFlags, OpenReplyFlags);

/// Starts a daemon and collects its replies. Also returns the flags of the reply to INIT.
fn cache_replies(arguments: &[&str]) -> (CacheReplies, InitFlags) {
    let TwoGuests { mut one, folder, .. } = TwoGuests::new(arguments);
    fs::write(folder.path().join("share/file"), "text").unwrap();
    let (entry, times) = one.lookup("file").unwrap();
    assert_eq!(one.attributes(entry.node).unwrap().1, times.attr, "{arguments:?}");
    let absent = match one.lookup("none") {
        Ok((entry, times)) => {
            assert_eq!(entry.node, NodeId(0));
            Some(times.entry)
        }
        Err(error) => {
            assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
            None
        }
    };
    let reading = one.open(entry.node, OpenFlags::empty()).unwrap().flags;
    let appending = one.open(entry.node, APPEND).unwrap().flags;
    // Other flags, such as the one about FLUSH on close, have their own tests.
    let keeps = OpenReplyFlags::DIRECT_IO | OpenReplyFlags::KEEP_CACHE;
    ((times.attr, times.entry, absent, reading & keeps, appending & keeps), one.agreed.flags)
}

#[test]
fn each_mode_sets_its_timeouts_and_cache_flags() {
    let (nothing, second, day) = (Duration::ZERO, Duration::from_secs(1), Duration::from_hours(24));
    let (direct, keep) = (OpenReplyFlags::DIRECT_IO, OpenReplyFlags::KEEP_CACHE);
    let plain = OpenReplyFlags::empty();
    let (invalidates, maps) = (InitFlags::AUTO_INVAL_DATA, InitFlags::DIRECT_IO_ALLOW_MMAP);
    let links = InitFlags::CACHE_SYMLINKS;
    for (mode, expected, flags) in [
        ("strict", (nothing, nothing, None, direct, direct), invalidates | maps),
        ("auto", (second, second, None, plain, direct), invalidates | maps),
        ("exclusive", (day, day, Some(day), keep, keep), links | maps),
        ("never", (nothing, nothing, None, direct, direct), invalidates),
        ("metadata", (day, day, None, direct, direct), invalidates),
        ("always", (day, day, None, keep, keep), links | maps),
    ] {
        let (cache_replies, agreed) = cache_replies(&["--cache", mode]);
        assert_eq!(cache_replies, expected, "{mode}");
        assert_eq!(agreed & (invalidates | maps | links), flags, "{mode}");
    }
    let half = Duration::from_millis(500);
    let given = ["--cache=auto", "--attr-timeout=0.5", "--entry-timeout=0.5", "--negative-timeout=0.5"];
    assert_eq!(cache_replies(&given).0, (half, half, Some(half), plain, direct));
}

#[test]
fn open_after_growth_is_estale_once_then_succeeds() {
    let mut two = TwoGuests::new(&["--cache=auto"]);
    fs::write(two.host("file"), "1234").unwrap();
    let node = two.one.lookup("file").unwrap().0.node;
    let theirs = two.other.lookup("file").unwrap().0.node;
    let open = two.other.open(theirs, RDWR).unwrap();
    two.one.open(node, OpenFlags::empty()).unwrap();
    two.other.write((theirs, open.handle), (4, RDWR), b"5678").unwrap();
    assert_eq!(errno(two.one.open(node, OpenFlags::empty())), Errno::STALE);
    assert_eq!(two.one.lookup("file").unwrap().0.attr.size, 8);
    two.one.open(node, OpenFlags::empty()).unwrap();
    assert_eq!(two.one.attributes(node).unwrap().0.size, 8);
    two.one.open(node, OpenFlags::empty()).unwrap();
    // The writer knows its own write, so its open is not ESTALE.
    two.other.open(theirs, OpenFlags::empty()).unwrap();
    // A guest that has no path to look up sends the same OPEN again, which succeeds.
    two.other.write((theirs, open.handle), (8, RDWR), b"9").unwrap();
    assert_eq!(errno(two.one.open(node, OpenFlags::empty())), Errno::STALE);
    two.one.open(node, OpenFlags::empty()).unwrap();
}

/// Gives the name `file` to a new file with the content `text`, in one of three ways. The old file
/// keeps another name. The ways are: 0, rename the old file first; 1, give the old file a second
/// link first; 2, exchange the two names.
fn replace_file(folder: &Path, way: usize, text: &str) {
    let (file, new, kept) = (folder.join("file"), folder.join("new"), folder.join(format!("kept-{way}")));
    fs::write(&new, text).unwrap();
    match way {
        0 => fs::rename(&file, &kept).unwrap(),
        1 => fs::hard_link(&file, &kept).unwrap(),
        _ => {
            let (here, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
            return rustix::fs::renameat_with(here, &file, here, &new, exchange).unwrap();
        }
    }
    fs::rename(new, file).unwrap();
}

#[test]
fn open_of_a_replaced_name_is_estale() {
    for way in 0..3 {
        let mut two = TwoGuests::new(&["--cache=auto"]);
        fs::write(two.host("file"), "1234").unwrap();
        let node = two.one.lookup("file").unwrap().0.node;
        two.one.open(node, OpenFlags::empty()).unwrap();
        replace_file(&two.host(""), way, "5678");
        assert_eq!(errno(two.one.open(node, OpenFlags::empty())), Errno::STALE, "way {way}");
        let found = two.one.lookup("file").unwrap().0.node;
        assert_ne!(found, node);
        let open = two.one.open(found, RDWR).unwrap();
        // A guest that has written and closed the file itself gets ESTALE too.
        two.one.write((found, open.handle), (0, RDWR), b"9").unwrap();
        two.one.flush(found, open.handle).unwrap();
        two.one.open(found, OpenFlags::empty()).unwrap();
        fs::rename(two.host("file"), two.host("away")).unwrap();
        assert_eq!(errno(two.one.open(found, RDWR)), Errno::STALE, "way {way}");
    }
}

#[test]
fn a_removed_directory_is_stale_once_to_each_thread() {
    for found_by in ["--inode-file-handles=mandatory", "--inode-file-handles=never"] {
        let mut two = TwoGuests::new(&["--cache=auto", found_by]);
        fs::create_dir(two.host("d")).unwrap();
        fs::write(two.host("d/old"), "").unwrap();
        let known = two.one.lookup("d").unwrap().0.node;
        // After a look-up in the directory, the daemon has it open.
        two.one.lookup_in(known, "old").unwrap();
        let stream = two.one.open_dir(known).unwrap();
        fs::remove_dir_all(two.host("d")).unwrap();
        fs::create_dir(two.host("d")).unwrap();
        fs::write(two.host("d/new"), "").unwrap();
        for _ in 0..2 {
            assert_eq!(errno(two.one.lookup_in(known, "new")), Errno::STALE, "{found_by}");
            assert_eq!(errno(two.one.lookup_in(known, "new")), Errno::NOENT, "{found_by}");
            // A program that creates a name would get ESTALE of this look-up. So it is ENOENT.
            assert_eq!(errno(two.one.lookup_in(known, "made")), Errno::NOENT, "{found_by}");
            assert_eq!(errno(two.one.make_dir_in(known, "made")), Errno::STALE, "{found_by}");
            assert_eq!(errno(two.one.make_dir_in(known, "made")), Errno::NOENT, "{found_by}");
            assert_eq!(errno(two.one.open_dir(known)), Errno::STALE, "{found_by}");
            let again = two.one.open_dir(known).unwrap();
            // READDIR of an open directory never fails with ESTALE, because Linux has no path that
            // it could look up again.
            for handle in [stream, again] {
                assert_eq!(errno(two.one.read_dir(known, handle)), Errno::NOENT, "{found_by}");
            }
        }
        let found = two.one.lookup("d").unwrap().0.node;
        assert_ne!(found, known);
        two.one.lookup_in(found, "new").unwrap();
        two.one.make_dir_in(found, "made").unwrap();
        two.one.open_dir(found).unwrap();
    }
}

/// Soon after a change by the host, an OPEN tells the guest to bypass its page cache (DIRECT_IO).
/// So a wrong length in the cache of its kernel does not matter.
#[test]
fn an_open_soon_after_a_change_bypasses_the_page_cache() {
    let mut two = TwoGuests::new(&["--cache=auto"]);
    fs::write(two.host("file"), "1234").unwrap();
    let node = two.one.lookup("file").unwrap().0.node;
    let direct = |guest: &mut Files| -> io::Result<bool> {
        let opened = guest.open(node, OpenFlags::empty())?;
        guest.release(node, opened.handle)?;
        Ok(opened.flags.contains(OpenReplyFlags::DIRECT_IO))
    };
    assert!(!direct(&mut two.one).unwrap());
    let changed = std::time::Instant::now();
    fs::write(two.host("file"), "12345678").unwrap();
    assert_eq!(errno(direct(&mut two.one)), Errno::STALE);
    // A thread of the guest may still handle an earlier reply, with the old length. Once all such
    // replies must have been handled, an OPEN permits the page cache again.
    two.one.lookup("file").unwrap();
    while direct(&mut two.one).unwrap() {
        assert!(changed.elapsed() < Duration::from_secs(20));
        two.one.lookup("file").unwrap();
    }
    // One second is `REPLY_HANDLED_WITHIN` of the daemon.
    assert!(changed.elapsed() >= Duration::from_secs(1), "{:?}", changed.elapsed());
}

#[test]
fn open_is_not_estale_with_writeback_or_no_cache() {
    for arguments in [&["--cache=auto", "--writeback"][..], &["--cache=strict"], &["--cache=exclusive"]] {
        let mut two = TwoGuests::new(arguments);
        fs::write(two.host("file"), "1234").unwrap();
        let node = two.one.lookup("file").unwrap().0.node;
        fs::write(two.host("file"), "12345678").unwrap();
        two.one.open(node, OpenFlags::empty()).unwrap();
    }
}

/// Appends `count` records to `file`. Each consists of `len` times the same letter.
fn append_records(guest: &mut Files, letter: u8, (len, count): (usize, usize)) {
    let (node, handle) = open_by_name(guest, "file", APPEND);
    for _ in 0..count {
        // Offset 0 is what a guest sends that has not seen any append. The daemon ignores
        // it.
        let written = guest.write((node, handle), (0, APPEND), &vec![letter; len]).unwrap();
        assert_eq!(usize::try_from(written).unwrap(), len);
    }
    guest.release(node, handle).unwrap();
}

#[test]
fn appends_of_two_guests_and_host_are_complete() {
    for cache in ["--cache=strict", "--cache=auto"] {
        let TwoGuests { mut one, mut other, folder } = TwoGuests::new(&[cache]);
        let (len, count) = (5000, 200);
        let file = folder.path().join("share/file");
        fs::write(&file, "").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| append_records(&mut one, b'a', (len, count)));
            scope.spawn(|| append_records(&mut other, b'b', (len, count)));
            scope.spawn(|| {
                let mut host = fs::OpenOptions::new().append(true).open(&file).unwrap();
                (0..count).for_each(|_| io::Write::write_all(&mut host, &vec![b'c'; len]).unwrap());
            });
        });
        let bytes = fs::read(&file).unwrap();
        let records = |letter| bytes.chunks(len).filter(|record| **record == vec![letter; len]).count();
        assert_eq!((bytes.len(), [b'a', b'b', b'c'].map(records)), (3 * len * count, [count; 3]), "{cache}");
        assert_eq!(one.lookup("file").unwrap().0.attr.size, bytes.len() as u64);
    }
}

/// Cache modes in which a change of names is atomic.
const MODES: [&str; 3] = ["--cache=strict", "--cache=auto", "--cache=exclusive"];

#[test]
fn replaced_name_always_exists_and_names_either_file() {
    for cache in MODES {
        let TwoGuests { mut one, mut other, folder } = TwoGuests::new(&[cache]);
        fs::write(folder.path().join("share/file"), "whole").unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..1000 {
                    let Created { entry, open } = one.create("new", RDWR).unwrap();
                    one.write((entry.node, open.handle), (0, RDWR), b"whole").unwrap();
                    one.release(entry.node, open.handle).unwrap();
                    let exchange = round % 2 == 0;
                    let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
                    one.rename("new", "file", flags).unwrap();
                    if exchange {
                        one.unlink("new").unwrap();
                    }
                }
                ended.store(true, Ordering::SeqCst);
            });
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    let found = other.lookup("file").expect("a name is missing while it is replaced");
                    assert_eq!(found.0.attr.size, 5);
                    assert_eq!(fs::read_to_string(folder.path().join("share/file")).unwrap(), "whole");
                }
            });
        });
    }
}

#[test]
fn one_of_several_concurrent_o_excl_creates_succeeds() {
    for cache in MODES {
        let TwoGuests { mut one, mut other, folder } = TwoGuests::new(&[cache]);
        let begin = Barrier::new(3);
        let exclusive = RDWR | OpenFlags::EXCL;
        let through = |guest: &mut Files| -> Vec<bool> {
            let made = |round| {
                begin.wait();
                let answer = guest.create(&format!("file{round}"), exclusive);
                if let Err(error) = &answer {
                    assert_eq!(Errno::from_io_error(error), Some(Errno::EXIST));
                }
                answer.is_ok()
            };
            (0..200).map(made).collect()
        };
        let host = || -> Vec<bool> {
            let made = |round| {
                begin.wait();
                fs::File::create_new(folder.path().join(format!("share/file{round}"))).is_ok()
            };
            (0..200).map(made).collect()
        };
        let made = std::thread::scope(|scope| {
            let one = scope.spawn(|| through(&mut one));
            let other = scope.spawn(|| through(&mut other));
            let host = scope.spawn(host);
            [one.join().unwrap(), other.join().unwrap(), host.join().unwrap()]
        });
        for round in 0..200 {
            assert_eq!(made.iter().filter(|made| made[round]).count(), 1, "{cache}, round {round}");
        }
    }
}

#[test]
fn open_file_survives_removal_and_path_finds_the_new_file() {
    for cache in ["--cache=strict", "--cache=auto"] {
        let mut two = TwoGuests::new(&[cache]);
        fs::write(two.host("file"), "before").unwrap();
        let node = two.one.lookup("file").unwrap().0.node;
        let held = two.one.open(node, RDWR).unwrap();
        fs::write(two.host("new"), "after").unwrap();
        two.other.rename("new", "file", RenameFlags::empty()).unwrap();
        assert_eq!(read_by_name(&mut two.one, "file"), b"after", "{cache}");
        assert_ne!(two.one.lookup("file").unwrap().0.node, node);
        check_unlinked_file(&mut two.one, (node, held.handle), b"before");

        let node = two.one.lookup("file").unwrap().0.node;
        let held = two.one.open(node, RDWR).unwrap();
        two.other.unlink("file").unwrap();
        assert_eq!(errno(two.one.lookup("file")), Errno::NOENT, "{cache}");
        check_unlinked_file(&mut two.one, (node, held.handle), b"after");
        // The host replaces a file repeatedly while a guest has it open.
        fs::write(two.host("file"), "first").unwrap();
        let node = two.one.lookup("file").unwrap().0.node;
        let held = two.one.open(node, RDWR).unwrap();
        for round in 0..50 {
            fs::write(two.host("new"), format!("round {round}")).unwrap();
            fs::rename(two.host("new"), two.host("file")).unwrap();
            assert_eq!(read_by_name(&mut two.one, "file"), format!("round {round}").as_bytes());
        }
        check_unlinked_file(&mut two.one, (node, held.handle), b"first");
    }
}

/// Checks that an open file without a name can still be read, written, queried and truncated.
fn check_unlinked_file(guest: &mut Files, (node, handle): (NodeId, Handle), text: &[u8]) {
    assert_eq!(guest.read(node, handle, (0, 100)).unwrap(), text);
    guest.write((node, handle), (0, RDWR), b"B").unwrap();
    let attr = guest.attributes(node).unwrap().0;
    assert_eq!((attr.nlink, attr.size), (0, text.len() as u64));
    assert_eq!(guest.truncate(node, 1).unwrap().size, 1);
    assert_eq!(guest.read(node, handle, (0, 100)).unwrap(), b"B");
    guest.release(node, handle).unwrap();
}

#[test]
fn length_and_times_are_current_after_changes_by_another_guest() {
    let mut two = TwoGuests::new(&["--cache=strict"]);
    fs::write(two.host("file"), "12345678").unwrap();
    let node = two.one.lookup("file").unwrap().0.node;
    let theirs = two.other.lookup("file").unwrap().0.node;
    let check_attributes = |two: &mut TwoGuests| {
        let host = two.host("file").metadata().unwrap();
        for attr in [two.one.attributes(node).unwrap().0, two.one.lookup("file").unwrap().0.attr] {
            assert_eq!(attr.size, host.len());
            assert_eq!(
                (attr.mtime.seconds, i64::from(attr.mtime.nanoseconds)),
                (host.mtime(), host.mtime_nsec())
            );
            assert_eq!(
                (attr.ctime.seconds, i64::from(attr.ctime.nanoseconds)),
                (host.ctime(), host.ctime_nsec())
            );
        }
        host.len()
    };
    for round in 1..50 {
        let open = two.other.open(theirs, RDWR).unwrap();
        two.other.write((theirs, open.handle), (round * 100, RDWR), b"at the end").unwrap();
        assert_eq!(check_attributes(&mut two), round * 100 + 10);
        two.other.truncate(theirs, round).unwrap();
        assert_eq!(check_attributes(&mut two), round);
        two.other.release(theirs, open.handle).unwrap();
        // With ATOMIC_O_TRUNC, Linux sends O_TRUNC in the OPEN.
        let open = two.other.open(theirs, RDWR | OpenFlags::TRUNC).unwrap();
        assert_eq!(check_attributes(&mut two), 0);
        two.other.release(theirs, open.handle).unwrap();
        fs::File::options().write(true).open(two.host("file")).unwrap().write_all_at(b"host", round).unwrap();
        assert_eq!(check_attributes(&mut two), round + 4);
    }
}

/// Returns the files below `folder`.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Returns the names of all tests in the suites and the daemon.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests", "../daemon/src", "../daemon/tests"];
    let files = folders.iter().flat_map(|folder| files_below(&root.join(folder)));
    let names = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        let mut found = Vec::new();
        // This line is only before tests, not before helper functions.
        while lines.any(|line| line == "#[test]") {
            let declared = lines.find_map(|line| line.strip_prefix("fn "));
            found.extend(declared.and_then(|rest| rest.split('(').next().map(str::to_owned)));
        }
        found
    };
    files.flat_map(names).collect()
}

#[test]
fn every_rule_of_the_contract_names_existing_tests() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/use/coherence.md");
    let text = fs::read_to_string(document).unwrap();
    let tests = tests();
    let is_rule = |row: &&str| {
        row.split('|').nth(1).is_some_and(|cell| cell.trim().contains(|c: char| c.is_ascii_digit()))
    };
    let rules: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).filter(is_rule).collect();
    assert!(rules.len() > 20, "{}", rules.len());
    for rule in rules {
        let last = rule.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {rule}");
        for name in named {
            assert!(tests.contains(name), "{name} is not a test: {rule}");
        }
    }
}
