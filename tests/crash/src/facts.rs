//! Facts about a program's folder. The facts that hold in every crash state of the backing file
//! system are what a daemon must keep.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::snapshot::{Content, Found, Snapshot};

/// Data is compared in pieces of this length, in bytes: the unit that a disk writes at once.
const PIECE_LEN: usize = 512;

/// Statement about a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    /// The path exists.
    Exists(String),
    /// The path does not exist.
    Absent(String),
    /// The path is a directory.
    Directory(String),
    /// The path is a symbolic link with this text.
    Link(String, String),
    /// The path is a file of so many bytes.
    Length(String, u64),
    /// Bytes from an offset up to another one are all this letter, or zero.
    Bytes(String, (u64, u64), u8),
    /// The path has this extended attribute.
    Attribute(String, String, String),
    /// The path lacks this extended attribute.
    NoAttribute(String, String),
    /// The path has these permission bits.
    Mode(String, u32),
    /// The path has so many names.
    Links(String, u64),
    /// Two paths are one file.
    Same(String, String),
    /// At least one of the paths exists.
    Either(String, String),
    /// At most one of the paths exists.
    NotBoth(String, String),
    /// Some path is a file with this content: runs of length and letter.
    Somewhere(String),
}

impl Fact {
    /// Returns whether the fact holds in a folder.
    pub(crate) fn holds(&self, snapshot: &Snapshot) -> bool {
        let has = |path: &String| snapshot.get(path).is_some();
        let of = |path: &String, check: &dyn Fn(&Found) -> bool| snapshot.get(path).is_some_and(check);
        match self {
            Self::Exists(path) => has(path),
            Self::Absent(path) => !has(path),
            Self::Directory(path) => of(path, &|found| found.content == Content::Directory),
            Self::Link(path, text) => of(path, &|found| found.content == Content::Link(text.clone())),
            Self::Length(path, len) => snapshot.bytes(path).is_some_and(|bytes| bytes.len() as u64 == *len),
            Self::Bytes(path, (from, to), letter) => {
                let range = usize::try_from(*from).and_then(|from| Ok(from..usize::try_from(*to)?));
                let bytes = range.ok().and_then(|range| snapshot.bytes(path)?.get(range));
                bytes.is_some_and(|bytes| bytes.iter().all(|byte| byte == letter))
            }
            Self::Attribute(path, name, value) => {
                of(path, &|found| found.attributes.get(name) == Some(value))
            }
            Self::NoAttribute(path, name) => of(path, &|found| !found.attributes.contains_key(name)),
            Self::Mode(path, mode) => of(path, &|found| found.mode == *mode),
            Self::Links(path, links) => of(path, &|found| found.links == *links),
            Self::Same(one, other) => {
                let inodes = [one, other].map(|path| snapshot.get(path).map(|found| found.inode));
                matches!(inodes, [Some(one), Some(other)] if one == other)
            }
            Self::Either(one, other) => has(one) || has(other),
            Self::NotBoth(one, other) => !(has(one) && has(other)),
            Self::Somewhere(content) => {
                snapshot.0.keys().filter_map(|path| snapshot.bytes(path)).any(|bytes| runs(bytes) == *content)
            }
        }
    }
}

impl Fact {
    /// Returns whether this fact says at least what another one says: the same, or the same of more
    /// bytes.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        if let (Self::Bytes(path, (from, to), letter), Self::Bytes(same, (start, end), byte)) = (self, other)
        {
            return (path, letter) == (same, byte) && from <= start && end <= to;
        }
        self == other
    }
}

/// Returns content as text: `4096*x+100*0`.
pub(crate) fn runs(bytes: &[u8]) -> String {
    let runs = bytes.chunk_by(|one, other| one == other);
    let runs: Vec<String> = runs
        .map(|run| format!("{}*{}", run.len(), letter(run.first().copied().unwrap_or_default())))
        .collect();
    runs.join("+")
}

/// Returns a byte as a word: its letter, or `0` for zero.
fn letter(byte: u8) -> String {
    match byte {
        0 => "0".to_owned(),
        byte if byte.is_ascii_graphic() && byte != b'0' => char::from(byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    }
}

/// What facts of a program are about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// Paths that the program may make.
    pub(crate) paths: BTreeSet<String>,
    /// Names of extended attributes that it may set.
    pub(crate) attributes: BTreeSet<String>,
    /// Paths whose data may be unsynced. Facts about such data are left out.
    pub(crate) unsynced: BTreeSet<String>,
}

