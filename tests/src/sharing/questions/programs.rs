//! Programs that people run, from two guests and more at once: git, which keeps its order by names, and SQLite by locks.

use std::time::Duration;

use super::hold;
use crate::sharing::table::{A, B, Table};
use crate::sharing::{Fault, Group, Promised, Question, turns};

pub(super) const PROGRAMS: [Question; 3] = [
    question(
        "git",
        "Guests that commit to one repository at once, trying again while index.lock is there, lose no commit",
        Group::Programs,
        git,
    )
    .and_auto(),
    question(
        "sqlite-rollback",
        "Guests that write one SQLite database at once lose no row, and it stays sound",
        Group::Databases,
        rollback,
    ),
    question(
        "sqlite-wal",
        "The same with a write-ahead log, whose index is a shared mapping: none is lost, whether all may write or not",
        Group::Databases,
        wal,
    ),
];

const fn question(
    name: &'static str,
    asks: &'static str,
    group: Group,
    answer: fn(&mut Table) -> Result<String, Fault>,
) -> Question {
    Question { name, asks, group, promised: Promised::Strict, answer }
}

/// For guests that start a program for every turn.
fn limit() -> Duration {
    Duration::from_mins(2) * turns(1)
}

const IDENTITY: &str = "export GIT_AUTHOR_NAME=g GIT_AUTHOR_EMAIL=g@g GIT_COMMITTER_NAME=g GIT_COMMITTER_EMAIL=g@g \
                        GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=gc.auto GIT_CONFIG_VALUE_0=0;";

fn git(table: &mut Table) -> Result<String, Fault> {
    let count = turns(6);
    table.step(
        A,
        &format!("run {IDENTITY} git init -q -b main . && git commit -q --allow-empty -m first"),
        "",
    )?;
    // Guests that share a work tree share the file in which a commit's message lies too, so git may find it empty.
    let again = "try() { until git \"$@\" > /tmp/said 2>&1; do \
                 grep -q -e 'index.lock' -e 'cannot lock ref' -e 'empty commit message' /tmp/said || \
                 { cat /tmp/said; exit 1; }; sleep 0.0$((RANDOM % 5 + 1)); done; };";
    let command = format!(
        "{IDENTITY} RANDOM={{me}}; {again} for i in $(seq {count}); do echo $i > file-{{me}}-$i; try add file-{{me}}-$i; \
         try commit -q --allow-empty -m {{me}}-$i; done"
    );
    table.guests(&command, limit())?;
    let guests = table.all() - 1;
    let wanted = u64::from(count) * guests as u64;
    // Git reads the index before it locks it, on any file system: a file that was added meanwhile may be left out of it.
    let check = "run git fsck --full --strict --no-dangling 2>&1; git status --porcelain | grep -v '^??'; git rev-list --count HEAD";
    for guest in [A, B] {
        let said = table.says(guest, check)?;
        hold(said == (wanted + 1).to_string(), || format!("of {wanted} commits, and one before: {said}"))?;
    }
    Ok(format!("{wanted} commits"))
}

/// A row at a time, each in a transaction of its own, ten for each start of the program. It prints one line for each row
/// that was committed; where SQLite complains, the guest does `otherwise`.
fn insert(seconds: u32, otherwise: &str) -> String {
    let row =
        "begin immediate; insert into t(who) values({me}); update n set n = n + 1; commit; select 'row';";
    let rows = row.repeat(10);
    format!(
        "end=$(($(date +%s) + {seconds})); while [ $(date +%s) -lt $end ]; do \
         echo \".timeout 30000\n{rows}\" | sqlite3 -bail base > /tmp/rows 2> /tmp/why; code=$?; \
         grep row /tmp/rows; [ $code = 0 ] || {{ {otherwise}; }}; done"
    )
}

const TABLES: &str =
    "create table t(id integer primary key, who int); create table n(n int); insert into n values(0);";

/// The seconds for which the guests write.
fn seconds() -> u32 {
    std::env::var("PINHOLE_SHARING_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// Everyone's rows, counted by a guest that has it from the database itself.
fn sound(table: &mut Table, committed: u64) -> Result<(), Fault> {
    let check =
        "run echo 'pragma integrity_check; select count(*) from t; select n from n;' | sqlite3 base 2>&1";
    for guest in [A, B] {
        let said = table.says(guest, check)?;
        let wanted = format!("ok\n{committed}\n{committed}");
        hold(said == wanted, || format!("{committed} rows were committed; the database says: {said}"))?;
    }
    Ok(())
}

fn committed(said: &[String]) -> u64 {
    said.iter().flat_map(|text| text.lines()).filter(|line| *line == "row").count() as u64
}

fn rollback(table: &mut Table) -> Result<String, Fault> {
    table.step(A, &format!("run sqlite3 base \"{TABLES}\""), "")?;
    let said = table.guests(
        &insert(seconds(), "cat /tmp/why; exit 1"),
        limit() + Duration::from_secs(u64::from(seconds())),
    )?;
    let rows = committed(&said);
    sound(table, rows)?;
    let each: Vec<_> = said.iter().map(|text| committed(std::slice::from_ref(text))).collect();
    hold(each.iter().all(|rows| *rows > 0), || format!("rows of each guest: {each:?}"))?;
    Ok(format!("{rows} rows"))
}

/// SQLite's words where it cannot have the memory that a write-ahead log needs, or another guest has it.
const REFUSALS: [&str; 4] =
    ["locking protocol", "unable to open database file", "disk I/O error", "database is locked"];

fn wal(table: &mut Table) -> Result<String, Fault> {
    let make = format!("run sqlite3 /tmp/base \"pragma journal_mode=wal; {TABLES}\" && cp /tmp/base base");
    table.step(A, &make, "wal")?;
    let patience = limit() + Duration::from_secs(u64::from(seconds()));
    let said = table.guests(&insert(seconds(), "echo refused: $(cat /tmp/why); break"), patience)?;
    let rows = committed(&said);
    let refusals: Vec<&str> =
        said.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("refused:")).collect();
    let known = |line: &&&str| !REFUSALS.iter().any(|words| line.contains(words));
    hold(!refusals.iter().any(|line| known(&line)), || refusals.join("; "))?;
    // What the host has, without the mapping.
    let check = "run rm -rf /tmp/copy; mkdir /tmp/copy; cp base* /tmp/copy; rm -f /tmp/copy/base-shm; cd /tmp/copy; \
                 echo 'pragma integrity_check; select count(*) from t; select n from n;' | sqlite3 base 2>&1";
    let said = table.says(A, check)?;
    hold(said == format!("ok\n{rows}\n{rows}"), || {
        format!("{rows} rows were committed; the database says: {said}")
    })?;
    Ok(refusals.first().map_or_else(|| format!("{rows} rows"), |line| format!("{rows} rows, and {line}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_rows_are_counted() {
        assert_eq!(committed(&["row\nrow\nrows".to_owned(), "no row".to_owned(), "row".to_owned()]), 3);
    }
}
