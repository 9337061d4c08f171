//! The places that an operation acts on, as far as path rules need them.

use crate::{Access, RuleId};

/// A place that an operation acts on. Its numbers come from the guest and are unverified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// The share as a whole.
    Share,
    /// A node, by its node id.
    Node(u64),
    /// The node of a file handle.
    Handle(u64),
    /// A name in a directory, whether or not it exists.
    Child {
        /// Node id of the directory.
        directory: u64,
        /// Name, one component.
        name: &'a [u8],
    },
    /// A file without a name, in a directory (O_TMPFILE).
    Unnamed {
        /// Node id of the directory.
        directory: u64,
    },
}

/// The accesses that an operation needs at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand<'a> {
    /// Place where the accesses are needed.
    pub place: Place<'a>,
    /// Accesses, all of which are needed.
    pub access: Access,
}

/// A file that gets another name, by a rename, an exchange or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move<'a> {
    /// Place of the file before the move.
    pub from: Place<'a>,
    /// Place of the new name.
    pub to: Place<'a>,
    /// Whether the file at `to` moves to `from` (an exchange).
    pub exchange: bool,
}

/// The rules of nodes and file handles, as the daemon's node table knows them.
pub trait Places {
    /// Returns the rule of a node, or `None` if the node does not exist.
    ///
    /// `None` must lead to a refusal. The guest could create the node a moment later, and the
    /// operation would then reach a node whose rule was never checked.
    fn node(&self, node: u64) -> Option<RuleId>;
    /// Returns the rule of a file handle's node, or `None` if the handle does not exist.
    fn handle(&self, handle: u64) -> Option<RuleId>;
}

/// The node table for a policy without path rules, which never looks up a place.
///
/// A policy with path rules grants nothing at any node of this table.
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
