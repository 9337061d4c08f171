//! Which locks exclude each other: of owners of one guest, of guests of two daemons, and of host
//! processes? Which lock does GETLK report?

use super::scene::{NOTHING, Scene, posix, read, write};
use pinhole_tests::frontend::client::Opened;
use pinhole_tests::frontend::frame::opcode::{SETLK, SETLKW};
use pinhole_tests::frontend::locks::{
    ConflictingLock, Lock, READ, TO_THE_END, UNLOCK, WRITE, host_locks, pid_of,
};
use pinhole_tests::linux::{EAGAIN, O_RDONLY, O_RDWR};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use std::fs::{self, File};

#[test]
fn owners_exclude_each_other_through_one_handle() {
    let mut scene = Scene::new(1);
    let (first, second) = (scene.open(0, O_RDWR), scene.open(0, O_RDWR));
    let guest = scene.guest(0);
    assert_eq!(guest.set(first, write(1, 10, 19)).unwrap(), 0);
    // A fork has the same file handle but is another owner.
    for file in [first, second] {
        assert_eq!(guest.set(file, write(2, 19, 30)).unwrap(), EAGAIN);
        assert_eq!(guest.set(file, read(2, 0, 10)).unwrap(), EAGAIN);
        assert_eq!(guest.set(file, read(2, 0, 9)).unwrap(), 0);
        assert_eq!(guest.set(file, read(2, 20, TO_THE_END)).unwrap(), 0);
    }
    // Readers share a range.
    assert_eq!(guest.set(second, read(3, 0, 9)).unwrap(), 0);
    assert_eq!(guest.set(second, write(3, 0, 9)).unwrap(), EAGAIN);
    assert_eq!(guest.set(first, write(1, 10, 19).to(UNLOCK)).unwrap(), 0);
    assert_eq!(guest.set(second, write(2, 10, 19)).unwrap(), 0);
}

