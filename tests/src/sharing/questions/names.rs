//! Names and files that all guests make, move, write and remove at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use super::verdict::{ensure, number, word, wrong};
use crate::sharing::participants::{H, Participants, read_text};
use crate::sharing::settings::{seed, turns};
use crate::sharing::{Fault, Group, Promised, Question};

pub(super) const NAMES: [Question; 6] = [
    question(
        "appends",
        "If all clients append records to one file at once, each record is whole and present",
        appends,
    )
    .and_auto(),
    question(
        "created-once",
        "If all clients create one file with O_EXCL, one folder or one link at once, exactly one succeeds",
        created_once,
    )
    .and_auto(),
    question(
        "storm",
        "If all clients create, move and remove files at once, some order of the calls explains the result",
        storm,
    ),
    question(
        "rename-atomic",
        "A file that is replaced continuously always exists and is always whole",
        rename_atomic,
    )
    .and_auto(),
    question(
        "maildir",
        "If all clients deliver and read mail at once, each message is read once and whole",
        maildir,
    ),
    question(
        "mix",
        "Random calls in one tree, as fsstress makes them, fail only with expected errors, and all clients see the same tree",
        mix,
    ),
];

const fn question(
    name: &'static str,
    asks: &'static str,
    answer: fn(&mut Participants) -> Result<String, Fault>,
) -> Question {
    Question { name, asks, group: Group::Names, promised: Promised::Strict, answer }
}

/// Upper bound on the run of all programs for one question.
fn limit() -> Duration {
    Duration::from_mins(4) * turns(1)
}

fn appends(participants: &mut Participants) -> Result<String, Fault> {
    let count = u64::from(turns(250));
    participants.together(&format!("$guest_program append f {{me}} {count}"), limit())?;
    let text = read_text(&participants.folder()?.join("f"))?;
    let mut next = BTreeMap::new();
    for line in text.split_inclusive('\n') {
        let shown = || line.chars().take(40).collect::<String>();
        let (who, at, len) = (number(line, 0)?, number(line, 1)?, number(line, 2)?);
        let letter = u8::try_from(who).map(|who| char::from(b'a'.saturating_add(who)));
        let filled = word(line, 3).chars().all(|found| Ok(found) == letter);
        ensure(len == line.len() as u64 && filled, || format!("not whole: `{}`", shown()))?;
        let expected = next.entry(who).or_insert(0);
        ensure(at == *expected, || format!("`{}` comes where {expected} should", shown()))?;
        *expected += 1;
    }
    let whole = next.len() == participants.count() && next.values().all(|found| *found == count);
    ensure(whole, || format!("of {count} records each there are {next:?}"))?;
    Ok(format!("{} records", text.lines().count()))
}

fn created_once(participants: &mut Participants) -> Result<String, Fault> {
    let count = turns(100);
    let said = participants.together(&format!("$guest_program excl . {{me}} {count}"), limit())?;
    let mut made = BTreeMap::new();
    for (me, line) in said.iter().enumerate().flat_map(|(me, text)| text.lines().map(move |line| (me, line)))
    {
        let other = made.insert(word(line, 1).to_owned(), me);
        ensure(other.is_none(), || format!("{me} and {other:?} both made {}", word(line, 1)))?;
    }
    ensure(made.len() == count as usize * 4, || format!("{} of {} were made", made.len(), count * 4))?;
    for (name, me) in made.iter().filter(|(name, _)| name.starts_with("file-")) {
        let found = read_text(&participants.folder()?.join(name))?;
        ensure(found == me.to_string(), || format!("{name} has `{found}`, made by {me}"))?;
    }
    Ok(format!("{} names", made.len()))
}

/// Sum of the successful calls of all programs. A mark is the content that a program gave its new
/// file.
#[derive(Default)]
struct Account {
    /// Marks of all created files.
    created: BTreeSet<String>,
    /// Marks of all files that were taken: renamed to a private name and removed.
    taken: BTreeSet<String>,
    /// For each name, how often a file got it, minus how often a file lost it.
    held: BTreeMap<String, i64>,
}

impl Account {
    /// Adds the call that a line of a program's output reports.
    fn add(&mut self, line: &str) -> Result<(), Fault> {
        let (name, rest) = (word(line, 1).to_owned(), word(line, 2).to_owned());
        match word(line, 0) {
            "create" => {
                *self.held.entry(name).or_default() += 1;
                self.created.insert(rest);
            }
            "move" => {
                *self.held.entry(name).or_default() -= 1;
                *self.held.entry(rest).or_default() += 1;
            }
            "take" => {
                *self.held.entry(name).or_default() -= 1;
                ensure(self.taken.insert(rest), || format!("taken twice: `{line}`"))?;
            }
            _ => return Err(wrong(format!("no turn of a storm: `{line}`"))),
        }
        Ok(())
    }
}

