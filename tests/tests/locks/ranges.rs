//! Do random ranges match a model that knows each byte?
//!
//! Two owners in one guest lock at random. After each request, a guest of another daemon sends
//! GETLK, and the test reads the host's own list. Other tests check how many locks are allowed, in
//! one file, and in total under a policy that limits them.

use pinhole_tests::daemon::Serving;
use pinhole_tests::frontend::client::{Client, Opened, SharedFolder};
use pinhole_tests::frontend::locks::{
    ConflictingLock, HostLock, Lock, READ, TO_THE_END, UNLOCK, WRITE, host_locks, pid_of,
};
use pinhole_tests::frontend::{EVENT_IDX, INDIRECT, Setup};
use pinhole_tests::linux::{EAGAIN, ENOLCK};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Set-up with one request queue.
const SETUP: Setup = Setup { queues: 2, queue_size: 128, features: INDIRECT | EVENT_IDX };
/// Number of bytes that can be locked separately.
const BYTES: u64 = 24;
/// Number of cells of the model: one for each byte, and one for all later bytes.
const CELLS: usize = 25;
/// Numbers of the two owners.
const OWNERS: [u64; 2] = [1, 2];

/// Kind of lock of one owner on each byte.
type Held = [Option<u32>; CELLS];

/// Locks of both owners, as the daemon must keep them.
#[derive(Default)]
struct Model {
    held: [Held; 2],
}

/// Returns the cells of a lock's range.
fn cells(lock: Lock) -> std::ops::RangeInclusive<usize> {
    let cell = |at: u64| usize::try_from(at.min(BYTES)).unwrap();
    cell(lock.start)..=cell(lock.end)
}

/// Returns whether two kinds of locks exclude each other.
const fn excludes(one: u32, other: u32) -> bool {
    one == WRITE || other == WRITE
}

/// Returns the longest range around the byte `at` in which an owner has locks of one kind, and this
/// kind.
fn run(held: &Held, at: usize) -> (u64, u64, u32) {
    let kind = held[at].unwrap();
    let same = |cell: &usize| held[*cell] == Some(kind);
    let start = (0..=at).rev().take_while(same).last().unwrap();
    let end = (at..held.len()).take_while(same).last().unwrap();
    let end = if end as u64 == BYTES { TO_THE_END } else { end as u64 };
    (start as u64, end, kind)
}

impl Model {
    /// Returns the index of the lock's owner.
    fn index(lock: Lock) -> usize {
        usize::try_from(lock.owner).unwrap() - 1
    }

    /// Returns the locks that conflict with a lock, of those owners that `whose` accepts.
    fn conflicts(&self, lock: Lock, whose: impl Fn(usize) -> bool) -> Vec<ConflictingLock> {
        let mut found = Vec::new();
        for (owner, held) in self.held.iter().enumerate().filter(|(owner, _)| whose(*owner)) {
            for cell in cells(lock).filter(|cell| held[*cell].is_some_and(|kind| excludes(kind, lock.kind))) {
                let (start, end, kind) = run(held, cell);
                found.push(ConflictingLock { start, end, kind, pid: pid_of(OWNERS[owner]) });
            }
        }
        found
    }

    /// Carries out a lock request and returns its errno; 0 is success.
    fn set(&mut self, lock: Lock) -> i32 {
        let own = Self::index(lock);
        if lock.kind != UNLOCK && !self.conflicts(lock, |owner| owner != own).is_empty() {
            return EAGAIN;
        }
        for cell in cells(lock) {
            self.held[own][cell] = (lock.kind != UNLOCK).then_some(lock.kind);
        }
        0
    }

    /// Returns the list of locks that the host must have.
    fn on_host(&self) -> Vec<HostLock> {
        let mut all = Vec::new();
        for held in &self.held {
            let mut at = 0;
            while at < held.len() {
                let Some(_) = held[at] else {
                    at += 1;
                    continue;
                };
                let (start, end, kind) = run(held, at);
                all.push(HostLock { family: "OFDLCK".to_owned(), start, end, write: kind == WRITE });
                at = usize::try_from(end.min(BYTES)).unwrap() + 1;
            }
        }
        all.sort();
        all
    }
}

/// Random numbers from a seed (xorshift64*). Each run has a new seed and can be repeated.
struct Random(u64);

