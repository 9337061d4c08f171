//! Which paths stand for files whose data a loss of power may change: files that a program has
//! changed and not synced. Guests keep such data in their caches, so no daemon can promise it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Move, Operation, Program, Target};

/// Number of a file that stays the same under all its names.
type Object = usize;

/// Names and files of a program, as far as its operations say.
#[derive(Debug, Default)]
struct Files {
    names: BTreeMap<String, Object>,
    open: BTreeMap<u8, Object>,
    /// Files with unsynced changes.
    changed: BTreeSet<Object>,
    objects: usize,
}

/// Returns the paths that, after the given number of steps, may stand for a file with unsynced
/// changes: now, or if later changes of names are lost.
pub(crate) fn unsynced(program: &Program, steps: usize) -> BTreeSet<String> {
    let mut files = Files::default();
    for operation in &program.setup {
        files.apply(operation);
    }
    files.changed.clear();
    let mut seen: BTreeSet<(String, Object)> = files.names.clone().into_iter().collect();
    for step in program.steps.iter().take(steps) {
        files.apply(&step.operation);
        seen.extend(files.names.clone());
    }
    seen.into_iter().filter(|(_, object)| files.changed.contains(object)).map(|(path, _)| path).collect()
}

impl Files {
    fn new_object(&mut self, path: &str) -> Object {
        self.objects += 1;
        self.names.insert(path.to_owned(), self.objects);
        self.objects
    }

    fn object(&mut self, target: &Target) -> Object {
        match target {
            Target::Path(path) => {
                let known = self.names.get(path).copied();
                known.unwrap_or_else(|| self.new_object(path))
            }
            Target::Open(number) => self.open.get(number).copied().unwrap_or_default(),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(path) | Operation::MakeDir(path) | Operation::SymLink(_, path) => {
                self.new_object(path);
            }
            Operation::TempFile { path, .. } => {
                let object = self.new_object(path);
                self.changed.insert(object);
            }
            Operation::Write { target, how, .. } => {
                let object = self.object(target);
                // A synchronous write makes only its own data durable.
                if !how.is_durable() {
                    self.changed.insert(object);
                }
            }
            Operation::Truncate(target, _) | Operation::Allocate(target, ..) => {
                let object = self.object(target);
                self.changed.insert(object);
            }
            Operation::Link(from, to) => {
                if let Some(object) = self.names.get(from).copied() {
                    self.names.insert(to.clone(), object);
                }
            }
            Operation::Unlink(path) | Operation::RemoveDir(path) => drop(self.names.remove(path)),
            Operation::Rename(from, to, kind) => self.rename(from, to, *kind),
            Operation::SetXattr(..) | Operation::RemoveXattr(..) | Operation::SetMode(..) => {}
            Operation::Open(number, path) => {
                let object = self.object(&Target::Path(path.clone()));
                self.open.insert(*number, object);
            }
            Operation::Close(number) => drop(self.open.remove(number)),
            Operation::Sync(target) | Operation::DataSync(target) => {
                let object = self.object(target);
                self.changed.remove(&object);
            }
            Operation::SyncAll | Operation::SyncFs => self.changed.clear(),
        }
    }

    /// Moves a name and, if it is a directory, the names below it.
    fn rename(&mut self, from: &str, to: &str, kind: Move) {
        let below = |name: &str, folder: &str| {
            name.strip_prefix(folder)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .map(str::to_owned)
        };
        let mut moved = BTreeMap::new();
        for (name, object) in &self.names {
            let (in_from, in_to) = (below(name, from), below(name, to));
            match (in_from, in_to, kind) {
                (Some(rest), _, _) => drop(moved.insert(format!("{to}{rest}"), *object)),
                (None, Some(rest), Move::Exchange) => drop(moved.insert(format!("{from}{rest}"), *object)),
                (None, Some(_), Move::Replace) => {}
                (None, None, _) => drop(moved.insert(name.clone(), *object)),
            }
        }
        self.names = moved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsynced_paths(text: &str) -> Vec<String> {
        let program: Program = text.parse().unwrap();
        unsynced(&program, program.steps.len()).into_iter().collect()
    }

    #[test]
    fn data_without_a_sync_is_exempt_under_all_names() {
        let none: [&str; 0] = [];
        assert_eq!(unsynced_paths("create a; run; write a 0 9 x; fsync ."), ["a"]);
        assert_eq!(unsynced_paths("create a; run; write a 0 9 x; rename a b; fsync ."), ["a", "b"]);
        assert_eq!(unsynced_paths("create a; run; write a 0 9 x; rename a b; fsync b"), none);
        assert_eq!(unsynced_paths("create a; run; write a 0 9 x; link a b; fdatasync b"), none);
        assert_eq!(unsynced_paths("write a 0 9 x; run; fsync ."), none);
        assert_eq!(unsynced_paths("create a; run; open 1 a; write @1 0 9 x; unlink a; syncfs"), none);
        assert_eq!(unsynced_paths("mkdir d; run; write d/a 0 9 x; rename d e; fsync e"), ["d/a", "e/a"]);
        assert_eq!(unsynced_paths("create a; run; write a 0 9 x o_dsync"), none);
    }
}
