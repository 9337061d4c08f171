//! Is each invalid or excessive request refused without leaving a lock behind?

use super::scene::{NOTHING, Scene, posix, read, write};
use pinhole_tests::frontend::client::Opened;
use pinhole_tests::frontend::frame::opcode::{FLUSH, GETLK, OPENDIR, SETLK, SETLKW};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::locks::{Lock, TO_THE_END, UNLOCK, WRITE};
use pinhole_tests::frontend::{Footprint, eventually};
use pinhole_tests::linux::{EBADF, EINVAL, ENOLCK, O_RDONLY, O_RDWR, O_WRONLY};

#[test]
fn file_handle_locks_only_in_its_access_mode() {
    let mut scene = Scene::new(1);
    let (reads, writes) = (scene.open(0, O_RDONLY), scene.open(0, O_WRONLY));
    let guest = scene.guest(0);
    assert_eq!(guest.set(reads, write(1, 0, 9)).unwrap(), EBADF);
    assert_eq!(guest.set(writes, read(1, 0, 9)).unwrap(), EBADF);
    let waits = guest.submit_setlkw(reads, write(1, 0, 9)).unwrap();
    assert_eq!(guest.outcome(waits).unwrap(), EBADF);
    assert_eq!(guest.set(reads, read(1, 0, 9)).unwrap(), 0);
    // A handle for reading must not upgrade the lock that its owner already has.
    assert_eq!(guest.set(reads, write(1, 0, 9)).unwrap(), EBADF);
    assert_eq!(guest.set(writes, write(2, 10, 19)).unwrap(), 0);
    assert_eq!(guest.get(reads, write(3, 10, 19)).unwrap().map(|found| found.kind), Some(WRITE));
    assert_eq!(scene.on_host(), [posix(false, 0, 9), posix(true, 10, 19)]);
}

/// Returns requests that are wrong in one place each.
fn garbage((node, handle): Opened, directory: Opened) -> Vec<(Frame, &'static [i32])> {
    let good = write(1, 10, 19);
    let flock = Lock::flock(WRITE, 1);
    let mut all = Vec::new();
    for opcode in [GETLK, SETLK, SETLKW] {
        let mut wrong =
            |lock: Lock, at: Opened, errnos: &'static [i32]| all.push((lock.frame(opcode, at), errnos));
        let file = (node, handle);
        for (start, end) in [
            (20, 19),
            (u64::MAX, 0),
            (0, TO_THE_END + 1),
            (0, u64::MAX),
            (TO_THE_END + 1, TO_THE_END + 1),
            (1 << 63, u64::MAX),
            (u64::MAX, u64::MAX),
        ] {
            wrong(Lock { start, end, ..good }, file, &[EINVAL]);
        }
        for kind in [3, 4, 0x8000_0000, u32::MAX] {
            wrong(good.to(kind), file, &[EINVAL]);
            wrong(flock.to(kind), file, &[EINVAL]);
        }
        for lk_flags in [2, 4, 3, 0x8000_0000, u32::MAX] {
            wrong(Lock { lk_flags, ..good }, file, &[EINVAL]);
        }
        for (start, end) in [(0, 9), (1, TO_THE_END), (9, 0), (0, u64::MAX)] {
            wrong(Lock { start, end, ..flock }, file, &[EINVAL]);
        }
        for lock in [good, flock] {
            wrong(lock, directory, &[EBADF, EINVAL]);
            for unknown in [0, handle + 1, handle ^ 1 << 31, handle + (1 << 32), u64::MAX] {
                wrong(lock, (node, unknown), &[EBADF]);
            }
        }
    }
    all
}

#[test]
fn wrong_field_leaves_no_lock() {
    let mut scene = Scene::new(1);
    let file = scene.open(0, O_RDWR);
    let guest = scene.guest(0);
    let directory = guest.body(Frame::new(OPENDIR, 1).u32(0).u32(0), 16).unwrap();
    let directory = (1, u64_at(&directory, 0).unwrap());
    for (frame, expected) in garbage(file, directory) {
        let said = guest.errno(frame.clone(), 24).unwrap();
        assert!(expected.contains(&said), "{said} to {frame:?}");
    }
    for frame in [Frame::new(SETLK, file.0).u64(file.1), Frame::new(FLUSH, file.0).u64(file.1)] {
        assert_eq!(guest.errno(frame, 0).unwrap(), EINVAL, "cut off");
    }
    assert_eq!(scene.on_host(), NOTHING);
    // Unusual but valid requests are served.
    let guest = scene.guest(0);
    for (start, end) in [(0, 0), (TO_THE_END, TO_THE_END), (TO_THE_END - 1, TO_THE_END), (0, TO_THE_END)] {
        for owner in [0, 1, u64::MAX] {
            let lock = Lock { pid: u32::MAX, ..write(owner, start, end) };
            assert_eq!(guest.set(file, lock).unwrap(), 0, "{lock:?}");
            assert_eq!(guest.set(file, lock.to(UNLOCK)).unwrap(), 0, "{lock:?}");
        }
    }
    assert_eq!(scene.on_host(), NOTHING);
}

#[test]
fn file_handle_of_another_guest_is_ebadf() {
    let mut scene = Scene::new(2);
    let file = scene.open(0, O_RDWR);
    let node = scene.guest(1).look_up("file").unwrap();
    for lock in [write(1, 0, 9), Lock::flock(WRITE, 1), write(1, 0, 9).to(UNLOCK)] {
        assert_eq!(scene.guest(1).set((node, file.1), lock).unwrap(), EBADF, "{lock:?}");
    }
    assert_eq!(scene.on_host(), NOTHING);
}

#[test]
fn flood_of_lock_owners_leaks_nothing() {
    let mut scene = Scene::new(1);
    let file = scene.open(0, O_RDWR);
    assert_eq!(scene.guest(0).set(file, read(1, 0, 9)).unwrap(), 0);
    assert_eq!(scene.guest(0).flush(file, 1).unwrap(), 0);
    let before = Footprint::of(scene.daemons[0].serving_id()).unwrap();
    let guest = &mut scene.guests[0];
    let mut held = 0;
    for owner in 0..3000 {
        let said = guest.set(file, read(owner, owner, owner + 100)).unwrap();
        assert!([0, ENOLCK].contains(&said), "{said} to owner {owner}");
        held += u64::from(said == 0);
    }
    assert!(held > 100, "only {held} owners of a lock");
    let other = guest.open("file", O_RDWR).unwrap();
    assert_eq!(guest.release(other, None).unwrap(), 0);
    for owner in 0..3000 {
        assert_eq!(guest.flush(file, owner).unwrap(), 0);
    }
    assert_eq!(scene.on_host(), NOTHING);
    let after = Footprint::of(scene.daemons[0].serving_id()).unwrap();
    assert!(after.descriptors <= before.descriptors, "{before:?} became {after:?}");
    // A thread that was started on demand ends when it has been idle for a while.
    let id = scene.daemons[0].serving_id();
    eventually("no thread of the requests is left", || Footprint::of(id).unwrap().threads <= before.threads);
}
