//! Does a guest that waits for a lock block no other request, wake when the lock is released, get
//! EDEADLK for a deadlock, and leave no lock behind?
//!
//! The front-end's limit bounds each wait. The benchmark measures how soon a wait ends. One test
//! counts how often the daemon retries.

use pinhole_tests::daemon::Serving;
use pinhole_tests::frontend::client::{Client, Opened, PendingRequest, SharedFolder};
use pinhole_tests::frontend::frame::Frame;
use pinhole_tests::frontend::frame::opcode::{DESTROY, INIT, LOOKUP, SETLKW};
use pinhole_tests::frontend::locks::{HostLock, Lock, READ, TO_THE_END, UNLOCK, WRITE, host_locks};
use pinhole_tests::frontend::{
    EVENT_IDX, Footprint, INDIRECT, LIMIT, OUT_HEADER_LEN, Setup, Shape, eventually, times_asleep,
};
use pinhole_tests::linux::{EAGAIN, EBADF, EDEADLK, ENOLCK, O_RDWR};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::Signal;
use std::collections::HashSet;
use std::fs::{self, File};
use std::time::{Duration, Instant};

const NOTHING: Vec<HostLock> = Vec::new();
/// Set-up with one request queue and enough descriptors for a thousand requests.
const WIDE: Setup = Setup { queues: 2, queue_size: 1024, features: INDIRECT | EVENT_IDX };
/// Arguments of a daemon without pool threads: a waiting request can block only the thread of its
/// queue.
const NO_POOL: [&str; 2] = ["--thread-pool-size", "0"];

/// Time for which a lock is held while a request waits for it. At the end the daemon retries less
/// often.
const HELD: Duration = Duration::from_secs(1);
/// Upper bound on the average time between two attempts. After a long wait the daemon aims at one
/// every 10 ms.
const SOON: Duration = Duration::from_millis(100);

/// Share with a `file`, and guests, each with its own daemon.
struct WaitScene {
    guests: Vec<Client>,
    files: Vec<Opened>,
    daemons: Vec<Serving>,
    share: SharedFolder,
}

impl WaitScene {
    /// Starts this number of guests, and their daemons without pool threads.
    fn new(guests: usize) -> Self {
        let share = SharedFolder::new().unwrap();
        let mut scene = Self { guests: Vec::new(), files: Vec::new(), daemons: Vec::new(), share };
        fs::write(scene.share.host("file"), [7; 4096]).unwrap();
        for _ in 0..guests {
            let daemon = scene.share.serve(&NO_POOL).unwrap();
            scene.visit(&daemon);
            scene.daemons.push(daemon);
        }
        scene
    }

    /// Adds a guest of an existing daemon.
    fn visit(&mut self, daemon: &Serving) {
        let mut guest = Client::connect(daemon.socket(), WIDE).unwrap().0;
        self.files.push(guest.open("file", O_RDWR).unwrap());
        self.guests.push(guest);
    }

    /// Sends SETLK in the guest at `index` and returns its errno; 0 is success.
    fn set(&mut self, index: usize, lock: Lock) -> i32 {
        self.guests[index].set(self.files[index], lock).unwrap()
    }

    /// Sends a lock request and checks that it waits while other requests are served.
    fn submit_waiting(&mut self, index: usize, lock: Lock) -> PendingRequest {
        let asked = self.guests[index].submit_setlkw(self.files[index], lock).unwrap();
        self.guests[index].is_alive().unwrap();
        assert!(
            !self.guests[index].is_answered(asked).unwrap(),
            "answered although it has to wait: {lock:?}"
        );
        asked
    }

    /// Waits for the reply to a request of the guest at `index` and returns its errno.
    fn outcome(&mut self, index: usize, asked: PendingRequest) -> i32 {
        self.guests[index].outcome(asked).unwrap()
    }

    /// Returns the locks of the file on the host.
    fn on_host(&self) -> Vec<HostLock> {
        host_locks(&self.share.host("file")).unwrap()
    }

