//! Programs as text: one operation a line, or several of them separated by `;`. A line of the
//! second guest begins with `2:`.

use std::fmt;
use std::str::FromStr;

use super::{Allocation, How, Move, Operation, Program, Range, Step, Target};

/// Words for the ways to write. A buffered write has no word.
const WAYS: [(How, &str); 7] = [
    (How::Direct, "direct"),
    (How::Mapped, "mapped"),
    (How::Sync, "o_sync"),
    (How::DataSync, "o_dsync"),
    (How::CallSync, "rwf_sync"),
    (How::CallDataSync, "rwf_dsync"),
    (How::DirectDataSync, "direct+o_dsync"),
];

/// Words for the modes of `fallocate`.
const MODES: [(Allocation, &str); 7] = [
    (Allocation::Reserve, "reserve"),
    (Allocation::Keep, "keep-size"),
    (Allocation::Punch, "punch"),
    (Allocation::Zero, "zero"),
    (Allocation::ZeroKeep, "zero-keep-size"),
    (Allocation::Collapse, "collapse"),
    (Allocation::Insert, "insert"),
];

/// Separates setup and steps of a program in one line.
const SETUP_END: &str = "run";

/// Text that is no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{line}` is no operation: {reason}")]
pub(crate) struct NotAnOperation {
    line: String,
    reason: String,
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => out.write_str(path),
            Self::Open(number) => write!(out, "@{number}"),
        }
    }
}

/// Returns the word of a value in a table.
fn word<T: PartialEq + Copy>(table: &[(T, &'static str)], value: T) -> &'static str {
    table.iter().find(|(known, _)| *known == value).map_or("", |(_, word)| *word)
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path) => write!(out, "create {path}"),
            Self::MakeDir(path) => write!(out, "mkdir {path}"),
            Self::Write { target, at, len, fill, how } => {
                let fill = char::from(*fill);
                match at {
                    Some(at) => write!(out, "write {target} {at} {len} {fill}")?,
                    None => write!(out, "append {target} {len} {fill}")?,
                }
                if *how == How::Buffered { Ok(()) } else { write!(out, " {}", word(&WAYS, *how)) }
            }
            Self::Truncate(target, len) => write!(out, "truncate {target} {len}"),
            Self::Allocate(target, mode, Range { at, len }) => {
                write!(out, "fallocate {target} {} {at} {len}", word(&MODES, *mode))
            }
            Self::Link(from, to) => write!(out, "link {from} {to}"),
            Self::SymLink(text, path) => write!(out, "symlink {text} {path}"),
            Self::Unlink(path) => write!(out, "unlink {path}"),
            Self::RemoveDir(path) => write!(out, "rmdir {path}"),
            Self::Rename(from, to, Move::Replace) => write!(out, "rename {from} {to}"),
            Self::Rename(from, to, Move::Exchange) => write!(out, "exchange {from} {to}"),
            Self::SetXattr(path, name, value) => write!(out, "setxattr {path} {name} {value}"),
            Self::RemoveXattr(path, name) => write!(out, "removexattr {path} {name}"),
            Self::TempFile { path, len, fill } => {
                write!(out, "tmpfile {path} {len} {}", char::from(*fill))
            }
            Self::SetMode(path, mode) => write!(out, "chmod {path} {mode:o}"),
            Self::Open(number, path) => write!(out, "open {number} {path}"),
            Self::Close(number) => write!(out, "close {number}"),
            Self::Sync(target) => write!(out, "fsync {target}"),
            Self::DataSync(target) => write!(out, "fdatasync {target}"),
            Self::SyncAll => out.write_str("sync"),
            Self::SyncFs => out.write_str("syncfs"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.guest != 1 {
            write!(out, "{}: ", self.guest)?;
        }
        self.operation.fmt(out)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for operation in &self.setup {
            write!(out, "{operation}; ")?;
        }
        out.write_str(SETUP_END)?;
        for step in &self.steps {
            write!(out, "; {step}")?;
        }
        Ok(())
    }
}

/// Words of a line, taken from the front.
struct Words<'l>(std::str::SplitWhitespace<'l>);

impl<'l> Words<'l> {
    fn next(&mut self, what: &str) -> Result<&'l str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing"))
    }

    /// Takes a path below the folder of the program.
    fn path(&mut self) -> Result<String, String> {
        let path = self.next("a path")?;
        let wrong = |part: &str| part.is_empty() || part == "..";
        if path.split('/').any(wrong) {
            return Err(format!("{path} is not a path below the folder"));
        }
        Ok(path.to_owned())
    }

    fn target(&mut self) -> Result<Target, String> {
        let mut ahead = self.0.clone();
        let Some(number) = ahead.next().and_then(|word| word.strip_prefix('@')) else {
            return self.path().map(Target::Path);
        };
        self.0 = ahead;
        number.parse().map(Target::Open).map_err(|_error| format!("@{number} is no open file"))
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.next(what)?;
        word.parse().map_err(|_error| format!("{word} is no number"))
    }

    fn fill(&mut self) -> Result<u8, String> {
        match self.next("a letter")?.as_bytes() {
            [letter] if letter.is_ascii_graphic() => Ok(*letter),
            _ => Err("the data is not one letter".to_owned()),
        }
    }

    fn how(&mut self) -> Result<How, String> {
        let Some(word) = self.0.next() else { return Ok(How::Buffered) };
        let known = WAYS.iter().find(|(_, known)| *known == word);
        known.map(|(how, _)| *how).ok_or_else(|| format!("{word} is no way to write"))
    }

    fn end(mut self, operation: Operation) -> Result<Operation, String> {
        self.0.next().map_or(Ok(operation), |word| Err(format!("{word} is too much")))
    }
}

