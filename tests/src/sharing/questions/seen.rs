//! When changes by other participants become visible: sequences of steps.

use super::verdict::{ensure, wrong};
use crate::sharing::participants::{A, B, H, Participants};
use crate::sharing::{Fault, Group, Promised, Question};

pub(super) const SEEN: [Question; 13] = [
    question(
        "opened-after-close",
        "An open reads what another client wrote and closed before",
        opened_after_close,
    )
    .and_auto(),
    question(
        "grown-after-close",
        "The same for a file that became longer or shorter within a second",
        grown_after_close,
    )
    .and_auto(),
    question(
        "stat-at-once",
        "Size and time are right immediately after another client's write",
        stat_at_once,
    ),
    question("read-at-once", "An open file reads what another client has just written", read_at_once),
    question(
        "truncated",
        "O_TRUNC, truncate and ftruncate change the size that another client's open file has",
        truncated,
    ),
    question("appended-open", "An append goes to the end that another client has just moved", appended_open)
        .and_auto(),
    question(
        "unlinked-open",
        "A file that another client removes stays whole while it is open",
        unlinked_open,
    )
    .and_auto(),
    question(
        "replaced",
        "After a file is replaced, its path leads to the new file at once, an open file stays the old one, and no call gets ESTALE",
        replaced,
    ),
    question("made", "A missing name is found as soon as another client creates it", made).and_auto(),
    question(
        "removed",
        "A name that another client removes or moves is missing at once, and the new name is found",
        removed,
    ),
    question(
        "listed",
        "A listing contains what another client has just created, and not what it removed",
        listed,
    )
    .and_auto(),
    question(
        "remade",
        "A directory that the host removes and creates again shows its new content at once and can be used",
        remade,
    )
    .and_auto(),
    question(
        "mapped-stored",
        "A shared mapping works: one client stores and syncs data, another reads it",
        mapped_stored,
    )
    .promised(Promised::Mapped),
];

const fn question(
    name: &'static str,
    asks: &'static str,
    answer: fn(&mut Participants) -> Result<String, Fault>,
) -> Question {
    Question { name, asks, group: Group::Seen, promised: Promised::Strict, answer }
}

fn opened_after_close(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (A, "put f one", "ok"),
        (B, "cat f", "one"),
        (B, "put f two", "ok"),
        (A, "cat f", "two"),
        (H, "put f six", "ok"),
        (A, "cat f", "six"),
        (B, "cat f", "six"),
    ])
}

/// Checks a file whose length also changes, within the time for which a guest may keep attributes.
/// Linux reads no further than the length that it has kept.
fn grown_after_close(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (A, "put f one", "ok"),
        (B, "cat f", "one"),
        (A, "put f longer", "ok"),
        (B, "cat f", "longer"),
        (B, "put f short", "ok"),
        (A, "cat f", "short"),
        (H, "cat f", "short"),
    ])
}

fn stat_at_once(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (A, "put f one", "ok"),
        (B, "stat f", "3"),
        (A, "put f longer", "ok"),
        (B, "stat f", "6"),
        (H, "put f longest-of-all", "ok"),
        (A, "stat f", "14"),
        (B, "stat f", "14"),
    ])?;
    for writer in [A, B, H] {
        participants.step(writer, "put f again", "ok")?;
        let times = [A, B, H].map(|who| participants.reply(who, "mtime f"));
        let times = times.into_iter().collect::<Result<Vec<_>, _>>()?;
        ensure(times.windows(2).all(|pair| pair.first() == pair.last()), || {
            format!("{writer:?} wrote: {times:?}")
        })?;
    }
    Ok("sizes and times of three writers".to_owned())
}

fn read_at_once(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (H, "put f first", "ok"),
        (A, "open a rw f", "ok"),
        (B, "open b rw f", "ok"),
        (A, "read a 0 9", "first"),
        (B, "read b 0 9", "first"),
        (B, "write b 0 other", "ok"),
        (A, "read a 0 9", "other"),
        (A, "write a 2 longer", "ok"),
        (B, "read b 0 9", "otlonger"),
        (B, "size b", "8"),
        (H, "open h rw f", "ok"),
        (H, "write h 0 HOST", "ok"),
        (A, "read a 0 9", "HOSTnger"),
        (B, "read b 0 9", "HOSTnger"),
    ])
}