    /// Opens the file as a host process, which this test is.
    fn file(&self) -> File {
        File::options().read(true).write(true).open(self.share.host("file")).unwrap()
    }
}

/// Returns a POSIX lock for writing.
fn write(owner: u64, start: u64, end: u64) -> Lock {
    Lock::posix(WRITE, owner, start, end)
}

/// Returns the unlock of all POSIX locks of an owner.
fn unlock(owner: u64) -> Lock {
    Lock::posix(UNLOCK, owner, 0, TO_THE_END)
}

#[test]
fn dozens_of_waiters_block_no_request_and_are_served() {
    let mut scene = WaitScene::new(1);
    let before = Footprint::of(scene.daemons[0].serving_id()).unwrap();
    assert_eq!(scene.set(0, write(0, 0, 9)), 0);
    let waiting: Vec<(PendingRequest, u64)> =
        (1..=48).map(|owner| (scene.submit_waiting(0, write(owner, 5, 14)), owner)).collect();
    let during = Footprint::of(scene.daemons[0].serving_id()).unwrap();
    assert!(during.threads <= before.threads + 1, "{before:?} became {during:?}: a thread for each");
    for _ in 0..20 {
        scene.guests[0].body(Frame::new(LOOKUP, 1).name("file"), 128).unwrap();
    }
    let mut holder = 0;
    let mut served = HashSet::new();
    while served.len() < waiting.len() {
        assert_eq!(scene.guests[0].under_way(), waiting.len() - served.len(), "two owners have one lock");
        assert_eq!(scene.set(0, unlock(holder)), 0);
        let (asked, reply) = scene.guests[0].next_reply().unwrap();
        assert_eq!(reply.error().unwrap(), None);
        holder = waiting.iter().find(|(known, _)| *known == asked).expect("a known request").1;
        assert!(served.insert(holder), "answered twice");
    }
    assert_eq!(scene.set(0, unlock(holder)), 0);
    assert_eq!(scene.on_host(), NOTHING);
}

#[test]
fn waiting_readers_all_continue_after_the_writer() {
    let mut scene = WaitScene::new(1);
    assert_eq!(scene.set(0, write(0, 0, 9)), 0);
    let waiting: Vec<PendingRequest> =
        (1..=30).map(|owner| scene.submit_waiting(0, Lock::posix(READ, owner, 0, 9))).collect();
    assert_eq!(scene.set(0, unlock(0)), 0);
    for asked in waiting {
        assert_eq!(scene.outcome(0, asked), 0);
    }
}

#[test]
fn every_kind_of_unlock_wakes_waiters() {
    type Give = fn(&mut Client, Opened);
    let gives: [(&str, Give); 4] = [
        ("an unlock", |guest, file| assert_eq!(guest.set(file, unlock(1)).unwrap(), 0)),
        ("a change to reading", |guest, file| {
            assert_eq!(guest.set(file, Lock::posix(READ, 1, 0, 9)).unwrap(), 0);
        }),
        ("a flush", |guest, file| assert_eq!(guest.flush(file, 1).unwrap(), 0)),
        ("a release", |guest, file| assert_eq!(guest.release(file, Some(1)).unwrap(), 0)),
    ];
    for (what, give) in gives {
        let mut scene = WaitScene::new(1);
        let holder = scene.files[0];
        scene.files[0] = scene.guests[0].open("file", O_RDWR).unwrap();
        assert_eq!(scene.guests[0].set(holder, write(1, 0, 9)).unwrap(), 0);
        let asked = scene.submit_waiting(0, Lock::posix(READ, 2, 5, 5));
        give(&mut scene.guests[0], holder);
        assert_eq!(scene.outcome(0, asked), 0, "{what}");
    }
}

