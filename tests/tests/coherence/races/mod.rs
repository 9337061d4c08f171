//! Under `auto`, does an open find what was closed before it, in whatever order the guest's kernel
//! handles the replies?
//!
//! The test mounts the daemon's file system itself, behind a layer that delays replies after the
//! host has been asked. So each race happens every time. Needs root and /dev/fuse.

mod held;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::thread;

use held::{HeldBack, Kind};

/// The file as the host sees it, and as the guest does.
fn file(mount: &HeldBack) -> (PathBuf, PathBuf) {
    (mount.host().join("file"), mount.place().join("file"))
}

/// Opens and reads a file to its end. Not by `read_to_string`: that asks for the attributes first,
/// and the answer makes the kernel correct a length that it wrongly believes.
fn read(path: PathBuf) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut file = File::open(path).unwrap();
        let (mut text, mut piece) = (Vec::new(), [0; 64]);
        loop {
            match file.read(&mut piece).unwrap() {
                0 => break String::from_utf8(text).unwrap(),
                len => text.extend(&piece[..len]),
            }
        }
    })
}

/// A thread reads while the file is empty; the end that it has met is handled after another thread
/// was told of the text.
#[test]
fn late_end_of_file_does_not_hide_later_writes() {
    let mount = HeldBack::new();
    let (host, seen) = file(&mount);
    fs::write(&host, "as it was before").unwrap();
    let mut early = File::open(&seen).unwrap();
    File::create(&host).unwrap();
    let reads = mount.hold(Kind::Read);
    // See `read`.
    let reader = thread::spawn(move || early.read(&mut [0; 64]).unwrap());
    let ended = reads.recv().unwrap();
    fs::write(&host, "written and closed").unwrap();
    let lookups = mount.hold(Kind::Lookup);
    let opened = read(seen.clone());
    let told = lookups.recv().unwrap();
    mount.let_pass(Kind::Read);
    ended.let_go();
    assert_eq!(reader.join().unwrap(), 0);
    mount.let_pass(Kind::Lookup);
    told.let_go();
    assert_eq!(opened.join().unwrap(), "written and closed");
    // And whoever opens it next, for whom nothing was held back.
    assert_eq!(read(seen).join().unwrap(), "written and closed");
}

/// Two threads are told of the file, the first one before it was written; its answer is handled
/// first, so Linux drops the later one.
#[test]
fn late_reply_does_not_hide_a_later_write() {
    let mount = HeldBack::new();
    let (host, seen) = file(&mount);
    fs::write(&host, "as it was before").unwrap();
    assert_eq!(read(seen.clone()).join().unwrap(), "as it was before");
    File::create(&host).unwrap();
    let lookups = mount.hold(Kind::Lookup);
    let first = read(seen.clone());
    let told_first = lookups.recv().unwrap();
    fs::write(&host, "written and closed").unwrap();
    let second = read(seen.clone());
    let told_second = lookups.recv().unwrap();
    mount.let_pass(Kind::Lookup);
    told_first.let_go();
    // It was called before the write.
    drop(first.join().unwrap());
    told_second.let_go();
    assert_eq!(second.join().unwrap(), "written and closed");
    assert_eq!(read(seen).join().unwrap(), "written and closed");
}
