//! Does each cache mode keep its rules of docs/use/coherence.md if the guest's kernel caches?
//!
//! One directory is mounted twice over /dev/fuse. Each mount stands for a guest, with caches of its
//! own. The tests also change the shared directory itself, as a process of the host. Needs root and
//! /dev/fuse.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pinhole_tests::mounted::Mounts;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _};

/// Attribute timeout in the tests that wait until it has passed.
const TIMEOUT: Duration = Duration::from_millis(300);

/// Waits until [`TIMEOUT`] has passed for all earlier replies. The kernel has no event for that.
fn let_timeouts_pass() {
    let since = Instant::now();
    while since.elapsed() < TIMEOUT + Duration::from_millis(50) {
        std::thread::park_timeout(TIMEOUT);
    }
}

/// Shared directory with two mounts, `one` and `other`.
struct TwoKernels {
    mounts: Mounts,
    one: PathBuf,
    other: PathBuf,
}

impl TwoKernels {
    fn new(arguments: &[&str]) -> Self {
        let mounts = Mounts::new(&[arguments, arguments]).unwrap();
        let mut places = mounts.places().map(PathBuf::from);
        let (one, other) = (places.next().unwrap(), places.next().unwrap());
        drop(places);
        Self { mounts, one, other }
    }

    /// Returns pairs of a folder in which a test changes files, and a folder in which it reads
    /// them. The reader is a mount. The writer is the other mount or the host's directory.
    fn pairs(&self) -> [(PathBuf, PathBuf); 3] {
        let host = self.mounts.host();
        [
            (self.one.clone(), self.other.clone()),
            (self.other.clone(), self.one.clone()),
            (host, self.one.clone()),
        ]
    }
}

/// Opens a file and returns its reported length and all of its bytes.
fn open_and_read(path: PathBuf) -> (u64, String) {
    let mut file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    (len, text)
}

fn append(path: PathBuf, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Checks that an open sees all data that was closed before it, whatever the reader has cached. The
/// writer makes the file longer and shorter, overwrites it with the same length, truncates it,
/// replaces it and appends to it.
fn check_close_to_open(two: &TwoKernels) {
    for (writer, reader) in two.pairs() {
        let (path, seen) = (writer.join("file"), reader.join("file"));
        for round in 0..20 {
            fs::write(&path, format!("{round} begins")).unwrap();
            assert_eq!(open_and_read(seen.clone()).1, format!("{round} begins"));
            for text in ["longer than it was before", "short", "SHORT", "", "made long once more"] {
                fs::write(&path, text).unwrap();
                assert_eq!(
                    open_and_read(seen.clone()),
                    (text.len() as u64, text.to_owned()),
                    "round {round}"
                );
            }
            append(path.clone(), ", and longer");
            assert_eq!(open_and_read(seen.clone()), (31, "made long once more, and longer".to_owned()));
            fs::write(writer.join("new"), "replaced").unwrap();
            fs::rename(writer.join("new"), &path).unwrap();
            assert_eq!(open_and_read(seen.clone()), (8, "replaced".to_owned()), "round {round}");
            // The writer replaces the file, and the reader writes to it by name. The bytes must not
            // go to the old file.
            fs::write(writer.join("new"), "again").unwrap();
            fs::rename(writer.join("new"), &path).unwrap();
            fs::write(&seen, "by the reader").unwrap();
            assert_eq!(open_and_read(path.clone()), (13, "by the reader".to_owned()), "round {round}");
        }
    }
}

#[test]
fn auto_open_sees_data_closed_before_it() {
    check_close_to_open(&TwoKernels::new(&["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"]));
}

#[test]
fn auto_is_close_to_open_without_inode_handles() {
    let arguments =
        &["--cache=auto", "--attr-timeout=60", "--entry-timeout=60", "--inode-file-handles=never"];
    check_close_to_open(&TwoKernels::new(arguments));
}

#[test]
fn strict_open_sees_data_closed_before_it() {
    check_close_to_open(&TwoKernels::new(&["--cache=strict"]));
}

#[test]
fn file_removed_elsewhere_is_not_opened_by_name() {
    let two = TwoKernels::new(&["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"]);
    for (writer, reader) in two.pairs() {
        fs::write(writer.join("file"), "text").unwrap();
        let held = File::open(reader.join("file")).unwrap();
        fs::remove_file(writer.join("file")).unwrap();
        assert_eq!(File::open(reader.join("file")).unwrap_err().kind(), ErrorKind::NotFound);
        let mut bytes = [0; 4];
        held.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"text", "the open file stays");
        // An open by descriptor has no path to look up again.
        let again = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held))).unwrap();
        assert_eq!(again.metadata().unwrap().nlink(), 0);
    }
}