#[test]
fn unlock_wakes_waiters_of_both_daemons() {
    let mut scene = WaitScene::new(2);
    for round in 0..5 {
        let (here, there) = (round % 2, (round + 1) % 2);
        assert_eq!(scene.set(here, write(1, 0, 9)), 0);
        let asked = scene.submit_waiting(there, write(1, 9, 9));
        let local = scene.submit_waiting(here, write(2, 0, 0));
        assert_eq!(scene.set(here, unlock(1)), 0);
        assert_eq!(scene.outcome(here, local), 0);
        assert_eq!(scene.outcome(there, asked), 0);
        assert_eq!((scene.set(here, unlock(2)), scene.set(there, unlock(1))), (0, 0));
    }
    assert_eq!(scene.on_host(), NOTHING);
}

/// Counts the attempts of the daemon by the times that it sleeps between them. The time from the
/// unlock to the next attempt would depend on the load of the host.
#[test]
fn lock_held_by_another_daemon_is_retried() {
    let mut scene = WaitScene::new(2);
    assert_eq!(scene.set(1, write(1, 0, 9)), 0);
    let asked = scene.submit_waiting(0, write(1, 0, 9));
    let process = scene.daemons[0].serving_id();
    let (since, before) = (Instant::now(), times_asleep(process).unwrap());
    while since.elapsed() < HELD {
        std::thread::park_timeout(HELD);
    }
    let tries = times_asleep(process).unwrap() - before;
    let wanted = since.elapsed().as_millis() / SOON.as_millis();
    assert!(u128::from(tries) >= wanted, "{tries} tries in {:?}", since.elapsed());
    assert!(!scene.guests[0].is_answered(asked).unwrap());
    assert_eq!(scene.set(1, unlock(1)), 0);
    assert_eq!(scene.outcome(0, asked), 0);
}

#[test]
fn end_of_another_guest_wakes_waiters() {
    let mut scene = WaitScene::new(2);
    assert_eq!(scene.set(1, write(1, 0, 9)), 0);
    let asked = scene.submit_waiting(0, write(1, 0, 9));
    drop(scene.guests.remove(1));
    assert_eq!(scene.outcome(0, asked), 0);
}

#[test]
fn unlock_by_a_host_process_wakes_waiters() {
    let mut scene = WaitScene::new(1);
    let here = scene.file();
    fcntl_lock(&here, FlockOperation::NonBlockingLockExclusive).unwrap();
    let asked = scene.submit_waiting(0, write(1, 0, 9));
    let reads = scene.submit_waiting(0, Lock::posix(READ, 2, 20, 29));
    fcntl_lock(&here, FlockOperation::NonBlockingUnlock).unwrap();
    assert_eq!((scene.outcome(0, asked), scene.outcome(0, reads)), (0, 0));
}

#[test]
fn flock_waits_for_guests_and_host_processes_as_well() {
    let mut scene = WaitScene::new(2);
    let here = scene.file();
    flock(&here, FlockOperation::NonBlockingLockExclusive).unwrap();
    let asked = scene.submit_waiting(0, Lock::flock(WRITE, 1));
    flock(&here, FlockOperation::NonBlockingUnlock).unwrap();
    assert_eq!(scene.outcome(0, asked), 0);
    let there = scene.submit_waiting(1, Lock::flock(READ, 1));
    let second = scene.guests[0].open("file", O_RDWR).unwrap();
    let local = scene.guests[0].submit_setlkw(second, Lock::flock(READ, 2)).unwrap();
    scene.guests[0].is_alive().unwrap();
    assert_eq!(scene.set(0, Lock::flock(UNLOCK, 1)), 0);
    assert_eq!((scene.outcome(1, there), scene.outcome(0, local)), (0, 0));
}

