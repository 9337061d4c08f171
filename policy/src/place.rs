//! Where an operation acts, as far as a policy with path rules has to know.

use crate::{Access, RuleId};

/// One place that an operation touches. Numbers are the guest's own, unverified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// The share as a whole.
    Share,
    /// A node, by its id.
    Node(u64),
    /// The node of an open handle.
    Handle(u64),
    /// A name in a directory, whether or not it is there.
    Child {
        /// The directory's node id.
        directory: u64,
        /// One component.
        name: &'a [u8],
    },
    /// A file without a name in a directory.
    Unnamed {
        /// The directory's node id.
        directory: u64,
    },
}

/// What an operation needs at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand<'a> {
    /// Where.
    pub place: Place<'a>,
    /// What; all of it.
    pub access: Access,
}

/// A file that comes under another name: by rename, exchange or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move<'a> {
    /// Its place so far.
    pub from: Place<'a>,
    /// Its new place.
    pub to: Place<'a>,
    /// Whether what is at `to` comes to `from`.
    pub exchange: bool,
}

/// Who knows which rule decides at a node: the host's node table.
pub trait Places {
    /// The rule of a node; `None`: there is no such node. One that is made a moment later has a rule of its own, so
    /// what was asked of none is refused and never carried out.
    fn node(&self, node: u64) -> Option<RuleId>;
    /// The rule of an open handle's node; `None` as above.
    fn handle(&self, handle: u64) -> Option<RuleId>;
}

/// For policies without path rules, which ask about no place. One with path rules refuses everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPlaces;

impl Places for NoPlaces {
    fn node(&self, _: u64) -> Option<RuleId> {
        Some(RuleId::NOTHING)
    }

    fn handle(&self, _: u64) -> Option<RuleId> {
        Some(RuleId::NOTHING)
    }
}
