//! Can a name lead out of the share?
//!
//! Tests send every kind of wrong name in every opcode that takes a name, and swap a directory's
//! host path for a symbolic link while the guest uses it.
//!
//! These tests aim only at their own canaries. The daemon runs in a mount namespace where only the
//! test's folder can be written, because a build that resolves names wrongly really deletes files.

use pinhole_tests::frontend::frame::opcode::{
    CREATE, GETATTR, LINK, LOOKUP, MKDIR, MKNOD, OPEN_FILE, RENAME, RENAME2, RMDIR, SYMLINK, TMPFILE, UNLINK,
};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Bench, Setup};
use pinhole_tests::linux::{ENTRY_LEN, ROOT};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes a file, and a directory with a file, beside the share. The tests check that neither
/// changes.
fn plant_canaries(bench: &Bench) {
    fs::write(bench.folder().join("canary"), "untouched").unwrap();
    fs::create_dir(bench.folder().join("outside")).unwrap();
    fs::write(bench.folder().join("outside/canary"), "untouched").unwrap();
    fs::create_dir(bench.folder().join("outside/empty")).unwrap();
}

/// Returns names, inodes, modes and contents of everything beside the share.
fn outside(bench: &Bench) -> Vec<(PathBuf, u64, u32, u64, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut waiting = vec![bench.folder().to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path == bench.host("") || path == bench.folder().join("share") {
                continue;
            }
            let stat = path.symlink_metadata().unwrap();
            let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            seen.push((path.clone(), stat.ino(), stat.mode(), stat.nlink(), content));
            if stat.is_dir() {
                waiting.push(path);
            }
        }
    }
    seen.sort();
    seen
}

/// Returns one request for each opcode and each name in it.
fn requests(parent: u64, node: u64, name: &[u8], good: &str) -> Vec<(&'static str, Frame)> {
    let at = |opcode| Frame::new(opcode, parent);
    vec![
        ("LOOKUP", at(LOOKUP).name(name)),
        ("SYMLINK", at(SYMLINK).name(name).name("target")),
        ("MKNOD", at(MKNOD).u32(0o100_644).u32(0).u32(0).u32(0).name(name)),
        ("MKDIR", at(MKDIR).u32(0o755).u32(0).name(name)),
        ("LINK", at(LINK).u64(node).name(name)),
        ("CREATE", at(CREATE).u32(0o1002).u32(0o100_644).u32(0).u32(0).name(name)),
        ("RENAME from", at(RENAME).u64(parent).name(name).name(good)),
        ("RENAME to", at(RENAME).u64(parent).name(good).name(name)),
        ("RENAME2 from", at(RENAME2).u64(parent).u32(1).u32(0).name(name).name(good)),
        ("RENAME2 to", at(RENAME2).u64(parent).u32(0).u32(0).name(good).name(name)),
        ("RENAME2 exchange", at(RENAME2).u64(parent).u32(2).u32(0).name(good).name(name)),
        ("RENAME2 whiteout", at(RENAME2).u64(parent).u32(4).u32(0).name(good).name(name)),
        ("UNLINK", at(UNLINK).name(name)),
        ("RMDIR", at(RMDIR).name(name)),
    ]
}