#[test]
fn waiting_upgrade_through_another_handle_gets_the_lock() {
    let mut scene = WaitScene::new(1);
    let reads = scene.guests[0].open("file", 0).unwrap();
    assert_eq!(scene.guests[0].set(reads, Lock::posix(READ, 1, 0, 9)).unwrap(), 0);
    assert_eq!(scene.set(0, Lock::posix(READ, 2, 0, 9)), 0);
    // An upgrade waits for the other reader, and keeps its shared lock meanwhile.
    let asked = scene.submit_waiting(0, write(1, 0, 9));
    assert_eq!(scene.set(0, write(3, 0, 9)), EAGAIN);
    assert_eq!(scene.set(0, unlock(2)), 0);
    assert_eq!(scene.outcome(0, asked), 0);
    assert_eq!(scene.set(0, Lock::posix(READ, 2, 9, 9)), EAGAIN);
}

#[test]
fn wait_that_closes_a_cycle_is_edeadlk() {
    for owners in 2..=3u64 {
        let mut scene = WaitScene::new(1);
        for owner in 1..=owners {
            assert_eq!(scene.set(0, write(owner, owner * 10, owner * 10)), 0);
        }
        let waiting: Vec<PendingRequest> = (1..owners)
            .map(|owner| scene.submit_waiting(0, write(owner, (owner + 1) * 10, (owner + 1) * 10)))
            .collect();
        let (guest, file) = (&mut scene.guests[0], scene.files[0]);
        let closes = guest.submit_setlkw(file, write(owners, 10, 10)).unwrap();
        assert_eq!(guest.outcome(closes).unwrap(), EDEADLK, "{owners} owners");
        // A request that does not wait gets EAGAIN, and all continue when one owner releases its
        // lock.
        assert_eq!(guest.set(file, write(owners, 10, 10)).unwrap(), EAGAIN);
        for (asked, owner) in waiting.into_iter().rev().zip((2..=owners).rev()) {
            assert_eq!(scene.set(0, unlock(owner)), 0);
            assert_eq!(scene.outcome(0, asked), 0, "{owners} owners");
        }
    }
}

#[test]
fn a_wait_that_closes_no_cycle_is_no_deadlock() {
    let mut scene = WaitScene::new(1);
    assert_eq!(scene.set(0, write(1, 10, 10)), 0);
    assert_eq!(scene.set(0, write(2, 20, 20)), 0);
    // Two owners wait for the first owner, which waits for none.
    let second = scene.submit_waiting(0, write(2, 10, 10));
    let third = scene.submit_waiting(0, write(3, 10, 10));
    // The same owner again: a process of the guest has several threads.
    let again = scene.submit_waiting(0, write(3, 20, 20));
    assert_eq!(scene.set(0, unlock(1)), 0);
    // The requests may be granted in any order.
    let mut left = vec![(second, 2), (third, 3), (again, 3)];
    while !left.is_empty() {
        let (asked, reply) = scene.guests[0].next_reply().unwrap();
        assert_eq!(reply.error().unwrap(), None);
        let at = left.iter().position(|(known, _)| *known == asked).expect("answered once");
        let (_, owner) = left.swap_remove(at);
        if left.iter().all(|(_, other)| *other != owner) {
            assert_eq!(scene.set(0, unlock(owner)), 0);
        }
    }
}

#[test]
fn waiter_on_a_released_handle_leaves_no_lock() {
    for lock in [write(2, 0, 9), Lock::flock(WRITE, 2)] {
        let mut scene = WaitScene::new(1);
        let second = scene.guests[0].open("file", O_RDWR).unwrap();
        assert_eq!(scene.set(0, Lock { owner: 1, ..lock }), 0);
        let asked = scene.guests[0].submit_setlkw(second, lock).unwrap();
        scene.guests[0].is_alive().unwrap();
        assert_eq!(scene.guests[0].release(second, Some(2)).unwrap(), 0);
        assert_eq!(scene.set(0, Lock { owner: 1, ..lock }.to(UNLOCK)), 0);
        assert_eq!(scene.outcome(0, asked), EBADF, "{lock:?}");
        assert_eq!(scene.on_host(), NOTHING);
        assert_eq!(scene.set(0, Lock { owner: 3, ..lock }), 0);
    }
}

