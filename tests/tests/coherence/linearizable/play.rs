//! One round: several clients make random calls at the same time. Then a checker reads the results.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pinhole_tests::linearizability::length::{self, Length};
use pinhole_tests::linearizability::log::{self, Log};
use pinhole_tests::linearizability::names::{self, Names};
use pinhole_tests::linearizability::register::{self, Register};
use pinhole_tests::linearizability::{Made, Object, check};
use rustix::io::Errno;

use super::clients::{Client, OPEN, had_effect};

/// Repeatable random numbers (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    /// Returns the next number, which is less than `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)) % limit
    }
}

/// Offsets of the registers: two in one page, one at the end of a page, one in another page.
const REGISTERS: [u64; 4] = [0, 1, 4095, 9000];
/// Length of the file `registers` in bytes.
const REGISTERS_LEN: usize = 16 << 10;
/// Indexes of [`OPEN`].
const REGISTER_FILE: usize = 0;
const LOG_FILE: usize = 1;
const LENGTH_FILE: usize = 2;
/// Length of a record of the log in bytes.
const RECORD: usize = 8;
/// Upper bound on the length of the log in bytes. The reply to one READ can carry as much.
const LOG_MAX: usize = 64 << 10;
/// Names that all clients create, replace, move and remove.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Calls with their results, for each object: each register, the log, the length and the names.
#[derive(Default)]
pub(crate) struct Calls {
    registers: [Vec<Made<register::RegisterCall>>; REGISTERS.len()],
    log: Vec<Made<log::LogCall>>,
    length: Vec<Made<length::LengthCall>>,
    names: Vec<Made<names::NameCall>>,
}

/// Empties the folder and creates the files of [`OPEN`], before a round.
pub(crate) fn prepare(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (name, len) in OPEN.iter().zip([REGISTERS_LEN, 0, 0]) {
        fs::write(folder.join(name), vec![0; len]).unwrap();
    }
}

/// State that all clients of a round share.
struct Round<'r> {
    began: Instant,
    /// Next unused number. Numbers serve as values, records and lengths, so that the checker can
    /// tell which call stored what another call found.
    next: AtomicU64,
    /// Lets all clients begin at the same time.
    begin: Barrier,
    /// The host's shared folder. A client creates a file here before it gives the file a name that
    /// is in use.
    folder: &'r Path,
}

impl Round<'_> {
    /// Returns the time since the start of the round in nanoseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    /// Returns an unused number.
    fn unused_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }
}

/// Parameters of a round.
#[derive(Clone, Copy)]
pub(crate) struct Game {
    pub(crate) seed: u64,
    /// Number of calls of each client.
    pub(crate) count: u64,
    /// Number of kinds of calls, from 1 to 4. The kinds are, in this order, calls on registers, on
    /// the length, on the log and on names.
    pub(crate) kinds: u64,
}

/// Runs the clients, each on its own thread, and returns all of their calls.
pub(crate) fn play(clients: Vec<Box<dyn Client + '_>>, folder: &Path, game: Game) -> Calls {
    let round =
        Round { began: Instant::now(), next: AtomicU64::new(1), begin: Barrier::new(clients.len()), folder };
    let mut all = Calls::default();
    std::thread::scope(|scope| {
        let players = clients.into_iter().enumerate().map(|(number, client)| {
            let (round, random) = (&round, Random(game.seed ^ (number as u64) << 32));
            let mut player = Player { number, client, random, round, calls: Calls::default() };
            scope.spawn(move || {
                player.round.begin.wait();
                (0..game.count).for_each(|_| player.turn(game.kinds));
                player.calls
            })
        });
        for player in players.collect::<Vec<_>>() {
            all.add(player.join().unwrap());
        }
    });
    all
}

impl Calls {
    fn add(&mut self, other: Self) {
        for (mine, theirs) in self.registers.iter_mut().zip(other.registers) {
            mine.extend(theirs);
        }
        self.log.extend(other.log);
        self.length.extend(other.length);
        self.names.extend(other.names);
    }

    /// Checks that some order explains the results of all calls.
    ///
    /// # Errors
    /// Fails with the smallest part of the calls that no order explains.
    pub(crate) fn check_calls(&self) -> Result<(), String> {
        self.registers.iter().try_for_each(|calls| check_calls::<Register>(calls))?;
        check_calls::<Log>(&self.log)?;
        check_calls::<Length>(&self.length)?;
        check_calls::<Names>(&self.names)
    }

    pub(crate) fn count(&self) -> usize {
        let registers: usize = self.registers.iter().map(Vec::len).sum();
        registers + self.log.len() + self.length.len() + self.names.len()
    }
}

fn check_calls<O: Object + Default>(history: &[Made<O::Call>]) -> Result<(), String> {
    check(&O::default(), history).map_err(|refused| refused.to_string())
}

