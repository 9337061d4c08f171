//! Which rule decides at a path.

use crate::Access;

/// The rule of one place in the share: what may be done there and, by its names, below. Made by [`PathRules`], kept
/// by the host with each node, and as long-lived as the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(u32);

impl RuleId {
    /// The rule that grants nothing, at its place and everywhere below.
    pub const NOTHING: Self = Self(0);
    /// The rule of what concerns the share as a whole: the base set.
    pub const SHARE: Self = Self(1);
    /// The rule of the share's root.
    const ROOT: Self = Self(2);

    /// Its number, for the host to keep in a node.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The rule of a number that [`RuleId::bits`] gave; one that it never gave grants nothing.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// What a file may become by a move, as far as its rules go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moves {
    /// Both rules decide alike, for the file and for everything that may be below it.
    Freely,
    /// The new rule grants nothing more, but less somewhere: a file may come there, a directory may not.
    OnlyFiles,
    /// The new rule grants more somewhere.
    No,
}

/// The path rules of a policy.
#[derive(Debug)]
pub struct PathRules {
    base: Access,
}

impl PathRules {
    /// The rule of the share's root.
    pub fn root(&self) -> RuleId {
        RuleId::ROOT
    }

    /// The rule of a name in a directory.
    pub fn child(&self, directory: RuleId, _name: &[u8]) -> RuleId {
        directory
    }

    /// The rule of a file without a name in a directory.
    pub fn unnamed(&self, directory: RuleId) -> RuleId {
        directory
    }

    /// The rule of a node that is reached in both ways: what both grant.
    pub fn both(&self, one: RuleId, other: RuleId) -> RuleId {
        if one == other { one } else { RuleId::NOTHING }
    }

    /// What is granted.
    pub fn access(&self, rule: RuleId) -> Access {
        if rule == RuleId::NOTHING { Access::empty() } else { self.base }
    }

    /// Whether a name under this rule is as if it were not there.
    pub fn is_hidden(&self, _rule: RuleId) -> bool {
        false
    }

    /// Whether what is decided by `from` may come under `to`.
    pub fn moves(&self, from: RuleId, to: RuleId) -> Moves {
        if from == to { Moves::Freely } else { Moves::No }
    }
}