impl Random {
    /// Returns a number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// Returns a random lock or unlock of a random owner.
    fn lock(&mut self) -> Lock {
        let start = self.below(BYTES + 1);
        // The last cell of the model stands for all later bytes, so a range may end in it only at
        // the end of the file.
        let to_the_end = start == BYTES || self.below(8) == 0;
        let end = if to_the_end { TO_THE_END } else { start + self.below(BYTES - start) };
        let kind = [READ, READ, WRITE, UNLOCK][usize::try_from(self.below(4)).unwrap()];
        Lock::posix(kind, OWNERS[usize::try_from(self.below(2)).unwrap()], start, end)
    }
}

/// Lets one test run at a time. The kernel lists all locks of the host a page at a time, by
/// position: thousands of locks of one test could make entries of the other appear twice or not at
/// all.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects a guest that opens the file twice.
fn visit(daemon: &Serving) -> (Client, [Opened; 2]) {
    let mut guest = Client::connect(daemon.socket(), SETUP).unwrap().0;
    let files = [guest.open("file", 2).unwrap(), guest.open("file", 2).unwrap()];
    (guest, files)
}

/// Sends the random requests of one seed to `daemon`, and compares each result with the model.
/// `witness` serves another guest.
fn play(seed: u64, turns: usize, (daemon, witness): (&Serving, &Serving), share: &SharedFolder) {
    let (mut guest, files) = visit(daemon);
    let (mut other, elsewhere) = visit(witness);
    let (mut model, mut random) = (Model::default(), Random(seed));
    for turn in 0..turns {
        let lock = random.lock();
        let file = files[usize::try_from(random.below(2)).unwrap()];
        let at = format!("seed {seed}, turn {turn}: {lock:?}");
        assert_eq!(guest.set(file, lock).unwrap(), model.set(lock), "{at}");
        assert_eq!(host_locks(&share.host("file")).unwrap(), model.on_host(), "{at}");
        let mut asked = random.lock();
        asked.kind = [READ, WRITE][usize::try_from(random.below(2)).unwrap()];
        let own = Model::index(asked);
        let (said, known) = (guest.get(file, asked).unwrap(), model.conflicts(asked, |owner| owner != own));
        assert!(said.map_or(known.is_empty(), |said| known.contains(&said)), "{at}: {said:?}, not {known:?}");
        // The other guest conflicts with the locks of both owners.
        let (said, known) = (other.get(elsewhere[0], asked).unwrap(), model.conflicts(asked, |_| true));
        let known: Vec<_> = known.into_iter().map(|found| ConflictingLock { pid: 0, ..found }).collect();
        assert!(said.map_or(known.is_empty(), |said| known.contains(&said)), "{at}: {said:?}, not {known:?}");
        if random.below(40) == 0 {
            let owner = OWNERS[usize::try_from(random.below(2)).unwrap()];
            assert_eq!(guest.flush(file, owner).unwrap(), 0, "{at}");
            model.set(Lock::posix(UNLOCK, owner, 0, TO_THE_END));
        }
    }
}

#[test]
fn random_ranges_of_two_owners_match_the_model() {
    let _alone = alone();
    let share = SharedFolder::new().unwrap();
    fs::write(share.host("file"), [7; 64]).unwrap();
    let daemons = (share.serve(&[]).unwrap(), share.serve(&[]).unwrap());
    let turns = std::env::var("PINHOLE_LOCK_TURNS").map_or(400, |turns| turns.parse().unwrap());
    let first = u64::from(std::process::id()) << 8 | 1;
    for seed in [1, 2, 3, first] {
        println!("seed {seed}");
        play(seed, turns, (&daemons.0, &daemons.1), &share);
    }
}