/// The writer gives the name of a file to a new file of the same length. The old file keeps another
/// name.
#[test]
fn auto_opens_the_current_file_of_a_name() {
    let two = TwoKernels::new(&["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"]);
    for (number, (writer, reader)) in two.pairs().into_iter().enumerate() {
        let kept = |way: usize| format!("kept-{number}-{way}");
        for way in 0..3 {
            fs::write(writer.join("file"), "old").unwrap();
            assert_eq!(open_and_read(reader.join("file")).1, "old");
            fs::write(writer.join("new"), "new").unwrap();
            match way {
                0 => fs::rename(writer.join("file"), writer.join(kept(way))).unwrap(),
                1 => fs::hard_link(writer.join("file"), writer.join(kept(way))).unwrap(),
                _ => {
                    let (here, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
                    let (file, new) = (writer.join("file"), writer.join("new"));
                    rustix::fs::renameat_with(here, file, here, new, exchange).unwrap();
                    fs::rename(writer.join("new"), writer.join(kept(way))).unwrap();
                }
            }
            if way < 2 {
                fs::rename(writer.join("new"), writer.join("file")).unwrap();
            }
            // If this opened the old file, it would overwrite it.
            fs::write(reader.join("file"), "own").unwrap();
            let on_host = |name: &str| fs::read_to_string(two.mounts.host().join(name)).unwrap();
            assert_eq!((on_host("file").as_str(), on_host(&kept(way)).as_str()), ("own", "old"), "{way}");
        }
    }
}

/// The writer moves a file. The reader has then found the file by its new name, but still has the
/// old name in its cache.
#[test]
fn auto_opens_no_moved_file_by_its_old_name() {
    for found_by in ["--inode-file-handles=mandatory", "--inode-file-handles=never"] {
        let two = TwoKernels::new(&["--cache=auto", "--attr-timeout=60", "--entry-timeout=60", found_by]);
        for (number, (writer, reader)) in two.pairs().into_iter().enumerate() {
            for reused in [false, true] {
                let (old, new) = (format!("old-{number}-{reused}"), format!("new-{number}-{reused}"));
                fs::write(writer.join(&old), "moved").unwrap();
                assert_eq!(open_and_read(reader.join(&old)).1, "moved");
                fs::rename(writer.join(&old), writer.join(&new)).unwrap();
                if reused {
                    fs::write(writer.join(&old), "fresh").unwrap();
                }
                assert_eq!(reader.join(&new).metadata().unwrap().len(), 5);
                if reused {
                    fs::write(reader.join(&old), "own").unwrap();
                    assert_eq!(fs::read_to_string(two.mounts.host().join(&new)).unwrap(), "moved");
                } else {
                    assert_eq!(File::open(reader.join(&old)).unwrap_err().kind(), ErrorKind::NotFound);
                }
                assert_eq!(open_and_read(reader.join(&new)), (5, "moved".to_owned()));
            }
        }
    }
}

#[test]
fn auto_shows_attributes_and_names_at_most_their_timeouts_old() {
    let seconds = TIMEOUT.as_secs_f64();
    let (attr, entry) = (format!("--attr-timeout={seconds}"), format!("--entry-timeout={seconds}"));
    let negative = format!("--negative-timeout={seconds}");
    let two = TwoKernels::new(&["--cache=auto", &attr, &entry, &negative]);
    for (writer, reader) in two.pairs() {
        fs::write(writer.join("file"), "text").unwrap();
        fs::write(writer.join("gone"), "text").unwrap();
        assert_eq!(reader.join("file").metadata().unwrap().len(), 4);
        assert!(reader.join("gone").exists());
        assert!(!reader.join("made").exists());
        append(writer.join("file"), "more");
        fs::remove_file(writer.join("gone")).unwrap();
        fs::write(writer.join("made"), "").unwrap();
        let_timeouts_pass();
        assert_eq!(reader.join("file").metadata().unwrap().len(), 8);
        assert!(!reader.join("gone").exists());
        assert!(reader.join("made").exists());
        fs::remove_file(writer.join("file")).unwrap();
        fs::remove_file(writer.join("made")).unwrap();
        let_timeouts_pass();
    }
}

/// Returns times, mode, owner and link count.
fn all_but_length(of: &Metadata) -> ([i64; 4], [u64; 4]) {
    let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()];
    (times, [of.mode().into(), of.uid().into(), of.gid().into(), of.nlink()])
}

