//! Tests that the checker accepts and refuses the right histories, and that it agrees with a search
//! of every order. A checker that accepts everything proves nothing.

use super::length::{self, Length};
use super::log::{self, Log};
use super::names::{self, Names};
use super::register::{Register, RegisterCall as Call};
use super::reopened::{self, FileAccess};
use super::*;

/// Returns a call of `client`, from `called` to `returned`.
fn made<C>(client: usize, (called, returned): (u64, u64), call: C) -> Made<C> {
    Made { client, called, returned, call }
}

/// Returns whether the checker finds an explanation of the history, from the default state on.
fn is_accepted<O: Object + Default>(history: &[Made<O::Call>]) -> bool {
    check(&O::default(), history).is_ok()
}

#[test]
fn read_after_a_write_returns_its_value() {
    let write = made(0, (1, 2), Call::Write(5));
    let fresh = [write.clone(), made(1, (3, 4), Call::Read(5))];
    let stale = [write, made(1, (3, 4), Call::Read(0))];
    assert!(is_accepted::<Register>(&fresh) && !is_accepted::<Register>(&stale));
}

#[test]
fn old_value_is_not_read_after_the_new_one() {
    let write = made(0, (1, 10), Call::Write(5));
    let read = |at, value| made(1, at, Call::Read(value));
    assert!(is_accepted::<Register>(&[write.clone(), read((2, 3), 0), read((4, 5), 5)]));
    assert!(!is_accepted::<Register>(&[write.clone(), read((2, 3), 5), read((4, 5), 0)]));
    // Two concurrent readers have no order.
    assert!(is_accepted::<Register>(&[write, read((2, 5), 5), made(2, (3, 6), Call::Read(0))]));
}

#[test]
fn two_readers_see_two_writes_in_one_order() {
    let writes = [made(0, (1, 20), Call::Write(1)), made(1, (1, 20), Call::Write(2))];
    let reads = |client, at: u64, values: [u8; 2]| {
        [
            made(client, (at, at + 1), Call::Read(values[0])),
            made(client, (at + 2, at + 3), Call::Read(values[1])),
        ]
    };
    let one = reads(2, 2, [1, 2]);
    let history = |other: [Made<Call>; 2]| [&writes[..], &one[..], &other[..]].concat();
    assert!(is_accepted::<Register>(&history(reads(3, 3, [1, 2]))));
    assert!(!is_accepted::<Register>(&history(reads(3, 8, [1, 2]))));
    assert!(!is_accepted::<Register>(&history(reads(3, 3, [2, 1]))));
}

#[test]
fn lost_append_or_two_orders_of_appends_is_refused() {
    let append = |client, record| made(client, (1, 10), log::LogCall::Append(record));
    let all = |at, records: &[u64]| made(3, at, log::LogCall::All(records.to_vec()));
    let both = [append(0, 7), append(1, 8)];
    let with = |rest: &[Made<log::LogCall>]| is_accepted::<Log>(&[&both[..], rest].concat());
    assert!(with(&[all((11, 12), &[8, 7])]));
    assert!(!with(&[all((11, 12), &[8])]));
    assert!(!with(&[all((2, 3), &[8]), all((11, 12), &[7, 8])]));
    assert!(with(&[made(2, (4, 5), log::LogCall::Count(1)), all((11, 12), &[7, 8])]));
    assert!(!with(&[made(2, (11, 12), log::LogCall::Count(1))]));
}

#[test]
fn stale_or_impossible_length_is_refused() {
    let calls = [
        made(0, (1, 2), length::LengthCall::WriteAt(9)),
        made(1, (3, 8), length::LengthCall::Truncate(4)),
        made(2, (3, 8), length::LengthCall::Append),
    ];
    let ends_as = |len| {
        is_accepted::<Length>(&[&calls[..], &[made(0, (9, 10), length::LengthCall::Stat(len))]].concat())
    };
    let possible: Vec<u64> = (0..20).filter(|len| ends_as(*len)).collect();
    assert_eq!(possible, [4, 5]);
    assert!(!is_accepted::<Length>(&[calls[0].clone(), made(1, (3, 4), length::LengthCall::Stat(0))]));
}

#[test]
fn name_made_twice_or_missing_during_a_replace_is_refused() {
    use names::NameCall as Call;
    let twice = [made(0, (1, 5), Call::Make(1, true)), made(1, (2, 6), Call::Make(1, true))];
    assert!(!is_accepted::<Names>(&twice));
    let once = [made(0, (1, 5), Call::Make(1, true)), made(1, (2, 6), Call::Make(1, false))];
    assert!(is_accepted::<Names>(&once));
    let replaced = |found| {
        let begin = made(0, (1, 2), Call::Replace(1, 100));
        let next = made(0, (3, 10), Call::Replace(1, 200));
        is_accepted::<Names>(&[begin, next, made(1, (4, 5), Call::Find(1, found))])
    };
    assert!(replaced(Some(100)) && replaced(Some(200)));
    assert!(!replaced(None) && !replaced(Some(300)));
    let moved = [
        made(0, (1, 2), Call::Replace(1, 100)),
        made(0, (3, 10), Call::Move(1, 2, true)),
        made(1, (4, 5), Call::Find(2, Some(100))),
        made(1, (6, 7), Call::Find(1, Some(100))),
    ];
    assert!(!is_accepted::<Names>(&moved), "both names at once");
    let swapped = [
        made(0, (1, 2), Call::Replace(1, 100)),
        made(0, (3, 4), Call::Replace(2, 200)),
        made(0, (5, 6), Call::Swap(1, 2, true)),
        made(1, (7, 8), Call::Find(2, Some(100))),
        made(1, (9, 10), Call::Remove(1, true)),
        made(1, (11, 12), Call::Swap(1, 2, false)),
        made(1, (13, 14), Call::Move(1, 2, false)),
    ];
    assert!(is_accepted::<Names>(&swapped));
}

