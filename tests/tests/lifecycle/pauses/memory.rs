//! What does a change of the guest's memory wait for? QEMU makes such a change for each DAX
//! mapping, and its main loop waits for the reply.

use super::{File, HALF, LONG, Lane, MANY, Scene, copy, fsync, reply_body};
use pinhole_tests::frontend::eventually;
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{FALLOCATE, RELEASE};
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

/// Number of attempts. One may fail because the host is busy when a reply arrives. If a daemon
/// waits for the requests that it has taken, every attempt fails.
const TURNS: usize = 5;
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;

fn fallocate((node, handle): File, len: u64, mode: u32) -> Frame {
    Frame::new(FALLOCATE, node).u64(handle).u64(0).u64(len).u32(mode).u32(0)
}

#[test]
fn change_of_memory_does_not_wait_for_a_reservation() {
    changes_memory_while_it_reserves(&mut Scene::in_memory(&["--thread-pool-size=1"]), 0);
}

/// The thread of another queue waits for space in the pool, which is full until the reservation
/// ends.
#[test]
fn change_of_memory_does_not_wait_for_pool_room() {
    let policy = tempfile::NamedTempFile::new().unwrap();
    fs::write(policy.path(), "[limits]\nqueued-requests = 3\n").unwrap();
    let policy = format!("--policy={}", policy.path().display());
    changes_memory_while_it_reserves(&mut Scene::in_memory(&["--thread-pool-size=1", &policy]), 8);
}

/// Changes the memory while one queue reserves space and another queue has `syncs` FSYNCs.
fn changes_memory_while_it_reserves(scene: &mut Scene, syncs: usize) {
    let (mut lane, mut other) = (Lane::new(2), Lane::new(1));
    let synced = scene.create("synced");
    let mut unfinished = 0;
    for turn in 0..TURNS {
        let name = format!("file{turn}");
        let file = scene.create(&name);
        lane.offer(&mut scene.guest, fallocate(file, LONG, 0), 0);
        lane.kick(&mut scene.guest);
        eventually("the reservation has begun", || scene.blocks(&name) > 0);
        for _ in 0..syncs {
            other.offer(&mut scene.guest, fsync(synced), 0);
        }
        other.kick(&mut scene.guest);
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        scene.guest.share_memory().unwrap();
        // The daemon runs a long FALLOCATE in steps, and only the last step changes the length
        // (`ops/fallocate.rs`). So a length of 0 shows that the reservation has not ended.
        let data = fs::metadata(scene.host(&name)).unwrap();
        unfinished += usize::from(data.len() == 0);
        for lane in [&mut lane, &mut other] {
            assert!(lane.finish(&mut scene.guest).iter().all(|errno| *errno == 0));
        }
        let data = fs::metadata(scene.host(&name)).unwrap();
        assert_eq!((data.len(), data.blocks() * 512), (LONG, LONG));
        fs::remove_file(scene.host(&name)).unwrap();
        reply_body(&mut scene.guest, Frame::new(RELEASE, file.0).u64(file.1).u32(0).u32(0).u64(0), 0);
    }
    assert!(unfinished > 0, "each change of memory waited for the reservation");
}

/// A change of memory interrupts the punching of a hole, which then waits in the pool behind other
/// requests. A stop must not return the request to the ring, because to punch the hole again would
/// remove data that the host has written since.
#[test]
fn interrupted_hole_is_finished_before_its_queue_stops() {
    let mut scene = Scene::in_memory(&["--thread-pool-size=1"]);
    let file = scene.create("file");
    reply_body(&mut scene.guest, fallocate(file, LONG, 0), 0);
    let whole = scene.blocks("file");
    let (from, to) = (scene.create("from"), scene.create("to"));
    fs::write(scene.host("from"), vec![7; 64 << 20]).unwrap();
    let (mut holes, mut copies) = (Lane::new(1), Lane::new(2));
    holes.offer(&mut scene.guest, fallocate(file, LONG, PUNCH_HOLE | KEEP_SIZE), 0);
    for _ in 0..MANY / 10 {
        copies.offer(&mut scene.guest, copy(from, to, 64 << 20), 8);
    }
    holes.kick(&mut scene.guest);
    eventually("a part of the hole is punched", || scene.blocks("file") < whole);
    copies.kick(&mut scene.guest);
    std::thread::park_timeout(std::time::Duration::from_millis(5));
    scene.guest.share_memory().unwrap();
    let (base, _, _) = holes.stop(&mut scene.guest);
    assert_eq!(base, 1, "a partly served request was returned to the ring");
    let host = fs::File::options().write(true).read(true).open(scene.host("file")).unwrap();
    host.write_all_at(b"new", 0).unwrap();
    holes.resume(&mut scene.guest, base);
    for lane in [&mut holes, &mut copies] {
        assert!(lane.finish(&mut scene.guest).iter().all(|errno| *errno == 0));
    }
    let mut read = [0; 3];
    host.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"new");
    assert!(HALF > scene.blocks("file") * 512);
}

#[test]
fn change_of_memory_waits_for_few_of_many_copies() {
    let mut scene = Scene::in_memory(&["--thread-pool-size=1"]);
    let (from, to) = (scene.create("from"), scene.create("to"));
    fs::write(scene.host("from"), vec![7; 64 << 20]).unwrap();
    let mut lane = Lane::new(1);
    for _ in 0..MANY {
        lane.offer(&mut scene.guest, copy(from, to, 64 << 20), 8);
    }
    lane.kick(&mut scene.guest);
    let mut fewest = MANY;
    for _ in 0..TURNS {
        let before = lane.collect(&mut scene.guest);
        lane.wait_for_more(&mut scene.guest, before);
        let before = lane.collect(&mut scene.guest);
        scene.guest.share_memory().unwrap();
        fewest = fewest.min(lane.collect(&mut scene.guest) - before);
    }
    // The request in progress, and one more that begins before its reply is seen.
    assert!(fewest <= 2, "at least {fewest} were served before each change of memory");
    assert!(lane.finish(&mut scene.guest).iter().all(|errno| *errno == 0));
}
