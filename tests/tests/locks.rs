//! Do the guests' locks hold on the host: between the owners of one guest, between guests of different daemons, and
//! between guests and host processes? And does each end when it has to, and no wrong request leave one behind?
//!
//! `lock_waits` asks what becomes of who waits, `lock_ranges` whether ranges are those of a model.
#![cfg(test)]

use pinhole_protocol::InitFlags;
use pinhole_tests::daemon::Serving;
use pinhole_tests::frontend::client::{Client, Opened, Share};
use pinhole_tests::frontend::frame::opcode::{
    DESTROY, FLUSH, FORGET, GETATTR, GETLK, OPENDIR, SETLK, SETLKW,
};
use pinhole_tests::frontend::frame::{Frame, u64_at};
use pinhole_tests::frontend::locks::{
    HostLock, InTheWay, Lock, READ, TO_THE_END, UNLOCK, WRITE, host_locks, pid_of,
};
use pinhole_tests::frontend::{EVENT_IDX, Footprint, INDIRECT, Setup, eventually};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs::{self, File};

const O_RDONLY: u32 = 0;
const O_WRONLY: u32 = 1;
const O_RDWR: u32 = 2;
const EPERM: i32 = 1;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const ENOLCK: i32 = 37;
const ESTALE: i32 = 116;
const LOCKS: InitFlags = InitFlags::POSIX_LOCKS.union(InitFlags::FLOCK_LOCKS);
const NOTHING: Vec<HostLock> = Vec::new();
/// So many descriptors that a thousand requests fit.
const WIDE: Setup = Setup { queues: 2, queue_size: 1024, features: INDIRECT | EVENT_IDX };

/// A share with a `file`, and guests, each of a daemon of its own.
struct Scene {
    guests: Vec<Client>,
    daemons: Vec<Serving>,
    share: Share,
}

impl Scene {
    fn new(guests: usize) -> Self {
        Self::with(guests, &[])
    }

    fn with(guests: usize, arguments: &[&str]) -> Self {
        let mut scene = Self { guests: Vec::new(), daemons: Vec::new(), share: Share::new().unwrap() };
        fs::write(scene.share.host("file"), [7; 4096]).unwrap();
        for _ in 0..guests {
            let daemon = scene.share.serve(arguments).unwrap();
            scene.guests.push(Client::connect(daemon.socket(), WIDE).unwrap().0);
            scene.daemons.push(daemon);
        }
        scene
    }

    fn guest(&mut self, index: usize) -> &mut Client {
        &mut self.guests[index]
    }

    fn open(&mut self, index: usize, flags: u32) -> Opened {
        self.guests[index].open("file", flags).unwrap()
    }

    /// As a host process sees the file.
    fn on_host(&self) -> Vec<HostLock> {
        host_locks(&self.share.host("file")).unwrap()
    }

    /// The file as a host process opens it: this test is one.
    fn file(&self) -> File {
        File::options().read(true).write(true).open(self.share.host("file")).unwrap()
    }
}

fn write(owner: u64, start: u64, end: u64) -> Lock {
    Lock::posix(WRITE, owner, start, end)
}

fn read(owner: u64, start: u64, end: u64) -> Lock {
    Lock::posix(READ, owner, start, end)
}

/// Of the family that excludes other daemons and host processes.
fn posix(write: bool, start: u64, end: u64) -> HostLock {
    HostLock { family: "OFDLCK".to_owned(), start, end, write }
}