#[test]
fn two_guests_and_a_host_process_exclude_each_other() {
    let mut scene = Scene::new(2);
    let files = [scene.open(0, O_RDWR), scene.open(1, O_RDWR)];
    let here = scene.file();
    assert_eq!(scene.guest(0).set(files[0], write(1, 0, 9)).unwrap(), 0);
    // The numbers of the owners are equal, but owners of two guests are never the same.
    assert_eq!(scene.guest(1).set(files[1], write(1, 5, 14)).unwrap(), EAGAIN);
    assert_eq!(fcntl_lock(&here, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    assert_eq!(scene.guest(0).set(files[0], read(1, 0, 9)).unwrap(), 0);
    assert_eq!(scene.guest(1).set(files[1], read(1, 5, 14)).unwrap(), 0);
    assert_eq!(fcntl_lock(&here, FlockOperation::NonBlockingLockShared), Ok(()));
    for (guest, file) in scene.guests.iter_mut().zip(files) {
        assert_eq!(guest.set(file, read(1, 0, TO_THE_END).to(UNLOCK)).unwrap(), 0);
        assert_eq!(guest.set(file, write(1, 0, 9)).unwrap(), EAGAIN, "a host process reads");
    }
    assert_eq!(fcntl_lock(&here, FlockOperation::NonBlockingUnlock), Ok(()));
    assert_eq!(scene.guest(1).set(files[1], write(1, 0, 9)).unwrap(), 0);
    assert_eq!(fcntl_lock(&here, FlockOperation::NonBlockingLockExclusive), Err(Errno::AGAIN));
}

#[test]
fn flock_excludes_other_handles_other_guests_and_host_processes() {
    let mut scene = Scene::new(2);
    let (first, second) = (scene.open(0, O_RDWR), scene.open(0, O_RDONLY));
    let third = scene.open(1, O_RDWR);
    let here = scene.file();
    // For flock the owner is the open file itself. A read-only file may be locked for writing.
    let (one, other) = (Lock::flock(WRITE, 11), Lock::flock(WRITE, 12));
    assert_eq!(scene.guest(0).set(second, other).unwrap(), 0);
    assert_eq!(scene.guest(0).set(first, one.to(READ)).unwrap(), EAGAIN);
    assert_eq!(scene.guest(1).set(third, one.to(READ)).unwrap(), EAGAIN);
    assert_eq!(flock(&here, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    // A downgrade to a shared lock succeeds. An upgrade is refused while other owners share the
    // lock.
    assert_eq!(scene.guest(0).set(second, other.to(READ)).unwrap(), 0);
    assert_eq!(scene.guest(0).set(first, one.to(READ)).unwrap(), 0);
    assert_eq!(scene.guest(1).set(third, one.to(READ)).unwrap(), 0);
    assert_eq!(flock(&here, FlockOperation::NonBlockingLockShared), Ok(()));
    assert_eq!(flock(&here, FlockOperation::NonBlockingUnlock), Ok(()));
    assert_eq!(scene.guest(1).set(third, one).unwrap(), EAGAIN);
    assert_eq!(scene.guest(0).set(first, one.to(UNLOCK)).unwrap(), 0);
    assert_eq!(scene.guest(0).set(second, other.to(UNLOCK)).unwrap(), 0);
    assert_eq!(scene.guest(1).set(third, one).unwrap(), 0);
    assert_eq!(flock(&here, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
}

#[test]
fn unlock_without_a_lock_makes_no_forbidden_call() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    // Before the daemon locks a file, it reads the file's name by readlinkat. This policy grants
    // neither `lock` nor `readlink`. Only `lookup` still permits that call, and only to queue
    // threads.
    fs::write(&policy, "profile = \"rootfs\"\ndeny = [\"readlink\"]\n").unwrap();
    let policy = policy.to_str().unwrap();
    for arguments in
        [["--locks", "guest"], ["--cache", "always"], ["--profile", "rootfs"], ["--policy", policy]]
    {
        let mut scene = Scene::with(1, &arguments);
        let file = scene.open(0, O_RDONLY);
        let guest = scene.guest(0);
        for lock in [read(1, 0, 9), Lock::flock(READ, 1)] {
            for opcode in [SETLK, SETLKW] {
                let said = guest.errno(lock.to(UNLOCK).frame(opcode, file), 0).unwrap();
                assert_eq!(said, 0, "{arguments:?} {lock:?}");
            }
        }
        guest.is_alive().unwrap();
    }
}

#[test]
fn read_only_guests_lock_a_mapped_file_together() {
    let mut scene = Scene::with(2, &["--readonly"]);
    fs::rename(scene.share.host("file"), scene.share.host("db-shm")).unwrap();
    for guest in &mut scene.guests {
        let file = guest.open("db-shm", O_RDONLY).unwrap();
        assert_eq!(guest.set(file, read(1, 120, 120)).unwrap(), 0);
    }
    let host = File::options().write(true).open(scene.share.host("db-shm")).unwrap();
    assert_eq!(fcntl_lock(&host, FlockOperation::NonBlockingLockExclusive), Err(Errno::AGAIN));
}

/// Programs map the index of SQLite's write-ahead log and the lock file of LMDB, and two guests do
/// not share the mapped pages. So only one guest at a time may lock such a file.
#[test]
fn mapped_file_is_locked_by_one_guest_at_a_time() {
    let mut scene = Scene::new(2);
    for name in ["db-shm", "lock.mdb"] {
        fs::write(scene.share.host(name), [0; 4096]).unwrap();
        let whole = [posix(true, 0, TO_THE_END)];
        let on_host = || host_locks(&scene.share.host(name)).unwrap();
        let [here, there] = &mut scene.guests[..] else { panic!() };
        let (mine, yours) = (here.open(name, O_RDWR).unwrap(), there.open(name, O_RDWR).unwrap());
        assert_eq!(here.set(mine, read(1, 128, 128)).unwrap(), 0);
        assert_eq!(on_host(), whole, "{name}");
        assert_eq!(there.set(yours, read(1, 120, 120)).unwrap(), EAGAIN, "{name}");
        let found = ConflictingLock { start: 0, end: TO_THE_END, kind: WRITE, pid: 0 };
        assert_eq!(there.get(yours, write(1, 128, 128)).unwrap(), Some(found), "{name}");
        // Within one guest, locks of single bytes work as for any file.
        assert_eq!(here.set(mine, read(2, 128, 128)).unwrap(), 0);
        assert_eq!(here.set(mine, write(2, 120, 121)).unwrap(), 0);
        assert_eq!(here.set(mine, write(1, 121, 121)).unwrap(), EAGAIN);
        assert_eq!(here.get(mine, write(1, 121, 121)).unwrap().map(|found| found.pid), Some(pid_of(2)));
        assert_eq!(here.get(mine, write(1, 0, 100)).unwrap(), None);
        assert_eq!(here.flush(mine, 1).unwrap(), 0);
        assert_eq!(on_host(), whole, "{name}: the other owner is still there");
        assert_eq!(here.set(mine, read(2, 0, TO_THE_END).to(UNLOCK)).unwrap(), 0);
        assert_eq!(on_host(), NOTHING, "{name}");
        assert_eq!(there.set(yours, read(1, 120, 120)).unwrap(), 0);
        assert_eq!(here.set(mine, read(1, 0, 0)).unwrap(), EAGAIN);
        assert_eq!(there.release(yours, None).unwrap(), 0);
        assert_eq!(on_host(), NOTHING, "{name}");
    }
}

#[test]
fn flock_and_posix_locks_ignore_one_another() {
    let mut scene = Scene::new(2);
    let (first, second) = (scene.open(0, O_RDWR), scene.open(1, O_RDWR));
    assert_eq!(scene.guest(0).set(first, Lock::flock(WRITE, 1)).unwrap(), 0);
    assert_eq!(scene.guest(1).set(second, write(1, 0, TO_THE_END)).unwrap(), 0);
    assert_eq!(scene.guest(0).get(first, write(1, 0, 0)).unwrap().map(|found| found.kind), Some(WRITE));
    assert_eq!(scene.guest(0).set(first, Lock::flock(UNLOCK, 1)).unwrap(), 0);
    assert_eq!(scene.on_host(), [posix(true, 0, TO_THE_END)]);
}

#[test]
fn getlk_returns_the_conflicting_lock_and_its_owner() {
    let mut scene = Scene::with(2, &["--sandbox", "none"]);
    let files = [scene.open(0, O_RDWR), scene.open(1, O_RDWR)];
    let asked = write(2, 5, 30);
    assert_eq!(scene.guest(0).get(files[0], asked).unwrap(), None);
    assert_eq!(scene.guest(0).set(files[0], read(1, 10, 19)).unwrap(), 0);
    let found = ConflictingLock { start: 10, end: 19, kind: READ, pid: pid_of(1) };
    assert_eq!(scene.guest(0).get(files[0], asked).unwrap(), Some(found));
    // There is no conflict with a lock of the same owner, between readers, or on other bytes.
    for free in [write(1, 0, TO_THE_END), read(2, 0, TO_THE_END), write(2, 0, 9), write(2, 20, TO_THE_END)] {
        assert_eq!(scene.guest(0).get(files[0], free).unwrap(), None, "{free:?}");
    }
    // The reply names no process of another guest.
    assert_eq!(scene.guest(1).get(files[1], asked).unwrap(), Some(ConflictingLock { pid: 0, ..found }));
    assert_eq!(scene.guest(0).set(files[0], read(1, 0, TO_THE_END).to(UNLOCK)).unwrap(), 0);
    let here = scene.file();
    fcntl_lock(&here, FlockOperation::NonBlockingLockExclusive).unwrap();
    // The reply names no process of the host either: the guest may have another process with that
    // number.
    let whole = ConflictingLock { start: 0, end: TO_THE_END, kind: WRITE, pid: 0 };
    assert_eq!(scene.guest(1).get(files[1], asked).unwrap(), Some(whole));
    drop(here);
    assert_eq!(scene.guest(1).get(files[1], asked).unwrap(), None);
}

#[test]
fn ranges_merge_split_and_change_kind_through_any_handle() {
    let mut scene = Scene::new(1);
    let (reads, both) = (scene.open(0, O_RDONLY), scene.open(0, O_RDWR));
    let mut set = |file: Opened, lock: Lock, expected: &[(bool, u64, u64)]| {
        assert_eq!(scene.guest(0).set(file, lock).unwrap(), 0, "{lock:?}");
        let expected: Vec<_> =
            expected.iter().map(|(write, start, end)| posix(*write, *start, *end)).collect();
        assert_eq!(scene.on_host(), expected, "after {lock:?}");
    };
    set(reads, read(1, 0, 9), &[(false, 0, 9)]);
    // The next ranges lie beside the first range, over a part of both, and over all. They use the
    // other file handle, because the first does not allow locks for writing.
    set(both, read(1, 10, 19), &[(false, 0, 19)]);
    set(both, write(1, 5, 14), &[(false, 0, 4), (true, 5, 14), (false, 15, 19)]);
    set(both, write(1, 0, 19), &[(true, 0, 19)]);
    // A downgrade through the read-only file handle.
    set(reads, read(1, 8, 11), &[(true, 0, 7), (false, 8, 11), (true, 12, 19)]);
    set(reads, write(1, 4, 15).to(UNLOCK), &[(true, 0, 3), (true, 16, 19)]);
    set(both, write(1, 16, TO_THE_END), &[(true, 0, 3), (true, 16, TO_THE_END)]);
    set(both, write(1, 0, TO_THE_END).to(UNLOCK), &[]);
    // An unlock without a lock succeeds.
    set(both, write(1, 3, 3).to(UNLOCK), &[]);
}

#[test]
fn locks_of_hard_links_are_of_one_file() {
    let mut scene = Scene::new(2);
    fs::hard_link(scene.share.host("file"), scene.share.host("link")).unwrap();
    let (file, link) = (scene.open(0, O_RDWR), scene.guest(0).open_again("link", O_RDWR).unwrap());
    let elsewhere = scene.guest(1).open("link", O_RDWR).unwrap();
    assert_eq!(scene.guest(0).set(file, write(1, 0, 9)).unwrap(), 0);
    assert_eq!(scene.guest(0).set(link, write(2, 0, 9)).unwrap(), EAGAIN);
    assert_eq!(scene.guest(0).set(link, write(1, 5, 14)).unwrap(), 0);
    assert_eq!(scene.guest(1).set(elsewhere, write(1, 14, 14)).unwrap(), EAGAIN);
    assert_eq!(scene.on_host(), [posix(true, 0, 14)]);
    // The open file stays the same after one of its names is removed and the other is replaced.
    fs::remove_file(scene.share.host("link")).unwrap();
    fs::write(scene.share.host("new"), "x").unwrap();
    fs::rename(scene.share.host("new"), scene.share.host("file")).unwrap();
    assert_eq!(scene.guest(1).set(elsewhere, write(1, 14, 14)).unwrap(), EAGAIN);
    let new = scene.open(1, O_RDWR);
    assert_eq!(scene.guest(1).set(new, write(1, 0, 9)).unwrap(), 0);
}
