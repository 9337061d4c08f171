//! Common programs in two and more guests: git, which coordinates by names, and SQLite, which
//! coordinates by locks.

use std::time::Duration;

use super::verdict::ensure;
use crate::sharing::participants::{A, B, H, Participant, Participants};
use crate::sharing::settings::turns;
use crate::sharing::{Fault, Group, Promised, Question};

pub(super) const PROGRAMS: [Question; 3] = [
    question(
        "git",
        "Guests that commit to one git repository at once, and retry while index.lock exists, lose no commit",
        Group::Programs,
        git,
    )
    .and_auto(),
    question(
        "sqlite-rollback",
        "Guests and the host write one SQLite database at once: no row is lost, and the database stays valid",
        Group::Databases,
        rollback,
    ),
    question(
        "sqlite-wal",
        "The same with a write-ahead log, whose index is a shared mapping: no row is lost, or SQLite refuses to work where files cannot be mapped",
        Group::Databases,
        wal,
    ),
];

const fn question(
    name: &'static str,
    asks: &'static str,
    group: Group,
    answer: fn(&mut Participants) -> Result<String, Fault>,
) -> Question {
    Question { name, asks, group, promised: Promised::Strict, answer }
}

/// Upper bound on the run of all programs, which start another program in every turn.
fn limit() -> Duration {
    Duration::from_mins(5) * turns(1)
}

/// Environment of git: an identity, and no garbage collection in the background.
const IDENTITY: &str = "export GIT_AUTHOR_NAME=g GIT_AUTHOR_EMAIL=g@g GIT_COMMITTER_NAME=g GIT_COMMITTER_EMAIL=g@g \
                        GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=gc.auto GIT_CONFIG_VALUE_0=0;";

fn git(participants: &mut Participants) -> Result<String, Fault> {
    let count = turns(6);
    participants.step(
        A,
        &format!("run {IDENTITY} git init -q -b main . && git commit -q --allow-empty -m first"),
        "",
    )?;
    // Guests that share a work tree also share the file with the message of a commit, so git may
    // find it empty.
    let again = "try() { until git \"$@\" > /tmp/said 2>&1; do \
                 grep -q -e 'index.lock' -e 'cannot lock ref' -e 'empty commit message' /tmp/said || \
                 { cat /tmp/said; exit 1; }; sleep 0.0$((RANDOM % 5 + 1)); done; };";
    let command = format!(
        "{IDENTITY} RANDOM={{me}}; {again} for i in $(seq {count}); do echo $i > file-{{me}}-$i; try add file-{{me}}-$i; \
         try commit -q --allow-empty -m {{me}}-$i; done"
    );
    participants.guests(&command, limit())?;
    let guests = participants.count() - 1;
    let wanted = u64::from(count) * guests as u64;
    // On any file system, git reads the index before it locks it. So the index may lack a file that
    // another guest added in between.
    let check = "run git fsck --full --strict --no-dangling 2>&1; git status --porcelain | grep -v '^??'; git rev-list --count HEAD";
    for guest in [A, B] {
        let said = participants.reply(guest, check)?;
        ensure(said == (wanted + 1).to_string(), || format!("of {wanted} commits, and one before: {said}"))?;
    }
    Ok(format!("{wanted} commits"))
}

/// Returns a command that writes rows for `seconds`, each in its own transaction, ten for each
/// start of sqlite3. The command prints one line for each committed row. After an error of SQLite
/// it runs `otherwise`. The host process is faster than a guest, so it pauses between two starts. A
/// program that has committed no row in time, on a busy host, continues until it has committed one.
fn insert(seconds: u32, otherwise: &str) -> String {
    let row =
        "begin immediate; insert into t(who) values({me}); update n set n = n + 1; commit; select 'row';";
    let rows = row.repeat(10);
    format!(
        "end=$(($(date +%s) + {seconds})); none=1; while [ $none = 1 -o $(date +%s) -lt $end ]; do \
         printf '%s\\n' '.timeout 30000' \"{rows}\" | sqlite3 -bail base > $HOME/rows 2> $HOME/why; code=$?; \
         grep row $HOME/rows && none=0; [ $code = 0 ] || {{ {otherwise}; }}; \
         [ {{me}} -lt $(({{all}} - 1)) ] || sleep 0.1; done"
    )
}

/// SQL that makes the tables: one for rows, and one with the number of rows.
const TABLES: &str =
    "create table t(id integer primary key, who int); create table n(n int); insert into n values(0);";

/// Returns the upper bound on the run of programs that write a database for so many seconds.
fn patience(seconds: u32) -> Duration {
    limit() + Duration::from_secs(u64::from(seconds))
}