/// Changes mode, owner and names of `file` one after another, and checks after each change that
/// `look` returns the new metadata.
fn change_all_but_length(folder: &Path, round: u32, look: impl Fn() -> Metadata) {
    let (file, second) = (folder.join("file"), folder.join("second"));
    fs::set_permissions(&file, Permissions::from_mode(0o600 + round)).unwrap();
    assert_eq!(look().mode(), 0o100_600 + round);
    chown(&file, Some(1000 + round), Some(2000 + round)).unwrap();
    let host = look();
    assert_eq!((host.uid(), host.gid()), (1000 + round, 2000 + round));
    fs::hard_link(&file, &second).unwrap();
    assert_eq!(look().nlink(), 2);
    fs::remove_file(&second).unwrap();
    assert_eq!(look().nlink(), 1);
}

#[test]
fn strict_never_shows_stale_attributes_names_or_data() {
    let two = TwoKernels::new(&["--cache=strict"]);
    for (writer, reader) in two.pairs() {
        let seen = reader.join("file");
        assert!(!seen.exists());
        fs::write(writer.join("file"), "0123").unwrap();
        let held = OpenOptions::new().read(true).write(true).open(&seen).unwrap();
        let change = OpenOptions::new().write(true).open(writer.join("file")).unwrap();
        for round in 0..50_u64 {
            change.write_all_at(&round.to_le_bytes(), round * 3).unwrap();
            let host = two.mounts.host().join("file");
            let check_metadata = || {
                let host = host.metadata().unwrap();
                for seen in [seen.metadata().unwrap(), held.metadata().unwrap()] {
                    assert_eq!(seen.len(), round * 3 + 8);
                    assert_eq!(all_but_length(&seen), all_but_length(&host), "round {round}");
                }
                host
            };
            check_metadata();
            change_all_but_length(&writer, u32::try_from(round).unwrap(), check_metadata);
            let mut bytes = [0; 8];
            held.read_exact_at(&mut bytes, round * 3).unwrap();
            assert_eq!(bytes, round.to_le_bytes(), "in a file that was opened before the write");
            change.set_len(round * 3 + 4).unwrap();
            assert_eq!(held.read_at(&mut bytes, round * 3).unwrap(), 4);
            fs::rename(writer.join("file"), writer.join("away")).unwrap();
            assert!(!seen.exists() && reader.join("away").exists());
            fs::rename(writer.join("away"), writer.join("file")).unwrap();
            assert!(seen.exists() && !reader.join("away").exists());
        }
        fs::remove_file(writer.join("file")).unwrap();
        assert!(!seen.exists());
    }
}

/// Length of a page in bytes.
const PAGE: usize = 4096;

/// Shared mapping of the first page of a file, and the file.
struct Mapped {
    region: MmapRegion,
    file: File,
}

impl Mapped {
    fn new(path: PathBuf) -> Result<Self, MmapRegionError> {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), PAGE)?;
        Ok(Self { region, file })
    }

    fn load(&self) -> [u8; 4] {
        let mut bytes = [0; 4];
        self.region.as_volatile_slice().read_slice(&mut bytes, 8).unwrap();
        bytes
    }

    fn store(&self, bytes: [u8; 4]) {
        self.region.as_volatile_slice().write_slice(&bytes, 8).unwrap();
    }
}