#[test]
fn every_opcode_refuses_names_that_are_not_one_component() {
    let mut bench = Bench::with(Setup::default(), &[]).unwrap();
    plant_canaries(&bench);
    let before = outside(&bench);
    fs::create_dir(bench.host("dir")).unwrap();
    fs::write(bench.host("dir/good"), "inside").unwrap();
    let absolute = bench.folder().join("canary");
    let absolute = absolute.to_str().unwrap().as_bytes().to_vec();
    let long = vec![b'n'; 256];
    let names: [&[u8]; 13] = [
        b"",
        b".",
        b"..",
        b"/",
        b"//",
        b"../canary",
        b"../../canary",
        b"../outside/empty",
        b"sub/name",
        b"name/",
        b"./name",
        &absolute,
        &long,
    ];
    for name in names {
        let dir = bench.body(Frame::new(LOOKUP, ROOT).name("dir"), ENTRY_LEN).unwrap();
        let dir = u64_at(&dir, 0).unwrap();
        let node = bench.body(Frame::new(LOOKUP, dir).name("good"), ENTRY_LEN).unwrap();
        let node = u64_at(&node, 0).unwrap();
        for parent in [ROOT, dir] {
            for (what, frame) in requests(parent, node, name, "good") {
                let shown = name.escape_ascii();
                assert_ne!(
                    bench.errno(frame, ENTRY_LEN + 16).unwrap(),
                    0,
                    "{what} of \"{shown}\" in {parent}"
                );
            }
        }
    }
    assert_eq!(outside(&bench), before);
    assert_eq!(fs::read(bench.host("dir/good")).unwrap(), b"inside");
    let left: Vec<_> =
        fs::read_dir(bench.host("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["dir"]);
    bench.is_alive().unwrap();
}

/// The guest asks for `EXPORT_SUPPORT`, with which these names would be valid.
#[test]
fn dots_are_refused_in_every_mode() {
    let modes: [&[&str]; 5] = [
        &[],
        &["--sandbox", "none"],
        &["--profile", "full"],
        &["--profile", "rootfs"],
        &["--cache", "exclusive"],
    ];
    for arguments in modes {
        let mut bench = Bench::with(Setup::default(), arguments).unwrap();
        fs::create_dir(bench.host("dir")).unwrap();
        let dir = bench.body(Frame::new(LOOKUP, ROOT).name("dir"), ENTRY_LEN).unwrap();
        for parent in [ROOT, u64_at(&dir, 0).unwrap()] {
            for name in [".", ".."] {
                let errno = bench.errno(Frame::new(LOOKUP, parent).name(name), ENTRY_LEN).unwrap();
                assert_eq!(errno, Errno::INVAL.raw_os_error(), "{arguments:?}: {name} in {parent}");
            }
        }
    }
}

#[test]
fn unterminated_name_or_trailing_bytes_are_refused() {
    let mut bench = Bench::with(Setup::default(), &[]).unwrap();
    plant_canaries(&bench);
    let before = outside(&bench);
    fs::write(bench.host("good"), "inside").unwrap();
    for opcode in [LOOKUP, UNLINK, RMDIR] {
        // Without a NUL, with a NUL inside, and with bytes after the NUL.
        for bytes in [&b"good"[..], b"go\0od", b"go\0od\0", b"good\0\0", b"good\0../canary\0", b"\0good\0"] {
            let frame = Frame::new(opcode, ROOT).bytes(bytes);
            let shown = bytes.escape_ascii();
            assert_ne!(bench.errno(frame, ENTRY_LEN).unwrap(), 0, "opcode {opcode} of \"{shown}\"");
        }
    }
    for bytes in [&b"good\0"[..], b"good\0new", b"\0\0", b"good\0\0", b"good\0new\0more\0"] {
        let frame = Frame::new(RENAME, ROOT).u64(ROOT).bytes(bytes);
        assert_ne!(bench.errno(frame, 0).unwrap(), 0, "RENAME of \"{}\"", bytes.escape_ascii());
    }
    assert_eq!(fs::read(bench.host("good")).unwrap(), b"inside");
    assert_eq!(outside(&bench), before);
}

#[test]
fn long_and_non_utf8_names_are_accepted() {
    let mut bench = Bench::with(Setup::default(), &[]).unwrap();
    for name in [vec![b'n'; 255], vec![0xff, 0xfe, 0x80], b"...".to_vec(), b" ".to_vec(), b"-rf".to_vec()] {
        let made = Frame::new(MKDIR, ROOT).u32(0o755).u32(0).name(&name);
        assert_eq!(bench.errno(made, ENTRY_LEN).unwrap(), 0, "\"{}\"", name.escape_ascii());
        assert_eq!(bench.errno(Frame::new(LOOKUP, ROOT).name(&name), ENTRY_LEN).unwrap(), 0);
        assert_eq!(bench.errno(Frame::new(RMDIR, ROOT).name(&name), 0).unwrap(), 0);
    }
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let mut bench = Bench::with(Setup::default(), &[]).unwrap();
    plant_canaries(&bench);
    let before = outside(&bench);
    let canary = bench.folder().join("canary");
    for (name, target) in [
        ("absolute", canary.as_path()),
        ("upwards", Path::new("../canary")),
        ("folder", Path::new("../outside")),
        ("magic", Path::new("/proc/self/root")),
    ] {
        symlink(target, bench.host(name)).unwrap();
        let entry = bench.body(Frame::new(LOOKUP, ROOT).name(name), ENTRY_LEN).unwrap();
        let node = u64_at(&entry, 0).unwrap();
        let mode = pinhole_tests::frontend::frame::u32_at(&entry, 40 + 60).unwrap();
        assert_eq!(mode & 0o170_000, 0o120_000, "{name} is a link");
        for flags in [0, 2, 0o1000, 0o200_000] {
            assert_ne!(bench.errno(Frame::new(OPEN_FILE, node).u32(flags).u32(0), 16).unwrap(), 0, "{name}");
        }
        // No opcode reaches the target of the link, because the link is not a directory.
        for (what, frame) in requests(node, node, b"canary", "other") {
            assert_ne!(bench.errno(frame, ENTRY_LEN + 16).unwrap(), 0, "{what} behind {name}");
        }
        assert_ne!(
            bench
                .errno(Frame::new(TMPFILE, node).u32(2).u32(0o100_600).u32(0).u32(0).name("/"), 144)
                .unwrap(),
            0
        );
        let over = Frame::new(CREATE, ROOT).u32(0o1002).u32(0o100_644).u32(0).u32(0).name(name);
        assert_ne!(bench.errno(over, 144).unwrap(), 0, "CREATE over {name}");
    }
    assert_eq!(outside(&bench), before);
}

/// Swaps `dir` with a symbolic link to the folder outside until `stop` is set. Each swap is atomic,
/// so the path always exists. Returns the number of swaps.
fn swap(dir: &Path, other: &Path, stop: &AtomicBool) -> u64 {
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, dir, rustix::fs::CWD, other, flags).unwrap();
        swaps += 1;
    }
    swaps
}