/// Checks that each participant finds a valid database with exactly the committed rows. Each sends
/// `first` to SQLite before the check.
fn check_database(
    participants: &mut Participants,
    those: &[Participant],
    first: &str,
    committed: u64,
) -> Result<(), Fault> {
    let check = format!(
        "run echo '{first} pragma integrity_check; select count(*) from t; select n from n;' | sqlite3 base 2>&1"
    );
    for who in those {
        let said = participants.reply(*who, &check)?;
        let wanted = format!("ok\n{committed}\n{committed}");
        ensure(said == wanted, || {
            format!("{committed} rows were committed; the database says to {who:?}: {said}")
        })?;
    }
    Ok(())
}

/// Returns the number of rows that the programs have committed, from their output.
fn committed(said: &[String]) -> u64 {
    said.iter().flat_map(|text| text.lines()).filter(|line| *line == "row").count() as u64
}

/// Returns the number of rows that each program has committed.
fn by_each(said: &[String]) -> Vec<u64> {
    said.iter().map(|text| committed(std::slice::from_ref(text))).collect()
}

fn rollback(participants: &mut Participants) -> Result<String, Fault> {
    participants.step(A, &format!("run sqlite3 base \"{TABLES}\""), "")?;
    let seconds = participants.seconds();
    let said = participants.together(&insert(seconds, "cat $HOME/why; exit 1"), patience(seconds))?;
    let (rows, each) = (committed(&said), by_each(&said));
    check_database(participants, &[A, B, H], "", rows)?;
    ensure(each.iter().all(|rows| *rows > 0), || format!("rows of each: {each:?}"))?;
    Ok(format!("{rows} rows in {seconds} s, {each:?} of each and the host"))
}

fn wal(participants: &mut Participants) -> Result<String, Fault> {
    let make = format!("run sqlite3 /tmp/base \"pragma journal_mode=wal; {TABLES}\" && cp /tmp/base base");
    participants.step(A, &make, "wal")?;
    if participants.subject().maps_shared() { wal_in_turns(participants) } else { wal_refused(participants) }
}

/// Returns the errors of SQLite, one line each.
fn refusals(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with("refused:"))
}

/// Checks a mode that permits to map the index of the log: one guest at a time has the index, and
/// no row is lost.
fn wal_in_turns(participants: &mut Participants) -> Result<String, Fault> {
    // Errors of SQLite if another program has the index, or the database.
    const BUSY: [&str; 2] = ["locking protocol", "database is locked"];
    let seconds = participants.seconds();
    let said =
        participants.together(&insert(seconds, "echo refused: $(cat $HOME/why)"), patience(seconds))?;
    let (rows, each) = (committed(&said), by_each(&said));
    let busy: Vec<&str> = said.iter().flat_map(|text| refusals(text)).collect();
    let other = busy.iter().find(|line| !BUSY.iter().any(|words| line.contains(words)));
    ensure(other.is_none(), || format!("{}; rows of each: {each:?}", other.unwrap_or(&"")))?;
    ensure(each.iter().all(|rows| *rows > 0), || format!("rows of each: {each:?}; {:?}", busy.first()))?;
    check_database(participants, &[A, B, H], "", rows)?;
    let busy = if busy.is_empty() { String::new() } else { format!(", locked {} times", busy.len()) };
    Ok(format!("{rows} rows in {seconds} s, {each:?} of each and the host{busy}"))
}

/// Checks a mode that refuses to map the index of the log: no guest can write, each gets an error,
/// and the database is unchanged.
fn wal_refused(participants: &mut Participants) -> Result<String, Fault> {
    // Errors of SQLite if the mapping fails, or while another guest gets that error.
    const WORDS: [&str; 4] =
        ["disk I/O error", "unable to open database file", "locking protocol", "database is locked"];
    let seconds = participants.seconds();
    let said =
        participants.guests(&insert(seconds, "echo refused: $(cat $HOME/why); break"), patience(seconds))?;
    let rows = by_each(&said);
    ensure(rows.iter().all(|rows| *rows == 0), || format!("rows of each guest: {rows:?}"))?;
    let is_told = |text: &str| refusals(text).any(|line| WORDS.iter().any(|words| line.contains(words)));
    ensure(said.iter().all(|text| is_told(text)), || format!("not refused: {}", said.join("; ")))?;
    // With an exclusive lock, SQLite has no shared index and needs no mapping.
    check_database(
        participants,
        &[A, B],
        ".output /dev/null\npragma locking_mode=exclusive;\n.output stdout\n",
        0,
    )?;
    check_database(participants, &[H], "", 0)?;
    let first = said.iter().flat_map(|text| refusals(text)).next().unwrap_or_default();
    Ok(format!("to each guest {first}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_rows_are_counted() {
        assert_eq!(committed(&["row\nrow\nrows".to_owned(), "no row".to_owned(), "row".to_owned()]), 3);
    }
}
