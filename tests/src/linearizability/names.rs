//! Model of the names of a directory. The model identifies the file of a name by its length. A
//! newly made file has length 0.

use super::Object;
use std::collections::BTreeMap;

/// File of each name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names(BTreeMap<u8, u64>);

/// Call on names. The last field is the result: the file that was found, or whether the call
/// succeeded. A call fails if a name is missing, or if the name of a new file already exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameCall {
    /// Returns the file of a name.
    Find(u8, Option<u64>),
    /// Renames a new file to this name and replaces the old file. Always succeeds.
    Replace(u8, u64),
    /// Renames a file and replaces the file at the new name.
    Move(u8, u8, bool),
    /// Exchanges the files of two names.
    Swap(u8, u8, bool),
    /// Removes a name.
    Remove(u8, bool),
    /// Makes a new file if the name is free.
    Make(u8, bool),
}

impl Object for Names {
    type Call = NameCall;

    fn after(&self, call: &NameCall) -> Option<Self> {
        let has = |name: &u8| self.0.get(name).copied();
        let mut next = self.clone();
        let could = match call {
            NameCall::Find(name, file) => has(name) == *file,
            NameCall::Replace(name, file) => {
                next.0.insert(*name, *file);
                true
            }
            NameCall::Move(from, to, moved) => {
                if let Some(file) = next.0.remove(from) {
                    next.0.insert(*to, file);
                }
                has(from).is_some() == *moved
            }
            NameCall::Swap(one, other, swapped) => {
                let both = has(one).zip(has(other));
                if let Some((first, second)) = both {
                    next.0.extend([(*one, second), (*other, first)]);
                }
                both.is_some() == *swapped
            }
            NameCall::Remove(name, removed) => next.0.remove(name).is_some() == *removed,
            NameCall::Make(name, made) => {
                next.0.entry(*name).or_insert(0);
                has(name).is_none() == *made
            }
        };
        could.then_some(next)
    }

    /// Returns true for calls that change nothing: lookups, and calls that failed.
    fn is_unseen(call: &NameCall, _: &[&NameCall]) -> bool {
        match call {
            NameCall::Find(..)
            | NameCall::Move(_, _, false)
            | NameCall::Swap(_, _, false)
            | NameCall::Remove(_, false)
            | NameCall::Make(_, false) => true,
            NameCall::Replace(..)
            | NameCall::Move(_, _, true)
            | NameCall::Swap(_, _, true)
            | NameCall::Remove(_, true)
            | NameCall::Make(_, true) => false,
        }
    }
}