fn truncated(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (H, "put f something", "ok"),
        (A, "open a rw f", "ok"),
        (A, "read a 0 20", "something"),
        (B, "open b rwt f", "ok"),
        (A, "size a", "0"),
        (A, "read a 0 20", ""),
        (B, "write b 0 new", "ok"),
        (A, "read a 0 20", "new"),
        (A, "ftruncate a 2", "ok"),
        (B, "size b", "2"),
        (B, "read b 0 20", "ne"),
        (H, "truncate f 1", "ok"),
        (A, "size a", "1"),
        (A, "read a 0 20", "n"),
        (B, "stat f", "1"),
    ])
}

fn appended_open(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (A, "open a wca f", "ok"),
        (B, "open b wca f", "ok"),
        (H, "open h wca f", "ok"),
        (A, "append a one,", "ok"),
        (B, "append b two,", "ok"),
        (H, "append h three,", "ok"),
        (A, "append a four,", "ok"),
        (B, "append b five.", "ok"),
        (H, "cat f", "one,two,three,four,five."),
        (A, "close a", "ok"),
        (B, "close b", "ok"),
        (H, "close h", "ok"),
        (H, "stat f", "24"),
    ])
}

fn unlinked_open(participants: &mut Participants) -> Result<String, Fault> {
    for (name, remover) in [("f", B), ("g", H)] {
        participants.steps(&[
            (H, &format!("put {name} content"), "ok"),
            (A, &format!("open a rw {name}"), "ok"),
            (remover, &format!("unlink {name}"), "ok"),
            (A, "read a 0 20", "content"),
            (A, "write a 7 +more", "ok"),
            (A, "read a 0 20", "content+more"),
            (A, "ftruncate a 3", "ok"),
            (A, "read a 0 20", "con"),
            (A, "fsync a", "ok"),
            (A, "size a", "3"),
            (remover, &format!("put {name} new"), "ok"),
            (remover, &format!("cat {name}"), "new"),
            (A, "read a 0 20", "con"),
            (A, "close a", "ok"),
        ])?;
    }
    Ok("removed by a guest and by the host".to_owned())
}

fn replaced(participants: &mut Participants) -> Result<String, Fault> {
    for replacer in [H, B] {
        participants.steps(&[
            (replacer, "put f old", "ok"),
            (A, "cat f", "old"),
            (A, "open a r f", "ok"),
            (replacer, "put next new", "ok"),
            (replacer, "rename next f", "ok"),
            (A, "cat f", "new"),
            (A, "stat f", "3"),
            (A, "read a 0 9", "old"),
            (A, "size a", "3"),
            (A, "links a", "0"),
            (replacer, "put next newest", "ok"),
            (replacer, "rename next f", "ok"),
            (A, "stat f", "6"),
            (A, "read a 0 9", "old"),
            (A, "close a", "ok"),
        ])?;
    }
    Ok("replaced by the host and by a guest".to_owned())
}

fn made(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (A, "stat f", "ENOENT"),
        (B, "put f here", "ok"),
        (A, "stat f", "4"),
        (A, "stat g", "ENOENT"),
        (B, "stat g", "ENOENT"),
        (H, "put g here", "ok"),
        (A, "cat g", "here"),
        (B, "cat g", "here"),
        (A, "cat d/f", "ENOENT"),
        (B, "mkdir d", "ok"),
        (A, "cat d/f", "ENOENT"),
        (B, "put d/f below", "ok"),
        (A, "cat d/f", "below"),
        (B, "rename f h", "ok"),
        (A, "cat h", "here"),
    ])
}

