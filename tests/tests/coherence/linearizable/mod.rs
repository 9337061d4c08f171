//! If several guests and the host make random calls at the same time, are the results consistent?
//!
//! In the cache mode `strict`, the calls must be linearizable: some order of the calls, with each
//! call at a single moment between its start and its end, explains every result. In `auto`, each
//! open must see the data that was closed before it.
//!
//! The tests use only calls that Linux makes atomic on a local file system. So only a guest or a
//! daemon can cause a wrong result. These calls are:
//!
//! - reads and writes of single bytes (a longer read is not atomic, because Linux copies a page
//!   without a lock against writers);
//! - appends, because Linux shows the new length only after the bytes;
//! - changes of the length, and changes of names.
//!
//! Each run prints its seed. `PINHOLE_SEED` repeats the choices of a run, but not its timing.
//! `PINHOLE_HISTORY_ROUNDS` sets the number of rounds. If a test fails, it prints the smallest part
//! of the history that no order explains, with the seed of the round. Needs root and /dev/fuse.

mod clients;
mod play;
mod reopen;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::SystemTime;

use clients::{Client, Directory, Wire};
use pinhole_tests::frontend::files::Files;
use pinhole_tests::mounted::Mounts;
use play::{Calls, Game, play, prepare};

/// Number of rounds of each test.
const ROUNDS: u64 = 40;
/// Number of rounds within which the checker must find a violation by a guest that caches.
const ROUNDS_UNTIL_REFUSED: u64 = 40;
/// Number of calls of each client in a round.
const CALLS: u64 = 40;

/// Returns the number in an environment variable.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Returns the seed of the first round. Each later round has the next number.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        number("PINHOLE_SEED", u64::try_from(clock).unwrap())
    })
}

/// Plays at most `rounds` rounds. Returns a description of the first round whose results are not
/// consistent. `round` gets a seed, and returns the number of calls and the result of the check.
fn first_refused(rounds: u64, mut round: impl FnMut(u64) -> (usize, Result<(), String>)) -> Option<String> {
    println!("PINHOLE_SEED={}", seed());
    let mut count = 0;
    for turn in 0..rounds {
        let seed = seed().wrapping_add(turn);
        let (calls, verdict) = round(seed);
        count += calls;
        if let Err(refused) = verdict {
            return Some(format!("PINHOLE_SEED={seed}, round {turn}: {refused}"));
        }
    }
    println!("{rounds} rounds, {count} calls");
    None
}

/// Returns the number of calls, and the result of the check.
fn count_and_check(calls: &Calls) -> (usize, Result<(), String>) {
    (calls.count(), calls.check_calls())
}

#[test]
fn strict_wire_clients_and_host_are_linearizable() {
    let folder = tempfile::tempdir().unwrap();
    let share = folder.path().join("share");
    fs::create_dir(&share).unwrap();
    let guest = || Files::new(&share, folder.path(), &["--cache=strict"]).unwrap();
    let mut guests = [guest(), guest(), guest(), guest()];
    let refused = first_refused(number("PINHOLE_HISTORY_ROUNDS", ROUNDS), |seed| {
        prepare(&share);
        // Two, three and four guests in turn.
        let count = usize::try_from(2 + seed % 3).unwrap();
        let guests = guests.iter_mut().take(count);
        let wires = guests.map(|guest| Box::new(Wire::new(guest).unwrap()) as Box<dyn Client>);
        let host = Box::new(Directory::new(&share, false).unwrap()) as Box<dyn Client>;
        let clients = wires.chain([host]).collect();
        count_and_check(&play(clients, &share, Game { seed, count: CALLS, kinds: 4 }))
    });
    assert_eq!(refused, None);
}

/// Plays rounds with five clients: two in each of two mounts, and one on the host. Returns a
/// description of the first round whose results are not consistent.
fn first_refused_of_mounts(arguments: &[&str], (rounds, kinds): (u64, u64)) -> Option<String> {
    let mounts = Mounts::new(&[arguments, arguments]).unwrap();
    let share = mounts.host();
    first_refused(rounds, |seed| {
        prepare(&share);
        let places = mounts.places().chain(mounts.places());
        let kernels = places.map(|place| Directory::new(place, true).unwrap());
        let host = Directory::new(&share, false).unwrap();
        let clients = kernels.chain([host]).map(|client| Box::new(client) as Box<dyn Client>).collect();
        count_and_check(&play(clients, &share, Game { seed, count: CALLS, kinds }))
    })
}

#[test]
fn strict_kernels_and_host_are_linearizable() {
    let rounds = number("PINHOLE_HISTORY_ROUNDS", ROUNDS);
    assert_eq!(first_refused_of_mounts(&["--cache=strict"], (rounds, 4)), None);
}

#[test]
fn caching_kernels_are_not_linearizable() {
    for arguments in
        [&["--cache=exclusive"][..], &["--cache=auto", "--attr-timeout=60"], &["--cache=metadata"]]
    {
        // Two kinds of calls only, on registers and lengths. The checker cannot read a history with
        // wrong results of the other kinds.
        let refused = first_refused_of_mounts(arguments, (ROUNDS_UNTIL_REFUSED, 2));
        let refused = refused.unwrap_or_else(|| panic!("{arguments:?} passed for strict"));
        assert!(refused.contains("no order explains"), "{refused}");
        println!("{arguments:?}: {refused}");
    }
}

/// As [`first_refused_of_mounts`], with clients that open a file, read or write all of it, and
/// close it.
fn first_refused_reopening(arguments: &[&str], rounds: u64) -> Option<String> {
    let mounts = Mounts::new(&[arguments, arguments]).unwrap();
    let share = mounts.host();
    let places: Vec<PathBuf> =
        mounts.places().chain(mounts.places()).map(PathBuf::from).chain([share.clone()]).collect();
    first_refused(rounds, |seed| {
        let accesses = reopen::play(&share, &places, (seed, CALLS));
        (accesses.count(), accesses.check_calls())
    })
}

#[test]
fn auto_is_close_to_open_among_kernels_and_the_host() {
    let rounds = number("PINHOLE_HISTORY_ROUNDS", ROUNDS);
    assert_eq!(first_refused_reopening(&["--cache=auto"], rounds), None);
    assert_eq!(
        first_refused_reopening(&["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"], rounds),
        None
    );
}

#[test]
fn exclusive_kernels_are_not_close_to_open() {
    let refused = first_refused_reopening(&["--cache=exclusive"], ROUNDS_UNTIL_REFUSED);
    println!("{}", refused.expect("exclusive passed for close-to-open"));
}