/// A client, and the calls that it has made.
struct Player<'r, 'c> {
    number: usize,
    client: Box<dyn Client + 'c>,
    random: Random,
    round: &'r Round<'r>,
    calls: Calls,
}

impl Player<'_, '_> {
    /// Makes one random call.
    fn turn(&mut self, kinds: u64) {
        match self.random.below(kinds) {
            0 => self.on_a_register(),
            1 => self.on_the_length(),
            2 => self.on_the_log(),
            _ => self.on_names(),
        }
    }

    /// Makes a call and records the times of its start and its end.
    fn make<C>(&mut self, call: impl FnOnce(&mut dyn Client) -> C) -> Made<C> {
        let called = self.round.now();
        let call = call(&mut *self.client);
        Made { client: self.number, called, returned: self.round.now(), call }
    }

    fn on_a_register(&mut self) {
        let which = usize::try_from(self.random.below(REGISTERS.len() as u64)).unwrap();
        let place = REGISTERS[which];
        let value = u8::try_from(self.round.unused_number() % 255).unwrap() + 1;
        let made = if self.random.below(3) == 0 {
            self.make(|client| {
                client.write(REGISTER_FILE, place, &[value]).unwrap();
                register::RegisterCall::Write(value)
            })
        } else {
            self.make(|client| {
                register::RegisterCall::Read(client.read(REGISTER_FILE, (place, 1)).unwrap()[0])
            })
        };
        self.calls.registers[which].push(made);
    }

    fn on_the_log(&mut self) {
        let record = self.round.unused_number();
        let made = match self.random.below(3) {
            0 => self.make(|client| {
                client.append(LOG_FILE, &record.to_le_bytes()).unwrap();
                log::LogCall::Append(record)
            }),
            1 => self.make(|client| {
                let len = client.stat(LOG_FILE).unwrap();
                assert!(len.is_multiple_of(RECORD as u64), "a record is torn: {len}");
                log::LogCall::Count(len / RECORD as u64)
            }),
            _ => self.make(|client| {
                let bytes = client.read(LOG_FILE, (0, LOG_MAX)).unwrap();
                let (records, rest) = bytes.as_chunks::<RECORD>();
                assert!(rest.is_empty(), "a record is torn");
                log::LogCall::All(records.iter().map(|record| u64::from_le_bytes(*record)).collect())
            }),
        };
        self.calls.log.push(made);
    }

    fn on_the_length(&mut self) {
        let place = self.round.unused_number() * 7 % 10_000;
        let made = match self.random.below(6) {
            0 => self.make(|client| {
                client.truncate(LENGTH_FILE, place).unwrap();
                length::LengthCall::Truncate(place)
            }),
            1 => self.make(|client| {
                client.write(LENGTH_FILE, place, b"x").unwrap();
                length::LengthCall::WriteAt(place)
            }),
            2 => self.make(|client| {
                client.append(LENGTH_FILE, b"x").unwrap();
                length::LengthCall::Append
            }),
            _ => self.make(|client| length::LengthCall::Stat(client.stat(LENGTH_FILE).unwrap())),
        };
        self.calls.length.push(made);
    }

    fn on_names(&mut self) {
        let [one, other] = [(); 2].map(|()| u8::try_from(self.random.below(NAMES.len() as u64)).unwrap());
        let [name, next] = [one, other].map(|which| NAMES[usize::from(which)]);
        let kinds = if self.client.renames_atomically() && one != other { 7 } else { 5 };
        let made = match self.random.below(kinds) {
            0 => self.replace(one),
            1 => self
                .make(|client| names::NameCall::Remove(one, had_effect(client.remove(name), Errno::NOENT))),
            2 => self.make(|client| names::NameCall::Make(one, had_effect(client.make(name), Errno::EXIST))),
            kind @ (5 | 6) => self.make(|client| {
                let moved = had_effect(client.rename(name, next, kind == 6), Errno::NOENT);
                if kind == 6 {
                    names::NameCall::Swap(one, other, moved)
                } else {
                    names::NameCall::Move(one, other, moved)
                }
            }),
            _ => self.make(|client| match client.find(name) {
                Ok(len) => names::NameCall::Find(one, Some(len)),
                Err(error) => {
                    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT), "{error}");
                    names::NameCall::Find(one, None)
                }
            }),
        };
        self.calls.names.push(made);
    }

    /// Creates a file with a unique length and gives it the name `name`, in place of the file that
    /// has the name.
    fn replace(&mut self, name: u8) -> Made<names::NameCall> {
        let len = self.round.unused_number();
        let new = format!("new{}-{len}", self.number);
        fs::File::create(self.round.folder.join(&new)).unwrap().set_len(len).unwrap();
        self.make(|client| {
            client.rename(&new, NAMES[usize::from(name)], false).unwrap();
            names::NameCall::Replace(name, len)
        })
    }
}
