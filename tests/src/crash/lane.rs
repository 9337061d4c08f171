//! One lane of work in a folder. Each act follows from a seed and from the results of the acts
//! before it.

use super::tree::{Act, NamedObject, Tree};
use crate::frontend::locks::{Lock, READ, UNLOCK, WRITE};

/// Largest number of names of a lane.
const NAMES: u64 = 5;

/// Length in bytes beyond which a file is truncated.
const FILE_LEN_MAX: usize = 48 << 10;

/// Random numbers from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed. The state is odd, because xorshift needs a state other than 0.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below a limit.
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// Returns a number below a limit, as a length.
    fn len(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap_or(0)
    }

    /// Returns bytes that count up from a random value.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let start = self.below(251);
        (start..).take(len).map(|number| (number % 251).to_le_bytes()).map(|[low, ..]| low).collect()
    }
}

/// Work of one lane: its random numbers, its names and its current act.
#[derive(Clone, Debug)]
pub struct Lane {
    prefix: String,
    number: u32,
    random: Random,
    /// Number of names that the lane has made.
    made: u64,
    /// The lane's names in the folder, after all acknowledged acts.
    pub tree: Tree,
    /// Act that is in progress, or that is the next one.
    pub act: Act,
}

impl Lane {
    /// Returns a lane that has done nothing yet.
    pub fn new(seed: u64, number: u32) -> Self {
        let prefix = format!("lane{number}-");
        let random = Random::new(seed << 8 | u64::from(number));
        let act = Act::Create(format!("{prefix}0"));
        Self { prefix, number, random, made: 1, tree: Tree::default(), act }
    }

    /// Returns the prefix of all names of the lane.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Records that the act in progress was acknowledged.
    pub fn acknowledge(&mut self) {
        self.tree = self.act.after(&self.tree);
        self.act = self.next();
    }

    /// Chooses the next act.
    fn next(&mut self) -> Act {
        let count = self.tree.0.len() as u64;
        if count == 0 || (count < NAMES && self.random.below(4) == 0) {
            return self.make();
        }
        let mut at = self.random.below(count);
        let known = self.tree.0.iter().find(|_| {
            let here = at == 0;
            at = at.saturating_sub(1);
            here
        });
        let Some((name, thing)) = known.map(|(name, thing)| (name.clone(), thing.clone())) else {
            return self.make();
        };
        match thing {
            NamedObject::File(bytes) => self.change(name, bytes.len()),
            NamedObject::Directory if self.random.below(2) == 0 => Act::RemoveDirectory(name),
            NamedObject::Link(_) if self.random.below(2) == 0 => Act::Unlink(name),
            NamedObject::Directory | NamedObject::Link(_) => {
                let to = self.new_name();
                Act::Rename(name, to)
            }
        }
    }

    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("{}{}", self.prefix, self.made)
    }

    /// Returns an act that makes a new name.
    fn make(&mut self) -> Act {
        let name = self.new_name();
        match self.random.below(6) {
            0 => Act::MakeDirectory(name),
            1 => Act::SymLink(name, format!("nowhere-{}", self.made)),
            _ => Act::Create(name),
        }
    }

    /// Returns an act that changes a file.
    fn change(&mut self, name: String, len: usize) -> Act {
        if len > FILE_LEN_MAX {
            return Act::Truncate(name, self.random.len(len));
        }
        match self.random.below(14) {
            0 => Act::Unlink(name),
            1 => Act::Truncate(name, self.random.len(len + 1000)),
            2 => {
                let to = self.new_name();
                Act::Rename(name, to)
            }
            3 => {
                self.other(&name).map_or(Act::Unlink(name.clone()), |other| Act::Rename(name.clone(), other))
            }
            4 => self
                .other(&name)
                .map_or(Act::Unlink(name.clone()), |other| Act::Exchange(name.clone(), other)),
            5..=7 => {
                let len = 1 + self.random.len(600);
                Act::Append(name, self.random.bytes(len))
            }
            8 => {
                let len = 1 + self.random.len(20 << 10);
                Act::Write(name, self.random.len(len), self.random.bytes(len))
            }
            9 | 10 => {
                let start = self.random.below(1000);
                let end = start + self.random.below(100);
                let kind = [READ, WRITE, WRITE, UNLOCK].get(self.random.len(4)).copied().unwrap_or(UNLOCK);
                Act::Lock(name, Lock::posix(kind, u64::from(self.number), start, end))
            }
            _ => {
                let (at, more) = (self.random.len(len + 1), 1 + self.random.len(2000));
                Act::Write(name, at, self.random.bytes(more))
            }
        }
    }

    /// Returns the name of another file of the lane.
    fn other(&self, name: &str) -> Option<String> {
        let is_file = |thing: &NamedObject| matches!(thing, NamedObject::File(_));
        self.tree
            .0
            .iter()
            .find(|(other, thing)| *other != name && is_file(thing))
            .map(|(other, _)| other.clone())
    }
}