/// Returns the facts that hold in all of these folders. Empty without any folder.
pub(crate) fn common<'s>(scope: &Scope, snapshots: impl IntoIterator<Item = &'s Snapshot>) -> Vec<Fact> {
    let mut snapshots = snapshots.into_iter();
    let Some(first) = snapshots.next() else { return Vec::new() };
    let mut facts = of_snapshot(scope, first);
    for snapshot in snapshots {
        facts.retain(|fact| fact.holds(snapshot));
    }
    facts
}

/// Returns all facts of a folder.
fn of_snapshot(scope: &Scope, snapshot: &Snapshot) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (path, found) in &snapshot.0 {
        facts.push(Fact::Exists(path.clone()));
        facts.push(Fact::Mode(path.clone(), found.mode));
        for name in &scope.attributes {
            facts.push(found.attributes.get(name).map_or_else(
                || Fact::NoAttribute(path.clone(), name.clone()),
                |value| Fact::Attribute(path.clone(), name.clone(), value.clone()),
            ));
        }
        match &found.content {
            Content::File(bytes) => {
                facts.push(Fact::Links(path.clone(), found.links));
                if !scope.unsynced.contains(path) {
                    of_data(path, bytes, &mut facts);
                }
            }
            Content::Directory => facts.push(Fact::Directory(path.clone())),
            Content::Link(text) => facts.push(Fact::Link(path.clone(), text.clone())),
            Content::Unreadable(_) => {}
        }
        let same = snapshot.0.iter().filter(|(other, object)| path < other && object.inode == found.inode);
        facts.extend(same.map(|(other, _)| Fact::Same(path.clone(), other.clone())));
    }
    of_names(scope, snapshot, &mut facts);
    facts
}

/// Adds the facts about which paths exist.
fn of_names(scope: &Scope, snapshot: &Snapshot, facts: &mut Vec<Fact>) {
    let other = snapshot.0.keys().filter(|path| !scope.paths.contains(*path));
    let all: Vec<&String> = scope.paths.iter().chain(other).collect();
    for (index, path) in all.iter().enumerate() {
        let exists = snapshot.get(path).is_some();
        if !exists {
            facts.push(Fact::Absent((*path).clone()));
        }
        for other in all.iter().skip(index + 1) {
            let other_exists = snapshot.get(other).is_some();
            if exists || other_exists {
                facts.push(Fact::Either((*path).clone(), (*other).clone()));
            }
            if !(exists && other_exists) {
                facts.push(Fact::NotBoth((*path).clone(), (*other).clone()));
            }
        }
    }
}

/// Adds the facts about the data of a file.
fn of_data(path: &str, bytes: &[u8], facts: &mut Vec<Fact>) {
    facts.push(Fact::Length(path.to_owned(), bytes.len() as u64));
    for (index, piece) in bytes.chunks(PIECE_LEN).enumerate() {
        let mut at = (index * PIECE_LEN) as u64;
        for run in piece.chunk_by(|one, other| one == other) {
            let end = at + run.len() as u64;
            let byte = run.first().copied().unwrap_or_default();
            facts.push(Fact::Bytes(path.to_owned(), (at, end), byte));
            at = end;
        }
    }
    if !bytes.is_empty() {
        facts.push(Fact::Somewhere(runs(bytes)));
    }
}

/// Joins facts about adjacent bytes, for a reader.
pub(crate) fn joined(facts: &[Fact]) -> Vec<Fact> {
    let (bytes, mut found): (Vec<_>, Vec<_>) =
        facts.iter().cloned().partition(|fact| matches!(fact, Fact::Bytes(..)));
    let names = found.len();
    for fact in bytes {
        let joined = found.get(names..).unwrap_or_default().last().and_then(|last| join(last, &fact));
        match joined {
            Some(joined) => drop(found.pop().map(|_part| found.push(joined))),
            None => found.push(fact),
        }
    }
    found
}

/// Returns one fact for two facts about adjacent bytes of one file.
fn join(first: &Fact, second: &Fact) -> Option<Fact> {
    if let (Fact::Bytes(path, (from, middle), letter), Fact::Bytes(other, (start, to), same)) =
        (first, second)
        && (path, middle, letter) == (other, start, same)
    {
        return Some(Fact::Bytes(path.clone(), (*from, *to), *letter));
    }
    None
}