/// Linux keeps a killed caller until its request is answered, because virtio-fs sends no INTERRUPT.
/// Only then does the process end and close its files. A FLUSH of its owner during the wait is the
/// close of another descriptor by another thread.
#[test]
fn killed_waiter_leaves_no_lock() {
    for closes_meanwhile in [false, true] {
        let mut scene = WaitScene::new(2);
        let (first, second) = (scene.files[0], scene.guests[0].open("file", O_RDWR).unwrap());
        assert_eq!(scene.set(1, write(1, 0, 9)), 0);
        // The waiting owner already has a lock, which a close ends at once.
        assert_eq!(scene.set(0, write(2, 20, 29)), 0);
        let asked = scene.submit_waiting(0, write(2, 0, 9));
        if closes_meanwhile {
            assert_eq!(scene.guests[0].flush(second, 2).unwrap(), 0);
            assert_eq!(scene.guests[0].release(second, None).unwrap(), 0);
            assert_eq!(scene.set(1, write(1, 20, 29)), 0, "a close ends the earlier locks");
        }
        scene.guests[0].is_alive().unwrap();
        assert!(!scene.guests[0].is_answered(asked).unwrap(), "answered although another has the lock");
        assert_eq!(scene.set(1, unlock(1)), 0);
        assert_eq!(scene.outcome(0, asked), 0, "closes meanwhile: {closes_meanwhile}");
        assert_eq!(scene.guests[0].flush(first, 2).unwrap(), 0);
        assert_eq!(scene.on_host(), NOTHING, "closes meanwhile: {closes_meanwhile}");
        assert_eq!(scene.guests[0].release(first, None).unwrap(), 0);
        assert_eq!(scene.set(1, write(1, 0, TO_THE_END)), 0);
    }
}

#[test]
fn killed_flock_waiter_leaves_no_lock() {
    let mut scene = WaitScene::new(2);
    let file = scene.files[0];
    assert_eq!(scene.set(1, Lock::flock(WRITE, 1)), 0);
    let asked = scene.submit_waiting(0, Lock::flock(WRITE, 2));
    assert_eq!(scene.set(1, Lock::flock(UNLOCK, 1)), 0);
    assert_eq!(scene.outcome(0, asked), 0);
    // The end of the process: its FLUSH keeps the flock, its RELEASE ends it.
    assert_eq!(scene.guests[0].flush(file, 2).unwrap(), 0);
    assert_eq!(scene.set(1, Lock::flock(READ, 1)), EAGAIN);
    assert_eq!(scene.guests[0].release(file, Some(2)).unwrap(), 0);
    assert_eq!(scene.on_host(), NOTHING);
    assert_eq!(scene.set(1, Lock::flock(WRITE, 1)), 0);
}

#[test]
fn stopped_queue_has_answered_lock_waiters() {
    let mut scene = WaitScene::new(1);
    assert_eq!(scene.set(0, write(0, 0, 9)), 0);
    let mut waiting: Vec<PendingRequest> =
        (1..=20).map(|owner| scene.submit_waiting(0, write(owner, 0, 9))).collect();
    let second = scene.guests[0].open("file", O_RDWR).unwrap();
    assert_eq!(scene.set(0, Lock::flock(WRITE, 0)), 0);
    waiting.push(scene.guests[0].submit_setlkw(second, Lock::flock(READ, 1)).unwrap());
    scene.guests[0].is_alive().unwrap();
    let base = scene.guests[0].guest.stop_queue(1).unwrap();
    for asked in waiting {
        assert!(scene.guests[0].is_answered(asked).unwrap(), "not answered when the queue had stopped");
        assert_eq!(scene.outcome(0, asked), EAGAIN);
    }
    scene.guests[0].guest.resume_queue(1, base).unwrap();
    // No owner has a lock for which it got an error.
    assert_eq!(scene.set(0, unlock(0)), 0);
    assert_eq!(scene.set(0, Lock::flock(UNLOCK, 0)), 0);
    assert_eq!(scene.on_host(), NOTHING);
    assert_eq!(scene.set(0, write(30, 0, TO_THE_END)), 0);
}

