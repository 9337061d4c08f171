//! Which events end a lock? A flush, a release, and the end of the guest, of its connection and of
//! its daemon.

use super::scene::{NOTHING, Scene, posix, read, write};
use pinhole_tests::frontend::eventually;
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{DESTROY, FORGET, GETATTR};
use pinhole_tests::frontend::locks::{HostLock, Lock, READ, TO_THE_END, WRITE, host_locks};
use pinhole_tests::linux::{EAGAIN, EBADF, ESTALE, O_RDONLY, O_RDWR};
use rustix::process::Signal;
use std::fs;

#[test]
fn flush_ends_only_its_owners_posix_locks_on_the_file() {
    let mut scene = Scene::new(1);
    fs::write(scene.share.host("other"), "x").unwrap();
    let (first, second) = (scene.open(0, O_RDWR), scene.open(0, O_RDONLY));
    let other = scene.guest(0).open("other", O_RDWR).unwrap();
    let guest = scene.guest(0);
    for (file, lock) in [
        (first, write(1, 0, 9)),
        (first, write(1, 20, 29)),
        (first, read(2, 40, 49)),
        (second, Lock::flock(WRITE, 3)),
        (other, write(1, 0, 9)),
    ] {
        assert_eq!(guest.set(file, lock).unwrap(), 0, "{lock:?}");
    }
    // POSIX: a close of any file handle ends all locks of its owner on the file.
    assert_eq!(guest.flush(second, 1).unwrap(), 0);
    let flock = HostLock { family: "FLOCK".to_owned(), start: 0, end: TO_THE_END, write: true };
    assert_eq!(scene.on_host(), [flock.clone(), posix(false, 40, 49)]);
    assert_eq!(host_locks(&scene.share.host("other")).unwrap(), [posix(true, 0, 9)]);
    // Owners without a lock, and the same owner again.
    for owner in [1, 7, u64::MAX] {
        assert_eq!(scene.guest(0).flush(first, owner).unwrap(), 0);
    }
    assert_eq!(scene.on_host(), [flock, posix(false, 40, 49)]);
}

#[test]
fn release_ends_only_locks_of_its_handle() {
    let mut scene = Scene::new(1);
    let (first, second) = (scene.open(0, O_RDWR), scene.open(0, O_RDWR));
    let guest = scene.guest(0);
    assert_eq!(guest.set(first, write(1, 0, 9)).unwrap(), 0);
    assert_eq!(guest.set(second, write(2, 20, 29)).unwrap(), 0);
    assert_eq!(guest.set(first, Lock::flock(READ, 11)).unwrap(), 0);
    assert_eq!(guest.set(second, Lock::flock(READ, 12)).unwrap(), 0);
    assert_eq!(guest.release(first, Some(11)).unwrap(), 0);
    let flock = HostLock { family: "FLOCK".to_owned(), start: 0, end: TO_THE_END, write: false };
    assert_eq!(scene.on_host(), [flock, posix(true, 20, 29)]);
    assert_eq!(scene.guest(0).set(first, write(1, 0, 9)).unwrap(), EBADF);
    assert_eq!(scene.guest(0).release(second, Some(12)).unwrap(), 0);
    assert_eq!(scene.on_host(), NOTHING);
}

/// A guest's kernel does not forget a node that its programs have open, so only a hostile guest
/// sends this FORGET.
#[test]
fn locks_of_a_forgotten_node_stay_until_the_release() {
    let mut scene = Scene::new(2);
    let (file, elsewhere) = (scene.open(0, O_RDWR), scene.open(1, O_RDWR));
    assert_eq!(scene.guest(0).set(file, write(1, 0, 9)).unwrap(), 0);
    assert_eq!(scene.guest(0).set(file, Lock::flock(WRITE, 1)).unwrap(), 0);
    let forget = Frame::new(FORGET, file.0).u64(1).message();
    assert!(scene.guest(0).guest.raw(0, &forget, 0).unwrap().is_unanswered());
    let flock = HostLock { family: "FLOCK".to_owned(), start: 0, end: TO_THE_END, write: true };
    assert_eq!(scene.on_host(), [flock, posix(true, 0, 9)]);
    assert_eq!(scene.guest(1).set(elsewhere, write(1, 9, 9)).unwrap(), EAGAIN);
    assert_eq!(scene.guest(0).release(file, Some(1)).unwrap(), 0);
    assert_eq!(scene.on_host(), NOTHING);
    assert_eq!(scene.guest(1).set(elsewhere, write(1, 9, 9)).unwrap(), 0);
    let asked = Frame::new(GETATTR, file.0).u32(0).u32(0).u64(0);
    assert_eq!(scene.guest(0).errno(asked, 104).unwrap(), ESTALE, "the node was forgotten");
}

#[test]
fn release_without_unlock_flag_ends_the_flock() {
    let mut scene = Scene::new(1);
    let (first, second) = (scene.open(0, O_RDWR), scene.open(0, O_RDWR));
    let guest = scene.guest(0);
    assert_eq!(guest.set(first, Lock::flock(WRITE, 11)).unwrap(), 0);
    assert_eq!(guest.set(second, Lock::flock(WRITE, 12)).unwrap(), EAGAIN);
    assert_eq!(guest.release(first, None).unwrap(), 0);
    assert_eq!(guest.set(second, Lock::flock(WRITE, 12)).unwrap(), 0);
    assert_eq!(guest.release(second, None).unwrap(), 0);
    assert_eq!(scene.on_host(), NOTHING);
}

/// Checks that `end` ends all locks of the first guest and none of the other. If `waits` is set,
/// the locks may end a little later.
fn ends_all(end: impl Fn(&mut Scene), waits: bool) {
    let mut scene = Scene::new(2);
    let (file, elsewhere) = (scene.open(0, O_RDWR), scene.open(1, O_RDWR));
    for owner in 1..20 {
        assert_eq!(scene.guest(0).set(file, write(owner, owner * 10, owner * 10 + 4)).unwrap(), 0);
    }
    assert_eq!(scene.guest(0).set(file, Lock::flock(WRITE, 1)).unwrap(), 0);
    assert_eq!(scene.guest(1).set(elsewhere, write(1, 0, 9)).unwrap(), 0);
    assert_eq!(scene.on_host().len(), 21);
    end(&mut scene);
    if waits {
        eventually("the locks are gone", || scene.on_host().len() == 1);
    }
    assert_eq!(scene.on_host(), [posix(true, 0, 9)], "the lock of another guest stays");
    let last = scene.guests.last_mut().unwrap();
    assert_eq!(last.set(elsewhere, write(1, 0, TO_THE_END)).unwrap(), 0);
}

#[test]
fn init_ends_all_earlier_locks() {
    let again = |scene: &mut Scene| assert_eq!(scene.guest(0).guest.init().unwrap().major, 7);
    ends_all(again, false);
}

#[test]
fn a_destroy_ends_all_locks() {
    ends_all(|scene| drop(scene.guest(0).body(Frame::new(DESTROY, 0), 0).unwrap()), false);
}

#[test]
fn the_end_of_the_connection_ends_all_locks() {
    ends_all(|scene| drop(scene.guests.remove(0)), true);
}

#[test]
fn the_end_of_the_daemon_ends_all_locks() {
    ends_all(
        |scene| {
            let serving = i32::try_from(scene.daemons[0].serving_id()).unwrap();
            let serving = rustix::process::Pid::from_raw(serving).unwrap();
            rustix::process::kill_process(serving, Signal::KILL).unwrap();
        },
        true,
    );
}
