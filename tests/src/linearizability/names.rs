//! The names of a directory, each with a file that is known by its length: a file that was made has none.

use super::Object;
use std::collections::BTreeMap;

/// Which file each name has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names(BTreeMap<u8, u64>);

/// A call on names, with its answer: `false` where a name was not there, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Which file a name has.
    Find(u8, Option<u64>),
    /// Another file takes a name, whatever had it.
    Replace(u8, u64),
    /// A file's name becomes another, whatever had that.
    Move(u8, u8, bool),
    /// Two files change their names.
    Swap(u8, u8, bool),
    /// A name is taken away.
    Remove(u8, bool),
    /// A new file, where the name is free.
    Make(u8, bool),
}

impl Object for Names {
    type Call = Call;

    fn after(&self, call: &Call) -> Option<Self> {
        let has = |name: &u8| self.0.get(name).copied();
        let mut next = self.clone();
        let could = match call {
            Call::Find(name, file) => has(name) == *file,
            Call::Replace(name, file) => {
                next.0.insert(*name, *file);
                true
            }
            Call::Move(from, to, moved) => {
                if let Some(file) = next.0.remove(from) {
                    next.0.insert(*to, file);
                }
                has(from).is_some() == *moved
            }
            Call::Swap(one, other, swapped) => {
                let both = has(one).zip(has(other));
                if let Some((first, second)) = both {
                    next.0.extend([(*one, second), (*other, first)]);
                }
                both.is_some() == *swapped
            }
            Call::Remove(name, removed) => next.0.remove(name).is_some() == *removed,
            Call::Make(name, made) => {
                next.0.entry(*name).or_insert(0);
                has(name).is_none() == *made
            }
        };
        could.then_some(next)
    }

    fn is_unseen(call: &Call, _: &[&Call]) -> bool {
        match call {
            Call::Find(..)
            | Call::Move(_, _, false)
            | Call::Swap(_, _, false)
            | Call::Remove(_, false)
            | Call::Make(_, false) => true,
            Call::Replace(..)
            | Call::Move(_, _, true)
            | Call::Swap(_, _, true)
            | Call::Remove(_, true)
            | Call::Make(_, true) => false,
        }
    }
}