#[test]
fn init_and_destroy_end_lock_waits() {
    let init = Frame::new(INIT, 1).u32(7).u32(45).u32(128 << 10).u32(u32::MAX).u32(0).bytes(&[0; 44]);
    for (end, room) in [(init, 64), (Frame::new(DESTROY, 0), 0)] {
        let mut scene = WaitScene::new(2);
        assert_eq!(scene.set(1, write(1, 0, 9)), 0);
        let asked = scene.submit_waiting(0, write(2, 0, 9));
        scene.guests[0].body(end.clone(), room).unwrap();
        assert_ne!(scene.outcome(0, asked), 0, "{end:?}");
        assert_eq!(scene.set(1, unlock(1)), 0);
        assert_eq!(scene.on_host(), NOTHING, "{end:?}");
    }
}

#[test]
fn guest_that_leaves_while_many_wait_blocks_no_other() {
    let mut scene = WaitScene::new(2);
    assert_eq!(scene.set(0, write(0, 0, 9)), 0);
    for round in 0..5 {
        for owner in 1..=40 {
            let _waits = scene.submit_waiting(1, write(owner, 0, 9));
        }
        drop(scene.guests.remove(1));
        scene.files.truncate(1);
        let daemon = scene.daemons.remove(1);
        scene.visit(&daemon);
        scene.daemons.push(daemon);
        assert_eq!(scene.set(1, write(1, 0, 9)), EAGAIN, "round {round}");
        assert_eq!(scene.set(1, write(1, 10, 19)), 0, "round {round}");
    }
    let mut ended = scene.daemons.remove(1);
    ended.signal(Signal::TERM).unwrap();
    let status = ended.wait_at_most(LIMIT).unwrap().expect("the daemon ends");
    assert!(status.success(), "{status}: {}", ended.stderr());
    eventually("the locks of the guest that is gone are gone", || scene.on_host().len() == 1);
}

#[test]
fn too_many_lock_waiters_are_enolck() {
    let setup = Setup { queues: 9, ..WIDE };
    let mut scene = WaitScene::new(1);
    drop(scene.guests.remove(0));
    scene.guests.push(Client::connect(scene.daemons[0].socket(), setup).unwrap().0);
    scene.files[0] = scene.guests[0].open("file", O_RDWR).unwrap();
    assert_eq!(scene.set(0, write(0, 0, 9)), 0);
    let guest = &mut scene.guests[0].guest;
    let shape = Shape { indirect: true, ..Shape::default() };
    let mut asked = 0;
    for index in 2..9 {
        let (queue, memory) = guest.queue(index).unwrap();
        for _ in 0..1000 {
            asked += 1;
            let message = write(asked, 0, 9).frame(SETLKW, scene.files[0]).unique(asked).message();
            queue.submit(memory, &message, OUT_HEADER_LEN, shape).unwrap();
        }
        queue.kick().unwrap();
    }
    let mut refused = 0;
    eventually("some of 7,000 that wait are refused", || {
        for index in 2..9 {
            let (queue, memory) = guest.queue(index).unwrap();
            while queue.take_used(memory).unwrap().is_some() {
                refused += 1;
            }
        }
        refused > 0
    });
    // Some of the requests above were refused because their ring had no space. The daemon may still
    // let a few more lock requests wait.
    let refused = (asked + 1..).take(1024).find_map(|owner| {
        let said = scene.guests[0].submit_setlkw(scene.files[0], write(owner, 0, 9)).unwrap();
        scene.guests[0].is_alive().unwrap();
        scene.guests[0].is_answered(said).unwrap().then(|| scene.outcome(0, said))
    });
    assert_eq!(refused, Some(ENOLCK));
    scene.guests[0].is_alive().unwrap();
    drop(scene.guests.remove(0));
    eventually("no request waits", || scene.on_host() == NOTHING);
}