/// Sends every request on a directory that may be swapped at any moment.
fn send_every_request(bench: &mut Bench, round: u64) {
    let Ok(entry) = bench.body(Frame::new(LOOKUP, ROOT).name("dir"), ENTRY_LEN) else { return };
    let parent = u64_at(&entry, 0).unwrap();
    let target = bench.body(Frame::new(LOOKUP, parent).name("canary"), ENTRY_LEN);
    let node = target.as_ref().map_or(parent, |entry| u64_at(entry, 0).unwrap());
    let name = format!("new-{}", round % 3);
    for (_, frame) in requests(parent, node, name.as_bytes(), "canary") {
        bench.errno(frame, ENTRY_LEN + 16).unwrap();
    }
    for (_, frame) in requests(parent, node, b"empty", "other") {
        bench.errno(frame, ENTRY_LEN + 16).unwrap();
    }
    bench.errno(Frame::new(TMPFILE, parent).u32(2).u32(0o100_600).u32(0).u32(0).name("/"), 144).unwrap();
    // O_TRUNC on the file that was found. Its length shows which file it was.
    bench.errno(Frame::new(OPEN_FILE, node).u32(0o1001).u32(0), 16).unwrap();
    bench.errno(Frame::new(GETATTR, node).u32(0).u32(0).u64(0), 104).unwrap();
}

#[test]
fn directory_swapped_for_a_link_leads_nowhere_outside() {
    let mut bench = Bench::with(Setup::default(), &[]).unwrap();
    plant_canaries(&bench);
    let before = outside(&bench);
    let (dir, other) = (bench.host("dir"), bench.host("swapped"));
    fs::create_dir(&dir).unwrap();
    symlink(bench.folder().join("outside"), &other).unwrap();
    let inside = fs::File::open(&dir).unwrap();
    let stop = AtomicBool::new(false);
    let swaps = std::thread::scope(|threads| {
        let swapper = threads.spawn(|| swap(&dir, &other, &stop));
        for round in 0..300 {
            // Uses the descriptor of the directory, because its path may lead to the folder outside
            // at
            // this moment.
            drop(rustix::fs::openat(
                &inside,
                "canary",
                OFlags::CREATE | OFlags::WRONLY,
                Mode::from_raw_mode(0o644),
            ));
            rustix::fs::mkdirat(&inside, "empty", Mode::from_raw_mode(0o755)).unwrap_or_default();
            send_every_request(&mut bench, round);
            if round % 50 == 0 {
                bench.guest.init().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap()
    });
    assert!(swaps > 100, "only {swaps} swaps");
    assert_eq!(outside(&bench), before, "something outside the share was touched");
    bench.is_alive().unwrap();
}