impl fmt::Display for Fact {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(path) => write!(out, "{path} exists"),
            Self::Absent(path) => write!(out, "{path} absent"),
            Self::Directory(path) => write!(out, "{path} directory"),
            Self::Link(path, text) => write!(out, "{path} symlink {text}"),
            Self::Length(path, len) => write!(out, "{path} length {len}"),
            Self::Bytes(path, (from, to), byte) => write!(out, "{path} bytes {from} {to} {}", letter(*byte)),
            Self::Attribute(path, name, value) => write!(out, "{path} xattr {name} {value}"),
            Self::NoAttribute(path, name) => write!(out, "{path} no-xattr {name}"),
            Self::Mode(path, mode) => write!(out, "{path} mode {mode:o}"),
            Self::Links(path, links) => write!(out, "{path} links {links}"),
            Self::Same(one, other) => write!(out, "{one} same {other}"),
            Self::Either(one, other) => write!(out, "{one} or {other}"),
            Self::NotBoth(one, other) => write!(out, "{one} not-both {other}"),
            Self::Somewhere(content) => write!(out, "somewhere {content}"),
        }
    }
}

/// Text that is no fact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fact")]
pub(crate) struct NotAFact(String);

impl FromStr for Fact {
    type Err = NotAFact;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = line.split_whitespace().collect();
        parse(&words).ok_or_else(|| NotAFact(line.trim().to_owned()))
    }
}

fn parse(words: &[&str]) -> Option<Fact> {
    let owned = |word: &&str| (*word).to_owned();
    Some(match words {
        ["somewhere", content] => Fact::Somewhere(owned(content)),
        [path, "exists"] => Fact::Exists(owned(path)),
        [path, "absent"] => Fact::Absent(owned(path)),
        [path, "directory"] => Fact::Directory(owned(path)),
        [path, "symlink", text] => Fact::Link(owned(path), owned(text)),
        [path, "length", len] => Fact::Length(owned(path), len.parse().ok()?),
        [path, "bytes", from, to, byte] => {
            let byte = match byte.as_bytes() {
                b"0" => 0,
                [byte] => *byte,
                _ => return None,
            };
            Fact::Bytes(owned(path), (from.parse().ok()?, to.parse().ok()?), byte)
        }
        [path, "xattr", name, value] => Fact::Attribute(owned(path), owned(name), owned(value)),
        [path, "no-xattr", name] => Fact::NoAttribute(owned(path), owned(name)),
        [path, "mode", mode] => Fact::Mode(owned(path), u32::from_str_radix(mode, 8).ok()?),
        [path, "links", links] => Fact::Links(owned(path), links.parse().ok()?),
        [one, "same", other] => Fact::Same(owned(one), owned(other)),
        [one, "or", other] => Fact::Either(owned(one), owned(other)),
        [one, "not-both", other] => Fact::NotBoth(owned(one), owned(other)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn file(inode: u64, bytes: &[u8]) -> Found {
        let content = Content::File(bytes.to_vec());
        Found { inode, content, mode: 0o644, links: 1, attributes: BTreeMap::new() }
    }

    fn snapshot(files: &[(&str, &[u8])]) -> Snapshot {
        let files = files.iter().zip(1..);
        Snapshot(files.map(|((name, bytes), inode)| ((*name).to_owned(), file(inode, bytes))).collect())
    }

    fn texts(facts: &[Fact]) -> Vec<String> {
        joined(facts).iter().map(Fact::to_string).collect()
    }

    #[test]
    fn common_facts_hold_in_all_states() {
        let paths = ["a", "b"].map(str::to_owned).into();
        let scope = Scope { paths, ..Scope::default() };
        let old = snapshot(&[("a", &[b'x'; 1024])]);
        let new = snapshot(&[("b", &[b'x'; 1024])]);
        assert_eq!(texts(&common(&scope, [&old, &new])), ["somewhere 1024*x", "a or b", "a not-both b"]);
        let torn = snapshot(&[("a", &[[b'x'; 512], [b'y'; 512]].concat())]);
        let facts = common(&scope, [&old, &torn]);
        assert!(texts(&facts).contains(&"a bytes 0 512 x".to_owned()), "{facts:?}");
        assert!(facts.iter().all(|fact| fact.holds(&old) && fact.holds(&torn)));
        assert!(!facts.iter().all(|fact| fact.holds(&new)));
    }

    #[test]
    fn every_fact_survives_printing_and_parsing() {
        for line in [
            "a exists",
            "d/a absent",
            "d directory",
            "a symlink b",
            "a length 7",
            "a bytes 0 512 x",
            "a bytes 512 1024 0",
            "a xattr user.k v",
            "a no-xattr user.k",
            "a mode 644",
            "a links 2",
            "a same b",
            "a or b",
            "a not-both b",
            "somewhere 4096*x+1*0",
        ] {
            assert_eq!(line.parse::<Fact>().unwrap().to_string(), line);
        }
        assert_eq!("a is here".parse::<Fact>(), Err(NotAFact("a is here".to_owned())));
    }
}