fn storm(participants: &mut Participants) -> Result<String, Fault> {
    let (count, seed) = (turns(400), seed());
    let said = participants.together(&format!("$guest_program storm . {{me}} {count} {seed}"), limit())?;
    let mut account = Account::default();
    said.iter().flat_map(|text| text.lines()).try_for_each(|line| account.add(line))?;
    let mut left = account.created.clone();
    for mark in &account.taken {
        ensure(left.remove(mark), || format!("seed {seed}: {mark} was taken and never made"))?;
    }
    let mut there = BTreeMap::new();
    for entry in
        fs::read_dir(participants.folder()?).map_err(Fault::host("cannot list the folder of the question"))?
    {
        let entry = entry.map_err(Fault::host("cannot list the folder of the question"))?;
        there.insert(entry.file_name().to_string_lossy().into_owned(), read_text(&entry.path())?);
    }
    let marks: BTreeSet<String> = there.values().cloned().collect();
    ensure(marks == left, || format!("seed {seed}: left should be {left:?}, and is {there:?}"))?;
    let held: BTreeSet<_> = account.held.iter().filter(|(_, count)| **count != 0).collect();
    let once = held.iter().all(|(name, count)| **count == 1 && there.contains_key(*name));
    ensure(once && held.len() == there.len(), || format!("seed {seed}: {held:?} are held, {there:?} there"))?;
    Ok(format!("{} files", account.created.len()))
}

fn rename_atomic(participants: &mut Participants) -> Result<String, Fault> {
    let count = turns(300);
    participants.step(H, "run $guest_program replace . 9 1 0", "replaced 1")?;
    // The first guest and the host replace the file, the others read it.
    let command = format!(
        "case {{me}} in 0|$(({{all}} - 1))) $guest_program replace . {{me}} {count} $(({{all}} - 2));; \
         *) $guest_program watch . {{me}} {count};; esac"
    );
    let said = participants.together(&command, limit())?;
    let kinds: Vec<_> =
        said.iter().filter(|text| text.starts_with("watched")).map(|text| number(text, 2)).collect();
    let kinds = kinds.into_iter().collect::<Result<Vec<_>, _>>()?;
    // A program that always saw the same file did not read during the changes, or read an old file.
    ensure(kinds.iter().all(|kinds| *kinds > 1), || format!("of 26 kinds of files were seen: {kinds:?}"))?;
    Ok(format!("{count} looks by each"))
}

fn maildir(participants: &mut Participants) -> Result<String, Fault> {
    let count = turns(60) as usize;
    for folder in ["mkdir tmp", "mkdir new", "mkdir cur"] {
        participants.step(H, folder, "ok")?;
    }
    let all = count * participants.count();
    let said = participants.together(&format!("$guest_program maildir . {{me}} {count} {all}"), limit())?;
    let mut read = BTreeSet::new();
    for line in said.iter().flat_map(|text| text.lines()) {
        ensure(read.insert(word(line, 1).to_owned()), || format!("read twice: `{line}`"))?;
    }
    ensure(read.len() == all, || format!("{} of {all} were read", read.len()))?;
    Ok(format!("{all} messages"))
}

fn mix(participants: &mut Participants) -> Result<String, Fault> {
    let (count, seed) = (turns(1500), seed());
    participants.step(H, "mkdir top", "ok")?;
    let said = participants.together(&format!("$guest_program mix top {{me}} {count} {seed}"), limit())?;
    for text in &said {
        let (done, of) = (number(text, 1)?, number(text, 3)?);
        ensure(of == u64::from(count) && done * 4 >= of, || {
            format!("seed {seed}: too little was done: {text}")
        })?;
    }
    let mut trees = participants.together("$guest_program tree top | sort", limit())?;
    let host = trees.pop().unwrap_or_default();
    for (guest, tree) in trees.iter().enumerate() {
        let differs = || {
            let only = |one: &str, other: &str| -> Vec<String> {
                one.lines()
                    .filter(|line| !other.lines().any(|same| same == *line))
                    .map(str::to_owned)
                    .collect()
            };
            format!(
                "seed {seed}: guest {guest} sees {:?}, the host {:?}",
                only(tree, &host),
                only(&host, tree)
            )
        };
        ensure(*tree == host, differs)?;
    }
    Ok(format!("{} turns, {} names at the end", count as usize * participants.count(), host.lines().count()))
}