#[test]
fn ranges_of_one_file_are_limited() {
    const MOST: u64 = 1024;
    let _alone = alone();
    let share = SharedFolder::new().unwrap();
    fs::write(share.host("file"), [7; 64]).unwrap();
    let daemon = share.serve(&[]).unwrap();
    let mut guest = Client::connect(daemon.socket(), SETUP).unwrap().0;
    let (reads, both) = (guest.open("file", 0).unwrap(), guest.open("file", 2).unwrap());
    let lock = |kind, owner, byte| Lock::posix(kind, owner, byte, byte);
    for at in 0..MOST {
        assert_eq!(guest.set(reads, lock(READ, 1, 2 * at)).unwrap(), 0, "{at}");
    }
    assert_eq!(guest.set(reads, lock(READ, 1, 2 * MOST)).unwrap(), ENOLCK);
    assert_eq!(guest.set(both, lock(WRITE, 2, 2 * MOST)).unwrap(), ENOLCK);
    // The owner has its ranges on an open file description for reading. A write lock needs a
    // description for writing, and each range would have to move there by a call of its own. The
    // daemon moves at most 64 ranges, so that the queue does not wait for too long.
    assert_eq!(guest.set(both, lock(WRITE, 1, 1)).unwrap(), ENOLCK);
    assert_eq!(guest.set(reads, Lock::posix(READ, 1, 0, TO_THE_END)).unwrap(), 0);
    let flocks = (0..MOST).map(|_| guest.open("file", 0).unwrap()).collect::<Vec<_>>();
    let held = flocks.iter().filter(|file| guest.set(**file, Lock::flock(READ, 1)).unwrap() == 0).count();
    assert_eq!(held, 1023, "in addition to one range");
    for file in flocks {
        assert_eq!(guest.release(file, Some(1)).unwrap(), 0);
    }
    let whole = HostLock { family: "OFDLCK".to_owned(), start: 0, end: TO_THE_END, write: false };
    assert_eq!(host_locks(&share.host("file")).unwrap(), [whole]);
    assert_eq!(guest.set(both, lock(WRITE, 1, 1)).unwrap(), 0);
}

/// Starts a guest under a policy that allows `limit` locks.
fn limited(share: &SharedFolder, limit: u32) -> (Client, Serving) {
    let policy = share.folder().join("policy.toml");
    fs::write(&policy, format!("[limits]\nlocks = {limit}\n")).unwrap();
    let daemon = share.serve(&["--policy", policy.to_str().unwrap()]).unwrap();
    (Client::connect(daemon.socket(), SETUP).unwrap().0, daemon)
}

#[test]
fn locks_past_the_limit_are_enolck_until_unlock() {
    let _alone = alone();
    let share = SharedFolder::new().unwrap();
    let (mut guest, _daemon) = limited(&share, 3);
    let files: Vec<Opened> = (0..4)
        .map(|number| {
            let name = format!("file-{number}");
            fs::write(share.host(&name), "x").unwrap();
            guest.open(&name, 2).unwrap()
        })
        .collect();
    let write = |owner| Lock::posix(WRITE, owner, 0, 9);
    for (owner, file) in (1..4).zip(&files) {
        assert_eq!(guest.set(*file, write(owner)).unwrap(), 0);
    }
    assert_eq!(guest.set(files[3], write(4)).unwrap(), ENOLCK);
    let waits = guest.submit_setlkw(files[3], write(4)).unwrap();
    assert_eq!(guest.outcome(waits).unwrap(), ENOLCK);
    // GETLK and unlocks succeed at the limit.
    assert_eq!(guest.get(files[3], write(4)).unwrap(), None);
    assert_eq!(guest.set(files[0], write(1).to(UNLOCK)).unwrap(), 0);
    assert_eq!(guest.set(files[3], write(4)).unwrap(), 0);
    assert_eq!(guest.set(files[0], write(1)).unwrap(), ENOLCK);
    assert_eq!(guest.flush(files[1], 2).unwrap(), 0);
    assert_eq!(guest.set(files[0], write(1)).unwrap(), 0);
}

#[test]
fn each_range_of_one_owner_counts_toward_the_limit() {
    let _alone = alone();
    let share = SharedFolder::new().unwrap();
    fs::write(share.host("file"), [7; 64]).unwrap();
    let (mut guest, _daemon) = limited(&share, 8);
    let file = guest.open("file", 2).unwrap();
    let byte = |number: u64| Lock::posix(WRITE, 1, number * 2, number * 2);
    let held = (0..64).filter(|number| guest.set(file, byte(*number)).unwrap() == 0).count();
    assert!(held <= 8, "{held} ranges under a limit of 8");
    assert!(host_locks(&share.host("file")).unwrap().len() <= 8);
    assert_eq!(guest.flush(file, 1).unwrap(), 0);
    assert_eq!(guest.set(file, byte(0)).unwrap(), 0);
}