fn removed(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (A, "put f here", "ok"),
        (B, "stat f", "4"),
        (A, "unlink f", "ok"),
        (B, "stat f", "ENOENT"),
        (B, "put f again", "ok"),
        (A, "stat f", "5"),
        (H, "rename f g", "ok"),
        (A, "stat f", "ENOENT"),
        (B, "stat f", "ENOENT"),
        (A, "cat g", "again"),
        (A, "rename g h", "ok"),
        (B, "stat g", "ENOENT"),
        (B, "cat h", "again"),
        (A, "mkdir d", "ok"),
        (A, "put d/f below", "ok"),
        (B, "cat d/f", "below"),
        (H, "rename d e", "ok"),
        (B, "cat d/f", "ENOENT"),
        (A, "cat d/f", "ENOENT"),
        (A, "cat e/f", "below"),
    ])
}

fn listed(participants: &mut Participants) -> Result<String, Fault> {
    participants.steps(&[
        (A, "put a 1", "ok"),
        (B, "list .", "a"),
        (A, "put b 1", "ok"),
        (B, "list .", "a b"),
        (B, "unlink a", "ok"),
        (A, "list .", "b"),
        (H, "put c 1", "ok"),
        (A, "list .", "b c"),
        (B, "list .", "b c"),
        (H, "rename c d", "ok"),
        (A, "list .", "b d"),
        (H, "unlink b", "ok"),
        (B, "list .", "d"),
    ])
}

/// Checks a directory that the host makes again within the second for which the guest keeps its
/// name. Each step in turn is the guest's first operation in the new directory.
fn remade(participants: &mut Participants) -> Result<String, Fault> {
    const REMAKE: &str = "run rm -r d; mkdir d d/sub && echo new > d/new && echo below > d/sub/file";
    let first_steps = [
        ("list d", "new sub"),
        ("list d/sub", "file"),
        ("cat d/new", "new\n"),
        ("stat d/sub/file", "6"),
        ("put d/made text", "ok"),
        ("mkdir d/made", "ok"),
        ("rename other d/made", "ok"),
        ("unlink d/new", "ok"),
        ("run ln other d/made && ln -s new d/link && ls d", "link\nmade\nnew\nsub"),
        ("run cp -r d copy && ls copy; rm -r copy", "new\nsub"),
        ("run mkdir copy && tar -cf - -C d . | tar -xmf - -C copy && ls copy; rm -r copy", "new\nsub"),
        // Copies the directory, then removes the names from the copy that the source lacks, as a
        // program does that mirrors a directory.
        (
            "run cp -r d copy && for name in $(ls copy); do test -e d/$name || rm -r copy/$name; done; \
             ls copy; rm -r copy",
            "new\nsub",
        ),
    ];
    for (step, wanted) in first_steps {
        participants.reply(H, "put other text")?;
        participants.reply(H, REMAKE)?;
        participants.step(A, "cat d/sub/file", "below\n")?;
        participants.reply(H, REMAKE)?;
        participants.step(A, step, wanted)?;
    }
    Ok(format!("{} first steps in a directory", first_steps.len()))
}

/// The host reads what the second guest stored, without an open in between: in modes where nothing
/// is stale, an open file is not cached.
fn mapped_stored(participants: &mut Participants) -> Result<String, Fault> {
    let said = participants.reply(H, "run head -c 4096 /dev/zero | tr '\\0' . > f")?;
    ensure(said.is_empty(), || said)?;
    participants.steps(&[
        (A, "open a rw f", "ok"),
        (A, "map a 4096", "ok"),
        (A, "load a 0 3", "..."),
        (A, "store a 0 one", "ok"),
        (H, "open h r f", "ok"),
        (H, "read h 0 6", "one..."),
        (B, "open b rw f", "ok"),
        (B, "read b 0 6", "one..."),
        (B, "map b 4096", "ok"),
        (B, "load b 0 6", "one..."),
        (B, "store b 3 two", "ok"),
        (H, "read h 0 9", "onetwo..."),
    ])?;
    let said = participants.reply(A, "stat f")?;
    if said == "4096" { Ok("two guests".to_owned()) } else { Err(wrong(format!("the size became {said}"))) }
}
