//! Locks between guests, and between guests and the host.

use std::time::Duration;

use super::verdict::{ensure, number, word};
use crate::sharing::participants::{A, B, H, Participants, read_text};
use crate::sharing::settings::turns;
use crate::sharing::{Fault, Group, Promised, Question};

pub(super) const LOCKS: [Question; 8] = [
    question(
        "lock-held",
        "A record lock excludes other clients, GETLK reports it, and closing the file releases it",
        held,
    )
    .and_auto(),
    question("flock-held", "The same for flock", flock_held).and_auto(),
    question("count-fcntl", "A counter that all clients increment under a record lock loses no increment", count_fcntl),
    question("count-flock", "A counter that all clients increment under flock loses no increment", count_flock),
    question(
        "count-between",
        "A counter that all clients increment by open, write and close, under a lock of another file, loses no increment",
        count_between,
    )
    .and_auto(),
    question(
        "ping-pong",
        "Samba's ping_pong -rw: the data increment is the number of clients, and no increment is lost",
        ping_pong,
    ),
    question(
        "killed-waiting",
        "A program that is killed while it waits for a lock holds no lock after the owner releases it",
        killed_waiting,
    )
    .and_auto(),
    // The next question starts all participants again.
    question("killed", "A guest that is killed leaves no lock", killed).and_auto(),
];

const fn question(
    name: &'static str,
    asks: &'static str,
    answer: fn(&mut Participants) -> Result<String, Fault>,
) -> Question {
    Question { name, asks, group: Group::Locks, promised: Promised::Strict, answer }
}

/// Upper bound on the turns of all programs under a lock.
const LIMIT: Duration = Duration::from_mins(4);

fn held(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (H, "put f content", "ok"),
        (A, "open a rw f", "ok"),
        (B, "open b rw f", "ok"),
        (H, "open h rw f", "ok"),
        (A, "lock a w 0 10", "ok"),
        (B, "lock b w 0 10", "EAGAIN"),
        (B, "lock b r 9 1", "EAGAIN"),
        (H, "lock h w 5 1", "EAGAIN"),
        (B, "getlk b w 0 20", "write 0 10"),
        (H, "getlk h w 0 20", "write 0 10"),
        (B, "lock b w 10 5", "ok"),
        (H, "getlk h w 10 1", "write 10 5"),
        (A, "lock a u 0 5", "ok"),
        (H, "lock h w 0 5", "ok"),
        (A, "lock a r 0 1", "EAGAIN"),
        (B, "close b", "ok"),
        (A, "lock a w 10 5", "ok"),
        (H, "close h", "ok"),
        (B, "open b rw f", "ok"),
        (B, "lock b r 0 5", "ok"),
        (A, "lock a r 0 5", "ok"),
        (H, "open h rw f", "ok"),
        (H, "lock h r 0 5", "ok"),
        (H, "lock h w 0 5", "EAGAIN"),
        (A, "close a", "ok"),
        (B, "close b", "ok"),
        (H, "lock h w 0 0", "ok"),
        (H, "close h", "ok"),
    ])
}

fn flock_held(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (H, "put f content", "ok"),
        (A, "open a rw f", "ok"),
        (B, "open b rw f", "ok"),
        (H, "open h rw f", "ok"),
        (A, "flock a x", "ok"),
        (B, "flock b s", "EAGAIN"),
        (H, "flock h x", "EAGAIN"),
        (A, "flock a s", "ok"),
        (B, "flock b s", "ok"),
        (H, "flock h s", "ok"),
        (B, "flock b x", "EAGAIN"),
        (A, "flock a u", "ok"),
        (H, "flock h u", "ok"),
        (B, "flock b x", "ok"),
        (A, "flock a s", "EAGAIN"),
        (B, "close b", "ok"),
        (A, "flock a x", "ok"),
        (H, "flock h s", "EAGAIN"),
        (A, "close a", "ok"),
        (H, "flock h x", "ok"),
        (H, "close h", "ok"),
    ])
}

/// Lets all programs increment a number by `guest_program count`, and checks that no increment is
/// lost.
fn count(participants: &mut Participants, how: &str, count: u32) -> Result<String, Fault> {
    participants.step(H, "put number 0", "ok")?;
    participants.together(&format!("$guest_program count {how} number {{me}} {count}"), LIMIT * turns(1))?;
    let found = read_text(&participants.folder()?.join("number"))?;
    let wanted = u64::from(count) * participants.count() as u64;
    ensure(found.trim() == wanted.to_string(), || {
        format!("{} of {wanted} turns are in the number", found.trim())
    })?;
    Ok(format!("{wanted} turns"))
}

fn count_fcntl(participants: &mut Participants) -> Result<String, Fault> {
    count(participants, "fcntl", turns(150))
}

fn count_flock(participants: &mut Participants) -> Result<String, Fault> {
    count(participants, "flock", turns(150))
}

