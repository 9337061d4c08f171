//! A model of names: which operations of a program can succeed.

use std::collections::BTreeMap;

use super::operations::parent;
use crate::program::{Move, Operation, Program, Target};

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObjectKind {
    File,
    Directory,
    Link,
}

/// Names that exist.
#[derive(Clone, Debug, Default)]
struct Names(BTreeMap<String, ObjectKind>);

/// Returns whether all operations of a program can succeed, as far as names tell.
pub(super) fn can_succeed(program: &Program) -> bool {
    let mut names = Names::default();
    let steps = program.steps.iter().map(|step| &step.operation);
    program.setup.iter().chain(steps).all(|operation| names.apply(operation))
}

impl Names {
    fn kind(&self, path: &str) -> Option<ObjectKind> {
        if path == "." { Some(ObjectKind::Directory) } else { self.0.get(path).copied() }
    }

    /// Adds a name that does not exist, in a directory that exists.
    fn add(&mut self, path: &str, kind: ObjectKind) -> bool {
        let can = self.kind(path).is_none() && self.kind(parent(path)) == Some(ObjectKind::Directory);
        if can {
            self.0.insert(path.to_owned(), kind);
        }
        can
    }

    fn is_empty(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        !self.0.keys().any(|name| name.starts_with(&inside))
    }

    /// Applies an operation. Returns whether it succeeds.
    fn apply(&mut self, operation: &Operation) -> bool {
        match operation {
            Operation::Create(path) | Operation::TempFile { path, .. } => self.add(path, ObjectKind::File),
            Operation::MakeDir(path) => self.add(path, ObjectKind::Directory),
            Operation::SymLink(_, path) => self.add(path, ObjectKind::Link),
            Operation::Link(from, to) => {
                self.kind(from) == Some(ObjectKind::File) && self.add(to, ObjectKind::File)
            }
            Operation::Write { target: Target::Path(path), .. } => {
                self.kind(path) == Some(ObjectKind::File) || self.add(path, ObjectKind::File)
            }
            Operation::Truncate(Target::Path(path), _)
            | Operation::Allocate(Target::Path(path), ..)
            | Operation::SetXattr(path, ..)
            | Operation::RemoveXattr(path, _) => self.kind(path) == Some(ObjectKind::File),
            Operation::SetMode(path, _) | Operation::Open(_, path) => self.is_file_or_folder(path),
            Operation::Sync(Target::Path(path)) | Operation::DataSync(Target::Path(path)) => {
                self.is_file_or_folder(path)
            }
            Operation::Unlink(path) => {
                self.kind(path).is_some_and(|kind| kind != ObjectKind::Directory)
                    && self.0.remove(path).is_some()
            }
            Operation::RemoveDir(path) => {
                let can = self.kind(path) == Some(ObjectKind::Directory) && self.is_empty(path);
                can && self.0.remove(path).is_some()
            }
            Operation::Rename(from, to, kind) => self.rename(from, to, *kind),
            Operation::Write { .. }
            | Operation::Truncate(..)
            | Operation::Allocate(..)
            | Operation::Sync(_)
            | Operation::DataSync(_)
            | Operation::Close(_)
            | Operation::SyncAll
            | Operation::SyncFs => true,
        }
    }

    fn is_file_or_folder(&self, path: &str) -> bool {
        self.kind(path).is_some_and(|kind| kind != ObjectKind::Link)
    }

    fn rename(&mut self, from: &str, to: &str, kind: Move) -> bool {
        let (Some(old), new) = (self.kind(from), self.kind(to)) else { return false };
        let fits = match (kind, new) {
            (Move::Exchange, new) => new.is_some(),
            (Move::Replace, None) => self.kind(parent(to)) == Some(ObjectKind::Directory),
            (Move::Replace, Some(ObjectKind::Directory)) => old == ObjectKind::Directory && self.is_empty(to),
            (Move::Replace, Some(ObjectKind::File | ObjectKind::Link)) => old != ObjectKind::Directory,
        };
        let is_below = |path: &str, folder: &str| path.starts_with(&format!("{folder}/"));
        if !fits || is_below(to, from) || is_below(from, to) {
            return false;
        }
        let moved = |path: &str| {
            let rest = |folder: &str| {
                path.strip_prefix(folder).filter(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            match (rest(from), rest(to)) {
                (Some(rest), _) => Some(format!("{to}{rest}")),
                (None, Some(rest)) => (kind == Move::Exchange).then(|| format!("{from}{rest}")),
                (None, None) => Some(path.to_owned()),
            }
        };
        self.0 = self.0.iter().filter_map(|(path, kind)| Some((moved(path)?, *kind))).collect();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_on_missing_names_cannot_succeed() {
        for (text, expected) in [
            ("create a; run; unlink a; fsync .", true),
            ("create a; run; unlink a; fsync a", false),
            ("create a; run; rename a b; unlink a", false),
            ("create a; run; rename a b; unlink b", true),
            ("mkdir d; create d/a; run; rmdir d", false),
            ("mkdir d; create d/a; run; rename d e; unlink e/a; rmdir e", true),
            ("mkdir d; create a; run; rename a d", false),
            ("mkdir d; mkdir e; create d/a; run; rename d e; fsync e/a", true),
            ("mkdir d; mkdir e; create d/a; run; rename e d", false),
            ("mkdir d; create a; run; exchange a d; create a/c", true),
            ("run; symlink x a; fsync a", false),
            ("run; create d/a", false),
        ] {
            assert_eq!(can_succeed(&text.parse().unwrap()), expected, "{text}");
        }
    }
}
