//! Under `auto`, does an open find the data that was closed before it, in whatever order the
//! guest's kernel handles the replies?
//!
//! The test mounts the daemon's file system itself, behind a layer that delays replies after the
//! host has been asked. So each race happens every time. Needs root and /dev/fuse.

mod held;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::thread;

use held::{HeldBack, Kind};

/// Returns the path of the file on the host and in the guest.
fn file(mount: &HeldBack) -> (PathBuf, PathBuf) {
    (mount.host().join("file"), mount.place().join("file"))
}

/// Opens and reads a file to its end. `read_to_string` would request the attributes first, and the
/// reply would correct the length in the kernel's cache.
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

/// A thread reads while the file is empty. Its end of file is handled after another thread got the
/// new length.
#[test]
fn late_end_of_file_does_not_hide_later_writes() {
    let mount = HeldBack::new();
    let (host, seen) = file(&mount);
    fs::write(&host, "as it was before").unwrap();
    let mut early = File::open(&seen).unwrap();
    File::create(&host).unwrap();
    let reads = mount.hold(Kind::Read);
    // For the reason see `read`.
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
    // The next open also reads the new text. No reply is delayed for it.
    assert_eq!(read(seen).join().unwrap(), "written and closed");
}

/// Two threads look up the file, the first one before it was written. Its reply is handled first,
/// so Linux drops the later one.
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
    // This open began before the write.
    drop(first.join().unwrap());
    told_second.let_go();
    assert_eq!(second.join().unwrap(), "written and closed");
    assert_eq!(read(seen).join().unwrap(), "written and closed");
}