fn count_between(participants: &mut Participants) -> Result<String, Fault> {
    count(participants, "between", turns(100))
}

fn ping_pong(participants: &mut Participants) -> Result<String, Fault> {
    let (wanted, all) = (u64::from(turns(200)), participants.count());
    let said = participants.reply(H, "run head -c 512 /dev/zero > f")?;
    ensure(said.is_empty(), || said)?;
    let said =
        participants.together(&format!("$guest_program pingpong rw f {{all}} {wanted}"), LIMIT * turns(1))?;
    let bytes = std::fs::read(participants.folder()?.join("f"))
        .map_err(Fault::host("cannot read a file of the share"))?;
    let sum = steady_turns(&said, &bytes, wanted)?;
    Ok(format!("increment {all}, {sum} visits"))
}

/// Checks the results of several `guest_program pingpong` and of the file that they leave. Returns
/// the sum of all turns.
///
/// # Errors
/// [`Fault::Wrong`] if a turn is lost, if a program has fewer than `wanted` steady visits, or if
/// the number of other programs' turns between two visits was wrong while all of them ran.
pub fn steady_turns(said: &[String], file: &[u8], wanted: u64) -> Result<u64, Fault> {
    let figures = |at: usize| said.iter().map(|text| number(text, at)).collect::<Result<Vec<_>, _>>();
    let (passed, steady, other) = (figures(1)?, figures(3)?, figures(5)?);
    let counters = file.chunks(4).take(said.len() + 1);
    let counted: u64 =
        counters.map(|bytes| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))).sum();
    let sum: u64 = passed.iter().sum();
    ensure(counted == sum, || format!("{counted} of {sum} turns are counted"))?;
    ensure(steady.iter().all(|steady| *steady >= wanted), || {
        format!("the increment was {} at only {steady:?} of {passed:?} visits", said.len())
    })?;
    ensure(other.iter().all(|other| *other == 0), || {
        format!("the increment was not {} at {other:?} visits while all programs ran", said.len())
    })?;
    Ok(sum)
}

fn killed(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (H, "put f content", "ok"),
        (A, "open a rw f", "ok"),
        (A, "lock a w 0 0", "ok"),
        (A, "flock a x", "ok"),
        (B, "open b rw f", "ok"),
        (B, "lock b w 0 0", "EAGAIN"),
        (B, "flock b x", "EAGAIN"),
    ])?;
    participants.kill(0)?;
    // The waiting process gets the lock, however long the daemon takes to notice the end of its
    // guest.
    participants.step(
        B,
        "run $guest_program count fcntl f 1 1 && timeout 60 flock f true && echo free",
        "turns 1\nfree",
    )?;
    participants.steps(&[(B, "lock b w 0 0", "ok"), (B, "flock b x", "ok")])
}

/// Checks that a caller which is killed while it waits keeps no lock. On virtio-fs the daemon does
/// not learn of the kill, so the request waits until it gets the lock.
fn killed_waiting(participants: &mut Participants) -> Result<String, Fault> {
    participants.step(H, "put f content", "ok")?;
    for holder in [A, B, H] {
        for (how, lock, unlock) in
            [("fcntl", "lock z w 0 0", "lock z u 0 0"), ("flock", "flock z x", "flock z u")]
        {
            participants.steps(&[(holder, "open z rw f", "ok"), (holder, lock, "ok")])?;
            let said = participants.reply(B, &format!("run $guest_program abandon {how} f"))?;
            ensure(word(&said, 1) == "S", || {
                format!("the program did not wait for {how} of {holder:?}: {said}")
            })?;
            let gone = format!("run $guest_program gone {}", word(&said, 0));
            participants.step(holder, unlock, "ok")?;
            let have = format!("run $guest_program have {how} f");
            participants.steps(&[(H, &have, "had"), (A, &have, "had"), (B, &gone, "gone")])?;
            // The killed caller has ended, so a lock that it had kept would be visible now.
            participants.steps(&[
                (H, &have, "had"),
                (A, &have, "had"),
                (B, &have, "had"),
                (holder, "close z", "ok"),
            ])?;
        }
    }
    Ok("killed at 6 locks of two guests and the host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_number_of_turns_or_visits_is_an_error() {
        let file: Vec<u8> = [4_u32, 3, 3].into_iter().flat_map(u32::to_le_bytes).collect();
        let said = |turns, steady, other| {
            vec![
                "turns 5 steady 4 other 0".to_owned(),
                format!("turns {turns} steady {steady} other {other}"),
            ]
        };
        assert_eq!(steady_turns(&said(5, 4, 0), &file, 4).unwrap(), 10);
        for (turns, steady, other) in [(6, 4, 0), (5, 3, 0), (5, 4, 1)] {
            steady_turns(&said(turns, steady, other), &file, 4).unwrap_err();
        }
    }
}
