//! In the cache mode `auto`, does an open find the data that was closed before it, in whatever
//! order the guest's kernel handles the replies?
//!
//! The test process mounts the daemon's file system itself, with a layer that delays chosen
//! replies. So each race happens in every run. Needs root and /dev/fuse.

mod delayed;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::thread;

use delayed::{DelayedShare, Kind};

/// Returns the path of the file on the host and in the guest.
fn file(mount: &DelayedShare) -> (PathBuf, PathBuf) {
    (mount.host().join("file"), mount.mountpoint().join("file"))
}

/// Opens a file and reads it to its end, on a new thread. It does not use `read_to_string`, which
/// would request the attributes first: the reply would correct the length in the kernel's cache.
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

/// A thread reads while the file is empty. The kernel handles the reply, an end of file, only after
/// another thread got the new length.
#[test]
fn late_end_of_file_does_not_hide_later_writes() {
    let mount = DelayedShare::new();
    let (host, seen) = file(&mount);
    fs::write(&host, "as it was before").unwrap();
    let mut early = File::open(&seen).unwrap();
    File::create(&host).unwrap();
    let reads = mount.delay(Kind::Read);
    // A plain `read`, for the reason given at the function `read`.
    let reader = thread::spawn(move || early.read(&mut [0; 64]).unwrap());
    let end_of_file = reads.recv().unwrap();
    fs::write(&host, "written and closed").unwrap();
    let lookups = mount.delay(Kind::Lookup);
    let opened = read(seen.clone());
    let lookup_reply = lookups.recv().unwrap();
    mount.stop_delaying(Kind::Read);
    end_of_file.release();
    assert_eq!(reader.join().unwrap(), 0);
    mount.stop_delaying(Kind::Lookup);
    lookup_reply.release();
    assert_eq!(opened.join().unwrap(), "written and closed");
    // The next open also reads the new text. No reply is delayed for it.
    assert_eq!(read(seen).join().unwrap(), "written and closed");
}

/// Two threads look up the file: the first before a write, the second after it. The kernel handles
/// the reply to the first thread first, and so drops the attributes of the second reply.
#[test]
fn late_reply_does_not_hide_a_later_write() {
    let mount = DelayedShare::new();
    let (host, seen) = file(&mount);
    fs::write(&host, "as it was before").unwrap();
    assert_eq!(read(seen.clone()).join().unwrap(), "as it was before");
    File::create(&host).unwrap();
    let lookups = mount.delay(Kind::Lookup);
    let first = read(seen.clone());
    let first_reply = lookups.recv().unwrap();
    fs::write(&host, "written and closed").unwrap();
    let second = read(seen.clone());
    let second_reply = lookups.recv().unwrap();
    mount.stop_delaying(Kind::Lookup);
    first_reply.release();
    // This open began before the write.
    drop(first.join().unwrap());
    second_reply.release();
    assert_eq!(second.join().unwrap(), "written and closed");
    assert_eq!(read(seen).join().unwrap(), "written and closed");
}