#[test]
fn pending_call_may_have_had_its_effect_or_not() {
    let pending = made(0, (1, u64::MAX), Call::Write(5));
    for value in [0, 5] {
        assert!(is_accepted::<Register>(&[pending.clone(), made(1, (2, 3), Call::Read(value))]));
    }
    assert!(!is_accepted::<Register>(&[pending, made(1, (2, 3), Call::Read(6))]));
}

/// Repeatable random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)) % limit
    }
}

/// Returns calls of three clients on a correct register. Each takes effect at its own moment
/// between call and return.
fn correct_history(random: &mut Random, count: u64) -> Vec<Made<Call>> {
    let mut value = 0;
    let mut free = [0; 3];
    let mut calls = Vec::new();
    for moment in 1..=count {
        let client = usize::try_from(random.below(3)).unwrap();
        let moment = moment * 100;
        let called = moment - random.below((moment - free[client]).min(300));
        let returned = moment + random.below(90);
        if called <= free[client] {
            continue;
        }
        free[client] = returned;
        let call = if random.below(2) == 0 {
            value = u8::try_from(moment / 100).unwrap();
            Call::Write(value)
        } else {
            Call::Read(value)
        };
        calls.push(made(client, (called, returned), call));
    }
    calls
}

#[test]
fn refused_history_is_reduced_to_its_smallest_wrong_part() {
    let mut random = Random(7);
    for _ in 0..20 {
        let mut history = correct_history(&mut random, 120);
        assert!(is_accepted::<Register>(&history));
        let stale =
            history.iter().rposition(|made| made.call == Call::Read(0)).map_or(history.len(), |at| at + 1);
        let after = history.iter().map(|made| made.returned).max().unwrap() + 1;
        history.insert(stale, made(1, (after, after + 1), Call::Read(0)));
        history.push(made(1, (after + 2, after + 3), Call::Write(250)));
        let Refused(part) = check(&Register::default(), &history).unwrap_err();
        assert!(part.len() <= 3, "{part:?}");
        assert!(part.iter().any(|made| made.call == Call::Read(0)), "{part:?}");
        assert!(!is_accepted::<Register>(&part));
    }
}

/// Returns whether any order of all calls explains them, by trying each order.
fn is_explained_by_trial(object: Register, rest: &[Made<Call>]) -> bool {
    let may_be_next = |index: usize| rest.iter().all(|other| rest[index].called <= other.returned);
    rest.is_empty()
        || (0..rest.len()).filter(|index| may_be_next(*index)).any(|index| {
            let mut others = rest.to_vec();
            let next = others.remove(index);
            object.after(&next.call).is_some_and(|after| is_explained_by_trial(after, &others))
        })
}

#[test]
fn random_histories_are_judged_as_by_trying_every_order() {
    let mut random = Random(11);
    let mut verdicts = [0; 2];
    for _ in 0..3000 {
        let history: Vec<_> = (0..6)
            .map(|client| {
                let called = random.below(12);
                let value = u8::try_from(random.below(3)).unwrap();
                let call = if random.below(2) == 0 { Call::Write(value) } else { Call::Read(value) };
                made(client, (called, called + 1 + random.below(5)), call)
            })
            .collect();
        let expected = is_explained_by_trial(Register::default(), &history);
        assert_eq!(is_accepted::<Register>(&history), expected, "{history:?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 300), "{verdicts:?}");
}

#[test]
fn open_sees_the_last_closed_or_a_concurrent_value() {
    let access = |client, (called, returned), value| FileAccess { client, called, returned, value };
    let stored = [access(0, (0, 0), 'a'), access(0, (1, 5), 'b'), access(1, (8, 12), 'c')];
    let sees = |at| -> Vec<char> {
        let seen = |value: &char| reopened::check(&stored, &[access(2, at, *value)]).is_ok();
        ['a', 'b', 'c'].into_iter().filter(seen).collect()
    };
    assert_eq!(sees((2, 3)), ['a', 'b']);
    assert_eq!(sees((6, 7)), ['b']);
    assert_eq!(sees((6, 9)), ['b', 'c']);
    assert_eq!(sees((13, 14)), ['c']);
    let late = reopened::check(&stored, &[access(2, (13, 14), 'b')]).unwrap_err();
    assert_eq!(late.stored.len(), 1);
}