#[test]
fn strict_mapping_is_refreshed_when_attributes_are_requested() {
    let two = TwoKernels::new(&["--cache=strict"]);
    let host = two.mounts.host().join("file");
    fs::write(&host, [0; PAGE]).unwrap();
    let read = |file: &File| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 8).unwrap();
        bytes
    };
    let mapped = Mapped::new(two.one.join("file")).unwrap();
    assert_eq!(mapped.load(), [0; 4]);
    // A store is visible to all after msync, fsync or close, or after a read of the same file in
    // the same guest.
    mapped.store(*b"fsyn");
    mapped.file.sync_all().unwrap();
    assert_eq!(read(&File::open(two.other.join("file")).unwrap()), *b"fsyn");
    mapped.store(*b"read");
    assert_eq!(read(&mapped.file), *b"read");
    assert_eq!(read(&File::open(&host).unwrap()), *b"read");
    // A write by the same guest is visible in its mapping at once.
    mapped.file.write_all_at(b"self", 8).unwrap();
    assert_eq!(mapped.load(), *b"self");
    // A write by another guest is visible once this guest gets a new time or length: by a stat or
    // an open.
    OpenOptions::new().write(true).open(two.other.join("file")).unwrap().write_all_at(b"them", 8).unwrap();
    assert!([*b"self", *b"them"].contains(&mapped.load()));
    mapped.file.metadata().unwrap();
    assert_eq!(mapped.load(), *b"them");
    // A new mapping is not filled from an old copy.
    OpenOptions::new().write(true).open(&host).unwrap().write_all_at(b"host", 8).unwrap();
    assert_eq!(Mapped::new(two.one.join("file")).unwrap().load(), *b"host");
    drop(mapped);
    assert_eq!(fs::read(&host).unwrap().len(), PAGE);
}

#[test]
fn cache_never_refuses_shared_mappings_and_is_otherwise_strict() {
    let two = TwoKernels::new(&["--cache=never"]);
    fs::write(two.mounts.host().join("file"), [0; PAGE]).unwrap();
    let Err(MmapRegionError::Mmap(error)) = Mapped::new(two.one.join("file")) else {
        panic!("the file was mapped")
    };
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
    check_close_to_open(&two);
}

