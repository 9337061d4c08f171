//! How much memory does a daemon keep after its guests have ended?

use pinhole_tests::daemon::{Daemon, Serving};
use pinhole_tests::frontend::frame::opcode::{GETATTR, OPENDIR, READDIRPLUS};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::{Footprint, Frontend, FrontendError, OUT_HEADER_LEN};
use pinhole_tests::linux::{ENTRY_LEN, ROOT};
use std::fs;

/// Connects a guest, which sends INIT and one request.
fn visit(daemon: &Serving) -> Result<Frontend, FrontendError> {
    let mut guest = Frontend::connect(daemon.socket())?;
    guest.init()?;
    let getattr = Frame::new(GETATTR, ROOT).u32(0).u32(0).u64(0);
    guest.raw(1, &getattr.message(), OUT_HEADER_LEN + 104)?.success()?;
    Ok(guest)
}

/// Memory in KiB that a daemon may keep after a large guest: the first segments of three tables
/// (0.2 MiB each), the stack that two queue threads have touched, and memory that the allocator
/// cannot return because one of its pages is in use.
const LEFT_KIB: u64 = 1536;

/// Returns the memory in KiB of a daemon whose guest has sent INIT and one request. The daemon
/// accepts this guest only after all threads of the last one have ended.
fn memory_with_small_guest_kib(daemon: &Serving) -> u64 {
    let guest = visit(daemon).unwrap();
    let footprint = Footprint::of(daemon.serving_id()).unwrap();
    drop(guest);
    footprint.anonymous_kib
}

#[test]
fn daemon_returns_the_memory_of_a_large_guest() {
    const FILES: usize = 200_000;
    // In memory, because a busy disk takes minutes for so many files.
    let folder = tempfile::Builder::new().prefix("pinhole-memory-").tempdir_in("/dev/shm").unwrap();
    for number in 0..FILES {
        fs::File::create(folder.path().join(number.to_string())).unwrap();
    }
    let daemon = Daemon::pinhole(folder.path()).unwrap().confined_to(folder.path());
    let daemon = daemon.argument("--keep-listening").start().unwrap();
    let fresh = memory_with_small_guest_kib(&daemon);
    let mut guest = visit(&daemon).unwrap();
    let listed = list_all(&mut guest);
    assert!(listed >= FILES, "{listed}");
    let held = Footprint::of(daemon.serving_id()).unwrap().anonymous_kib;
    assert!(held > fresh + 16 * 1024, "{FILES} inodes take {} KiB", held - fresh);
    drop(guest);
    let after = memory_with_small_guest_kib(&daemon);
    println!(
        "{fresh} KiB with a small guest, {held} KiB with {FILES} inodes, {after} KiB with a small guest after it"
    );
    assert!(after <= fresh + LEFT_KIB, "{fresh} KiB became {after} KiB, from {held} KiB");
}

/// Looks up all entries of the root by READDIRPLUS, without a FORGET. Returns their number.
fn list_all(guest: &mut Frontend) -> usize {
    const ROOM: usize = 1 << 20;
    const DIRENT: usize = 24;
    let opened =
        guest.raw(1, &Frame::new(OPENDIR, ROOT).u32(0).u32(0).message(), OUT_HEADER_LEN + 16).unwrap();
    let handle = u64_at(opened.success().unwrap(), 0).unwrap();
    let (mut cookie, mut listed) = (0, 0);
    loop {
        let room = u32::try_from(ROOM).unwrap();
        let read =
            Frame::new(READDIRPLUS, ROOT).u64(handle).u64(cookie).u32(room).u32(0).u64(0).u32(0).u32(0);
        let reply = guest.raw(1, &read.message(), OUT_HEADER_LEN + ROOM).unwrap();
        let mut rest = reply.success().unwrap();
        if rest.is_empty() {
            return listed;
        }
        while !rest.is_empty() {
            cookie = u64_at(rest, ENTRY_LEN + 8).unwrap();
            let name_len = u32::from_le_bytes(rest[ENTRY_LEN + 16..ENTRY_LEN + 20].try_into().unwrap());
            rest = &rest[(ENTRY_LEN + DIRENT + usize::try_from(name_len).unwrap()).next_multiple_of(8)..];
            listed += 1;
        }
    }
}
