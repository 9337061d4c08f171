//! Does a daemon offer locks exactly if it keeps them on the host, and refuse them otherwise?

use super::scene::{NOTHING, Scene, WIDE, read, write};
use pinhole_protocol::InitFlags;
use pinhole_tests::frontend::client::{Client, SharedFolder};
use pinhole_tests::frontend::frame::opcode::{GETLK, SETLK, SETLKW};
use pinhole_tests::frontend::locks::{Lock, READ, TO_THE_END, WRITE};
use pinhole_tests::linux::{ENOLCK, EPERM, O_RDONLY, O_RDWR};
use std::fs;

/// Flags of INIT that offer locks.
const LOCKS: InitFlags = InitFlags::POSIX_LOCKS.union(InitFlags::FLOCK_LOCKS);

#[test]
fn locks_are_offered_where_they_are_held_on_the_host() {
    let share = SharedFolder::new().unwrap();
    let policy = share.folder().join("policy.toml");
    fs::write(&policy, "deny = [\"lock\"]\n").unwrap();
    let policy = policy.to_str().unwrap();
    let rows: [(&[&str], InitFlags); 7] = [
        (&[], LOCKS),
        (&["--locks", "host"], LOCKS),
        (&["--readonly"], LOCKS),
        (&["--locks", "none"], LOCKS),
        (&["--locks", "guest"], InitFlags::empty()),
        (&["--profile", "rootfs"], InitFlags::empty()),
        (&["--policy", policy], InitFlags::empty()),
    ];
    for (arguments, offered) in rows {
        let daemon = share.serve(arguments).unwrap();
        let (_guest, agreed) = Client::connect(daemon.socket(), WIDE).unwrap();
        assert_eq!(agreed.flags & LOCKS, offered, "{arguments:?}");
    }
}

#[test]
fn refused_locks_are_enolck_and_close_succeeds() {
    let mut scene = Scene::with(1, &["--locks", "none"]);
    let file = scene.open(0, O_RDWR);
    let guest = scene.guest(0);
    for lock in [write(1, 0, 9), read(1, 0, TO_THE_END), Lock::flock(WRITE, 1), Lock::flock(READ, 1)] {
        for opcode in [SETLK, SETLKW] {
            assert_eq!(guest.errno(lock.frame(opcode, file), 0).unwrap(), ENOLCK, "{lock:?}");
        }
    }
    assert_eq!(guest.errno(write(1, 0, 9).frame(GETLK, file), 24).unwrap(), ENOLCK);
    assert_eq!(guest.flush(file, 1).unwrap(), 0);
    assert_eq!(guest.release(file, Some(1)).unwrap(), 0);
    assert_eq!(scene.on_host(), NOTHING);
}

#[test]
fn policy_without_locks_refuses_every_lock_request() {
    let mut scene = Scene::with(1, &["--profile", "rootfs"]);
    let file = scene.open(0, O_RDONLY);
    let guest = scene.guest(0);
    for lock in [read(1, 0, 9), Lock::flock(READ, 1), Lock::flock(WRITE, 1)] {
        for opcode in [SETLK, SETLKW] {
            assert_eq!(guest.errno(lock.frame(opcode, file), 0).unwrap(), EPERM, "{lock:?}");
        }
    }
    assert_eq!(guest.errno(read(1, 0, 9).frame(GETLK, file), 24).unwrap(), EPERM);
    assert_eq!(scene.on_host(), NOTHING);
}
