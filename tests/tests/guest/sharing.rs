//! Do guests that write one directory at the same time see the changes of the others as the cache
//! mode promises, and is no change lost?
//!
//! Each real guest has its own daemon, and a process of the host works on the same directory. The
//! questions are in `pinhole_tests::sharing`. `PINHOLE_SHARING_TURNS=10` makes each question ten
//! times as long, `PINHOLE_SHARING_SEED` changes the random choices, and
//! `PINHOLE_SHARING_SECONDS=60` writes databases for a minute, as `cargo xtask coherence` does.

use std::collections::BTreeMap;

use pinhole_tests::daemon::pinhole_program;
use pinhole_tests::sharing::{Group, Participants, QUESTIONS, Subject};

/// Asks those questions of `groups` whose answer must be yes for this subject. Panics if an answer
/// is not yes. Returns what each question counted.
fn check_questions(subject: Subject, guests: usize, groups: &[Group]) -> BTreeMap<&'static str, String> {
    let mut participants = Participants::new(pinhole_program().unwrap(), subject, guests);
    let (mut right, mut wrong) = (BTreeMap::new(), Vec::new());
    for question in QUESTIONS.into_iter().flatten() {
        if !groups.contains(&question.group) || !question.promised.by(subject) {
            continue;
        }
        let began = std::time::Instant::now();
        match question.ask(&mut participants) {
            Ok(counted) => {
                println!("{}: {counted} ({:?})", question.name, began.elapsed());
                right.insert(question.name, counted);
            }
            Err(fault) => wrong.push(format!("{}: {}\n  {fault}", question.name, question.asks)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{subject}, {guests} guests:\n{}\ndaemons:\n{}",
        wrong.join("\n"),
        participants.daemon_logs()
    );
    right
}

#[test]
fn strict_guests_and_host_see_changes_at_once() {
    check_questions(Subject::Strict, 2, &[Group::Seen]);
}

#[test]
fn two_strict_guests_and_host_share_names() {
    check_questions(Subject::Strict, 2, &[Group::Names]);
}

#[test]
fn four_strict_guests_and_host_share_names() {
    check_questions(Subject::Strict, 4, &[Group::Names]);
}

#[test]
fn auto_keeps_close_to_open_between_guests() {
    check_questions(Subject::Auto, 2, &[Group::Seen, Group::Names, Group::Programs]);
}

#[test]
fn programs_of_two_guests_write_the_same_files() {
    check_questions(Subject::Strict, 2, &[Group::Programs]);
}

#[test]
fn databases_of_two_guests_lose_no_row() {
    check_questions(Subject::Strict, 2, &[Group::Databases]);
}

#[test]
fn write_ahead_log_is_refused_without_shared_mappings() {
    let answers = check_questions(Subject::Never, 2, &[Group::Seen, Group::Databases]);
    // No guest has written a row. Each guest has got an error, which the answer contains.
    assert!(answers["sqlite-wal"].starts_with("to each guest refused:"), "{answers:?}");
}

#[test]
fn locks_hold_between_two_guests_and_the_host() {
    check_questions(Subject::Strict, 2, &[Group::Locks]);
}

#[test]
fn locks_hold_between_four_guests_and_the_host() {
    check_questions(Subject::Strict, 4, &[Group::Locks]);
}

#[test]
fn locks_hold_where_names_may_be_a_second_old() {
    check_questions(Subject::Auto, 2, &[Group::Locks]);
}