#[test]
fn exclusive_keeps_cached_data_until_the_guest_changes_it() {
    let two = TwoKernels::new(&["--cache=exclusive"]);
    let host = two.mounts.host();
    fs::write(host.join("file"), "as it was").unwrap();
    assert_eq!(open_and_read(two.one.join("file")).1, "as it was");
    assert!(!two.one.join("made").exists());
    fs::write(host.join("file"), "by others").unwrap();
    fs::write(host.join("made"), "").unwrap();
    // In this mode, only the guest may change the directory. It does not see changes by others.
    assert_eq!(open_and_read(two.one.join("file")).1, "as it was");
    assert!(!two.one.join("made").exists());
    fs::write(two.one.join("file"), "changed here").unwrap();
    assert_eq!(open_and_read(two.one.join("file")).1, "changed here");
    fs::write(two.one.join("own"), "").unwrap();
    assert!(two.one.join("own").exists());
    fs::remove_file(two.one.join("own")).unwrap();
    assert!(!two.one.join("own").exists());
    assert_eq!(File::create_new(two.one.join("made")).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn cache_always_asks_again_for_a_missing_name() {
    let two = TwoKernels::new(&["--cache=always"]);
    assert!(!two.one.join("made").exists());
    fs::write(two.mounts.host().join("made"), "").unwrap();
    assert!(two.one.join("made").exists());
}

#[test]
fn auto_keeps_open_file_when_another_replaces_it() {
    let two = TwoKernels::new(&["--cache=auto"]);
    for (writer, reader) in two.pairs() {
        fs::write(writer.join("file"), "before").unwrap();
        let held = File::open(reader.join("file")).unwrap();
        for round in 0..10 {
            fs::write(writer.join("new"), format!("after {round}")).unwrap();
            fs::rename(writer.join("new"), writer.join("file")).unwrap();
            assert_eq!(open_and_read(reader.join("file")).1, format!("after {round}"));
            let mut bytes = [0; 6];
            held.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"before");
            assert_eq!(held.metadata().unwrap().nlink(), 0);
        }
    }
}

#[test]
fn appends_arrive_whole_and_none_is_lost() {
    for (cache, len, count) in [
        ("--cache=strict", 1000, 300),
        ("--cache=auto", 1000, 300),
        // The largest write that fits in one request if the buffer does not begin at a page
        // boundary.
        ("--cache=strict", (1 << 20) - 4096, 10),
        ("--cache=auto", (1 << 20) - 4096, 10),
    ] {
        let two = TwoKernels::new(&[cache]);
        let file = two.mounts.host().join("file");
        fs::write(&file, "").unwrap();
        let writers = [two.one.clone(), two.other.clone(), two.one.clone(), two.mounts.host()];
        std::thread::scope(|scope| {
            for (path, byte) in writers.iter().map(|folder| folder.join("file")).zip(b'a'..) {
                scope.spawn(move || {
                    let mut file = OpenOptions::new().append(true).open(path).unwrap();
                    let buffer = vec![byte; len + 5];
                    (0..count).for_each(|_| file.write_all(&buffer[5..]).unwrap());
                });
            }
        });
        let bytes = fs::read(&file).unwrap();
        let whole = |byte| bytes.chunks(len).filter(|record| record.iter().all(|it| *it == byte)).count();
        assert_eq!(bytes.len(), 4 * count * len, "{cache}");
        assert_eq!([b'a', b'b', b'c', b'd'].map(whole), [count; 4], "{cache}: a record is torn");
        assert_eq!(open_and_read(two.other.join("file")).0, bytes.len() as u64, "{cache}");
    }
}

#[test]
fn open_finds_all_data_while_another_appends_and_replaces() {
    let two = TwoKernels::new(&["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"]);
    let line = |round: u32| format!("{round:06}\n");
    fs::write(two.one.join("file"), line(0)).unwrap();
    // Lines are numbered from 0, also across replaced files. This is the number of the last line
    // whose file was closed.
    let closed = AtomicU32::new(0);
    let change = |round: u32| {
        if round.is_multiple_of(50) {
            fs::write(two.one.join("new"), line(round + 1)).unwrap();
            fs::rename(two.one.join("new"), two.one.join("file")).unwrap();
        } else {
            append(two.one.join("file"), &line(round + 1));
        }
        closed.store(round + 1, Ordering::SeqCst);
    };
    let look = || {
        let before = closed.load(Ordering::SeqCst);
        let text = open_and_read(two.other.join("file")).1;
        let last = text.lines().last().and_then(|line| line.parse::<u32>().ok());
        assert!(last >= Some(before), "{before} lines were closed before the open, which found {last:?}");
    };
    while_changing(2000, change, (1, look));
    // Three threads of one guest open the file. The test checks only that each open succeeds: while
    // one thread gets a new length, Linux may show another thread zeros past the old length.
    closed.store(0, Ordering::SeqCst);
    while_changing(2000, change, (3, || drop(open_and_read(two.other.join("file")))));
}

#[test]
fn path_is_never_stale_while_its_file_is_replaced() {
    for cache in ["--cache=strict", "--cache=auto"] {
        let two = TwoKernels::new(&[cache]);
        fs::write(two.one.join("file"), "whole").unwrap();
        let change = |_| {
            fs::write(two.one.join("new"), "whole").unwrap();
            fs::rename(two.one.join("new"), two.one.join("file")).unwrap();
        };
        let look = || {
            assert_eq!(two.other.join("file").metadata().unwrap().len(), 5, "{cache}");
            assert_eq!(open_and_read(two.other.join("file")).1, "whole", "{cache}");
        };
        while_changing(1500, change, (2, look));
    }
}

/// Calls `change` `rounds` times. Meanwhile `threads` threads call `look` repeatedly.
fn while_changing(rounds: u32, change: impl Fn(u32) + Sync, (threads, look): (usize, impl Fn() + Sync)) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    look();
                }
            });
        }
        scope.spawn(|| {
            (0..rounds).for_each(&change);
            ended.store(true, Ordering::Relaxed);
        });
    });
}