#[test]
fn locks_are_offered_where_they_are_held_on_the_host() {
    let share = Share::new().unwrap();
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
fn where_locks_are_refused_each_is_enolck_and_closing_is_not() {
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
fn a_policy_without_locks_refuses_whoever_asks_all_the_same() {
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

#[test]
fn owners_of_one_guest_exclude_one_another_also_through_one_handle() {
    let mut scene = Scene::new(1);
    let (first, second) = (scene.open(0, O_RDWR), scene.open(0, O_RDWR));
    let guest = scene.guest(0);
    assert_eq!(guest.set(first, write(1, 10, 19)).unwrap(), 0);
    // A fork has the same handle and is another owner.
    for file in [first, second] {
        assert_eq!(guest.set(file, write(2, 19, 30)).unwrap(), EAGAIN);
        assert_eq!(guest.set(file, read(2, 0, 10)).unwrap(), EAGAIN);
        assert_eq!(guest.set(file, read(2, 0, 9)).unwrap(), 0);
        assert_eq!(guest.set(file, read(2, 20, TO_THE_END)).unwrap(), 0);
    }
    // Readers share.
    assert_eq!(guest.set(second, read(3, 0, 9)).unwrap(), 0);
    assert_eq!(guest.set(second, write(3, 0, 9)).unwrap(), EAGAIN);
    assert_eq!(guest.set(first, write(1, 10, 19).to(UNLOCK)).unwrap(), 0);
    assert_eq!(guest.set(second, write(2, 10, 19)).unwrap(), 0);
}

#[test]
fn guests_of_two_daemons_and_a_host_process_exclude_one_another() {
    let mut scene = Scene::new(2);
    let files = [scene.open(0, O_RDWR), scene.open(1, O_RDWR)];
    let here = scene.file();
    assert_eq!(scene.guest(0).set(files[0], write(1, 0, 9)).unwrap(), 0);
    // The owner has the same name in both guests, and is another one.
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
    // For flock the owner is the open file itself. A read-only one may be locked for writing.
    let (one, other) = (Lock::flock(WRITE, 11), Lock::flock(WRITE, 12));
    assert_eq!(scene.guest(0).set(second, other).unwrap(), 0);
    assert_eq!(scene.guest(0).set(first, one.to(READ)).unwrap(), EAGAIN);
    assert_eq!(scene.guest(1).set(third, one.to(READ)).unwrap(), EAGAIN);
    assert_eq!(flock(&here, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    // Down to sharing, and no further while others share.
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
fn giving_back_what_nobody_has_is_no_call_that_a_filter_would_end_the_daemon_for() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    // Nothing is granted for which the host would be asked what a locked file is called.
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
fn guests_that_only_read_lock_a_file_that_is_shared_by_memory_together() {
    let mut scene = Scene::with(2, &["--readonly"]);
    fs::rename(scene.share.host("file"), scene.share.host("db-shm")).unwrap();
    for guest in &mut scene.guests {
        let file = guest.open("db-shm", O_RDONLY).unwrap();
        assert_eq!(guest.set(file, read(1, 120, 120)).unwrap(), 0);
    }
    let host = File::options().write(true).open(scene.share.host("db-shm")).unwrap();
    assert_eq!(fcntl_lock(&host, FlockOperation::NonBlockingLockExclusive), Err(Errno::AGAIN));
}

/// SQLite's index of a write-ahead log: programs map it, and two guests have no page of it in common.
#[test]
fn a_file_that_is_shared_by_memory_is_locked_by_one_guest_at_a_time() {
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
        let found = InTheWay { start: 0, end: TO_THE_END, kind: WRITE, pid: 0 };
        assert_eq!(there.get(yours, write(1, 128, 128)).unwrap(), Some(found), "{name}");
        // Within the guest it is a file like any.
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
fn getlk_says_what_is_in_the_way_and_whose_it_is() {
    let mut scene = Scene::with(2, &["--sandbox", "none"]);
    let files = [scene.open(0, O_RDWR), scene.open(1, O_RDWR)];
    let asked = write(2, 5, 30);
    assert_eq!(scene.guest(0).get(files[0], asked).unwrap(), None);
    assert_eq!(scene.guest(0).set(files[0], read(1, 10, 19)).unwrap(), 0);
    let found = InTheWay { start: 10, end: 19, kind: READ, pid: pid_of(1) };
    assert_eq!(scene.guest(0).get(files[0], asked).unwrap(), Some(found));
    // Not in the way of its own owner, of a reader, or of other bytes.
    for free in [write(1, 0, TO_THE_END), read(2, 0, TO_THE_END), write(2, 0, 9), write(2, 20, TO_THE_END)] {
        assert_eq!(scene.guest(0).get(files[0], free).unwrap(), None, "{free:?}");
    }
    // Of another guest nobody knows which process it is.
    assert_eq!(scene.guest(1).get(files[1], asked).unwrap(), Some(InTheWay { pid: 0, ..found }));
    assert_eq!(scene.guest(0).set(files[0], read(1, 0, TO_THE_END).to(UNLOCK)).unwrap(), 0);
    let here = scene.file();
    fcntl_lock(&here, FlockOperation::NonBlockingLockExclusive).unwrap();
    // Nor of a process of the host: its number would be another's in the guest.
    let whole = InTheWay { start: 0, end: TO_THE_END, kind: WRITE, pid: 0 };
    assert_eq!(scene.guest(1).get(files[1], asked).unwrap(), Some(whole));
    drop(here);
    assert_eq!(scene.guest(1).get(files[1], asked).unwrap(), None);
}

#[test]
fn ranges_of_one_owner_merge_split_and_change_kind_through_any_of_its_handles() {
    let mut scene = Scene::new(1);
    let (reads, both) = (scene.open(0, O_RDONLY), scene.open(0, O_RDWR));
    let mut set = |file: Opened, lock: Lock, expected: &[(bool, u64, u64)]| {
        assert_eq!(scene.guest(0).set(file, lock).unwrap(), 0, "{lock:?}");
        let expected: Vec<_> =
            expected.iter().map(|(write, start, end)| posix(*write, *start, *end)).collect();
        assert_eq!(scene.on_host(), expected, "after {lock:?}");
    };
    set(reads, read(1, 0, 9), &[(false, 0, 9)]);
    // Beside it, over it, and for writing, which the first handle could not.
    set(both, read(1, 10, 19), &[(false, 0, 19)]);
    set(both, write(1, 5, 14), &[(false, 0, 4), (true, 5, 14), (false, 15, 19)]);
    set(both, write(1, 0, 19), &[(true, 0, 19)]);
    // Down again through the one that only reads.
    set(reads, read(1, 8, 11), &[(true, 0, 7), (false, 8, 11), (true, 12, 19)]);
    set(reads, write(1, 4, 15).to(UNLOCK), &[(true, 0, 3), (true, 16, 19)]);
    set(both, write(1, 16, TO_THE_END), &[(true, 0, 3), (true, 16, TO_THE_END)]);
    set(both, write(1, 0, TO_THE_END).to(UNLOCK), &[]);
    // What is not locked may be unlocked.
    set(both, write(1, 3, 3).to(UNLOCK), &[]);
}

#[test]
fn a_file_is_one_by_whatever_name_it_is_opened() {
    let mut scene = Scene::new(2);
    fs::hard_link(scene.share.host("file"), scene.share.host("link")).unwrap();
    let (file, link) = (scene.open(0, O_RDWR), scene.guest(0).open_again("link", O_RDWR).unwrap());
    let elsewhere = scene.guest(1).open("link", O_RDWR).unwrap();
    assert_eq!(scene.guest(0).set(file, write(1, 0, 9)).unwrap(), 0);
    assert_eq!(scene.guest(0).set(link, write(2, 0, 9)).unwrap(), EAGAIN);
    assert_eq!(scene.guest(0).set(link, write(1, 5, 14)).unwrap(), 0);
    assert_eq!(scene.guest(1).set(elsewhere, write(1, 14, 14)).unwrap(), EAGAIN);
    assert_eq!(scene.on_host(), [posix(true, 0, 14)]);
    // Renamed over and gone, it is still the file that is open.
    fs::remove_file(scene.share.host("link")).unwrap();
    fs::write(scene.share.host("new"), "x").unwrap();
    fs::rename(scene.share.host("new"), scene.share.host("file")).unwrap();
    assert_eq!(scene.guest(1).set(elsewhere, write(1, 14, 14)).unwrap(), EAGAIN);
    let new = scene.open(1, O_RDWR);
    assert_eq!(scene.guest(1).set(new, write(1, 0, 9)).unwrap(), 0);
}

#[test]
fn a_flush_ends_all_posix_locks_of_its_owner_on_that_file_and_no_others() {
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
    // Closing any handle of the file ends them: POSIX has it so.
    assert_eq!(guest.flush(second, 1).unwrap(), 0);
    let flock = HostLock { family: "FLOCK".to_owned(), start: 0, end: TO_THE_END, write: true };
    assert_eq!(scene.on_host(), [flock.clone(), posix(false, 40, 49)]);
    assert_eq!(host_locks(&scene.share.host("other")).unwrap(), [posix(true, 0, 9)]);
    // Of one that has none, and once more.
    for owner in [1, 7, u64::MAX] {
        assert_eq!(scene.guest(0).flush(first, owner).unwrap(), 0);
    }
    assert_eq!(scene.on_host(), [flock, posix(false, 40, 49)]);
}

#[test]
fn a_release_ends_what_was_locked_through_its_handle_alone() {
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

/// A guest's kernel forgets a node that its programs have open only where it is odd; nothing hangs on it.
#[test]
fn a_forget_of_a_locked_files_node_leaves_its_locks_until_the_release() {
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
fn a_release_ends_the_flock_of_its_handle_also_where_it_does_not_say_so() {
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

/// Everything that ends a guest ends its locks: `end` does it, and `waits` where it comes a little later.
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
    assert_eq!(scene.on_host(), [posix(true, 0, 9)], "what another guest has stays");
    let last = scene.guests.last_mut().unwrap();
    assert_eq!(last.set(elsewhere, write(1, 0, TO_THE_END)).unwrap(), 0);
}

#[test]
fn an_init_ends_all_that_was_locked_before() {
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

#[test]
fn a_handle_gives_only_what_it_was_opened_for() {
    let mut scene = Scene::new(1);
    let (reads, writes) = (scene.open(0, O_RDONLY), scene.open(0, O_WRONLY));
    let guest = scene.guest(0);
    assert_eq!(guest.set(reads, write(1, 0, 9)).unwrap(), EBADF);
    assert_eq!(guest.set(writes, read(1, 0, 9)).unwrap(), EBADF);
    let waits = guest.set_and_wait(reads, write(1, 0, 9)).unwrap();
    assert_eq!(guest.outcome(waits).unwrap(), EBADF);
    assert_eq!(guest.set(reads, read(1, 0, 9)).unwrap(), 0);
    // Nor may it upgrade what another handle has locked.
    assert_eq!(guest.set(reads, write(1, 0, 9)).unwrap(), EBADF);
    assert_eq!(guest.set(writes, write(2, 10, 19)).unwrap(), 0);
    assert_eq!(guest.get(reads, write(3, 10, 19)).unwrap().map(|found| found.kind), Some(WRITE));
    assert_eq!(scene.on_host(), [posix(false, 0, 9), posix(true, 10, 19)]);
}

/// Requests that are wrong in one place each.
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
fn no_field_that_is_wrong_leaves_a_lock_behind() {
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
    // And what is odd but right is served.
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
fn a_handle_of_another_guest_locks_nothing() {
    let mut scene = Scene::new(2);
    let file = scene.open(0, O_RDWR);
    let node = scene.guest(1).look_up("file").unwrap();
    for lock in [write(1, 0, 9), Lock::flock(WRITE, 1), write(1, 0, 9).to(UNLOCK)] {
        assert_eq!(scene.guest(1).set((node, file.1), lock).unwrap(), EBADF, "{lock:?}");
    }
    assert_eq!(scene.on_host(), NOTHING);
}

#[test]
fn a_flood_of_owners_leaves_the_daemon_whole_and_nothing_behind() {
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
    assert!(after.threads <= before.threads, "{before:?} became {after:?}");
}