impl FromStr for Operation {
    type Err = NotAnOperation;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = Words(line.split_whitespace());
        let parsed = parse(&mut words).and_then(|operation| words.end(operation));
        parsed.map_err(|reason| NotAnOperation { line: line.trim().to_owned(), reason })
    }
}

fn parse(words: &mut Words<'_>) -> Result<Operation, String> {
    Ok(match words.next("an operation")? {
        "create" => Operation::Create(words.path()?),
        "mkdir" => Operation::MakeDir(words.path()?),
        name @ ("write" | "append") => {
            let target = words.target()?;
            let at = if name == "write" { Some(words.number("an offset")?) } else { None };
            let (len, fill, how) = (words.number("a length")?, words.fill()?, words.how()?);
            Operation::Write { target, at, len, fill, how }
        }
        "truncate" => Operation::Truncate(words.target()?, words.number("a length")?),
        "fallocate" => {
            let target = words.target()?;
            let word = words.next("a mode")?;
            let mode = MODES.iter().find(|(_, known)| *known == word);
            let (mode, _) = mode.ok_or_else(|| format!("{word} is no mode"))?;
            let range = Range { at: words.number("an offset")?, len: words.number("a length")? };
            Operation::Allocate(target, *mode, range)
        }
        "link" => Operation::Link(words.path()?, words.path()?),
        "symlink" => Operation::SymLink(words.next("a text")?.to_owned(), words.path()?),
        "unlink" => Operation::Unlink(words.path()?),
        "rmdir" => Operation::RemoveDir(words.path()?),
        "rename" => Operation::Rename(words.path()?, words.path()?, Move::Replace),
        "exchange" => Operation::Rename(words.path()?, words.path()?, Move::Exchange),
        "setxattr" => {
            let path = words.path()?;
            Operation::SetXattr(path, words.next("a name")?.to_owned(), words.next("a value")?.to_owned())
        }
        "removexattr" => Operation::RemoveXattr(words.path()?, words.next("a name")?.to_owned()),
        "tmpfile" => {
            Operation::TempFile { path: words.path()?, len: words.number("a length")?, fill: words.fill()? }
        }
        "chmod" => {
            let path = words.path()?;
            let mode = words.next("a mode")?;
            let bits = u32::from_str_radix(mode, 8).map_err(|_error| format!("{mode} is not octal"))?;
            Operation::SetMode(path, bits)
        }
        "open" => Operation::Open(words.number("a number")?, words.path()?),
        "close" => Operation::Close(words.number("a number")?),
        "fsync" => Operation::Sync(words.target()?),
        "fdatasync" => Operation::DataSync(words.target()?),
        "sync" => Operation::SyncAll,
        "syncfs" => Operation::SyncFs,
        other => return Err(format!("{other} is unknown")),
    })
}

impl FromStr for Step {
    type Err = NotAnOperation;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let (guest, operation) = line.trim_start().strip_prefix("2:").map_or((1, line), |rest| (2, rest));
        Ok(Self { guest, operation: operation.parse()? })
    }
}

impl FromStr for Program {
    type Err = NotAnOperation;

    /// Parses operations separated by `;`. Those before the word `run` are the setup.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut program = Self::default();
        let lines: Vec<&str> = text.split(';').map(str::trim).filter(|line| !line.is_empty()).collect();
        let setup = lines.iter().position(|line| *line == SETUP_END);
        for (index, line) in lines.iter().enumerate() {
            match setup {
                Some(end) if index < end => program.setup.push(line.parse()?),
                Some(end) if index == end => {}
                Some(_) | None => program.steps.push(line.parse()?),
            }
        }
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_survives_printing_and_parsing() {
        let lines = [
            "create a",
            "mkdir d",
            "write d/a 0 4096 x",
            "append @1 10 y o_dsync",
            "truncate a 5",
            "link a b",
            "symlink a b",
            "unlink a",
            "rmdir d",
            "rename a b",
            "exchange a b",
            "setxattr a user.k v",
            "removexattr a user.k",
            "tmpfile d/c 4096 z",
            "chmod a 600",
            "open 1 a",
            "close 1",
            "fsync .",
            "fdatasync @2",
            "sync",
            "syncfs",
        ];
        let ways = WAYS.map(|(_, word)| format!("write a 0 4096 x {word}"));
        let modes = MODES.map(|(_, word)| format!("fallocate a {word} 0 4096"));
        for line in lines.map(str::to_owned).iter().chain(&ways).chain(&modes) {
            assert_eq!(line.parse::<Operation>().unwrap().to_string(), *line);
        }
        let text = "create a; mkdir d; run; 2: fsync a; rename a d/b";
        let program: Program = text.parse().unwrap();
        assert_eq!((program.setup.len(), program.steps.len()), (2, 2));
        assert_eq!(program.to_string(), text);
    }

    #[test]
    fn wrong_line_says_what_is_wrong() {
        for (line, reason) in [
            ("", "an operation is missing"),
            ("make a", "make is unknown"),
            ("create ../a", "../a is not a path below the folder"),
            ("create /a", "/a is not a path below the folder"),
            ("write a 0 1 xy", "the data is not one letter"),
            ("write a 0 x x", "x is no number"),
            ("write a 0 1 x quickly", "quickly is no way to write"),
            ("fsync a b", "b is too much"),
            ("fsync @a", "@a is no open file"),
        ] {
            assert_eq!(line.parse::<Operation>().unwrap_err().reason, reason, "{line}");
        }
    }
}
