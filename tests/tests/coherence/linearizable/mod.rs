//! Do random calls of several guests and the host, all at once, have an explanation?
//!
//! Under `strict`, some order of the calls explains every result, with each call at a single moment
//! between its start and its end (linearizability). Under `auto`, each open sees the data that was
//! closed before it.
//!
//! The tests use only calls that Linux itself makes atomic, so that only a guest or its daemon can
//! be wrong: single bytes, because a read copies a page without a lock against a writer; appends,
//! whose lengths are visible only after their bytes; lengths; names.
//!
//! Each run prints its own seed. `PINHOLE_SEED` repeats the choices of a run, but not its timing,
//! and `PINHOLE_HISTORY_ROUNDS` plays more rounds. A refused history is printed in its smallest
//! form, with the seed of its round. Needs root and /dev/fuse.

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
/// Number of rounds in which the checker must refuse a guest that caches.
const ROUNDS_UNTIL_REFUSED: u64 = 40;
/// Number of calls of each client in a round.
const CALLS: u64 = 40;

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

/// Plays rounds until one is refused, and returns its description.
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

fn verdict(calls: &Calls) -> (usize, Result<(), String>) {
    (calls.count(), calls.judge())
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
        verdict(&play(clients, &share, Game { seed, count: CALLS, kinds: 4 }))
    });
    assert_eq!(refused, None);
}

/// Plays rounds among two mounts with two clients each, and the host. Returns the first refusal.
fn among_kernels(arguments: &[&str], (rounds, kinds): (u64, u64)) -> Option<String> {
    let mounts = Mounts::new(&[arguments, arguments]).unwrap();
    let share = mounts.host();
    first_refused(rounds, |seed| {
        prepare(&share);
        let places = mounts.places().chain(mounts.places());
        let kernels = places.map(|place| Directory::new(place, true).unwrap());
        let host = Directory::new(&share, false).unwrap();
        let clients = kernels.chain([host]).map(|client| Box::new(client) as Box<dyn Client>).collect();
        verdict(&play(clients, &share, Game { seed, count: CALLS, kinds }))
    })
}

#[test]
fn strict_kernels_and_host_are_linearizable() {
    let rounds = number("PINHOLE_HISTORY_ROUNDS", ROUNDS);
    assert_eq!(among_kernels(&["--cache=strict"], (rounds, 4)), None);
}

#[test]
fn caching_kernels_are_not_linearizable() {
    for arguments in
        [&["--cache=exclusive"][..], &["--cache=auto", "--attr-timeout=60"], &["--cache=metadata"]]
    {
        // Only registers and lengths: wrong results of the other calls are no histories any more.
        let refused = among_kernels(arguments, (ROUNDS_UNTIL_REFUSED, 2));
        let refused = refused.unwrap_or_else(|| panic!("{arguments:?} passed for strict"));
        assert!(refused.contains("no order explains"), "{refused}");
        println!("{arguments:?}: {refused}");
    }
}

/// As [`among_kernels`], with files that are opened, read or written, and closed.
fn reopened(arguments: &[&str], rounds: u64) -> Option<String> {
    let mounts = Mounts::new(&[arguments, arguments]).unwrap();
    let share = mounts.host();
    let places: Vec<PathBuf> =
        mounts.places().chain(mounts.places()).map(PathBuf::from).chain([share.clone()]).collect();
    first_refused(rounds, |seed| {
        let passages = reopen::play(&share, &places, (seed, CALLS));
        (passages.count(), passages.judge())
    })
}

#[test]
fn auto_is_close_to_open_among_kernels_and_the_host() {
    let rounds = number("PINHOLE_HISTORY_ROUNDS", ROUNDS);
    assert_eq!(reopened(&["--cache=auto"], rounds), None);
    assert_eq!(reopened(&["--cache=auto", "--attr-timeout=60", "--entry-timeout=60"], rounds), None);
}

#[test]
fn exclusive_kernels_are_not_close_to_open() {
    let refused = reopened(&["--cache=exclusive"], ROUNDS_UNTIL_REFUSED);
    println!("{}", refused.expect("exclusive passed for close-to-open"));
}
