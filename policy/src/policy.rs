//! The policy of one guest: a base set of accesses, path rules and limits.

use crate::{Access, Limits, PathRules, Profile};
use std::sync::Arc;

/// The permissions and limits of one guest.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The profile that the base set starts from.
    profile: Profile,
    /// Base set: accesses that are granted where no path rule matches.
    granted: Access,
    /// Accesses that the base set or any path rule grants.
    granted_anywhere: Access,
    paths: Option<Arc<PathRules>>,
    limits: Limits,
}

impl Policy {
    /// Creates a policy that grants a profile everywhere, without limits.
    pub fn of(profile: Profile) -> Self {
        Self::everywhere(profile, profile.granted())
    }

    /// Creates the policy of the profile `full`.
    pub fn full() -> Self {
        Self::of(Profile::Full)
    }

    /// Removes every access that changes the host's files.
    #[must_use]
    pub fn without_mutations(self) -> Self {
        self.without(Access::MUTATIONS)
    }

    /// Removes these accesses from the base set and from every path rule.
    #[must_use]
    pub fn without(self, access: Access) -> Self {
        Self {
            granted: self.granted.difference(access),
            granted_anywhere: self.granted_anywhere.difference(access),
            paths: self.paths.map(|paths| Arc::new(paths.without(access))),
            ..self
        }
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limited(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Returns the profile that the base set starts from.
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Returns the base set: the accesses that are granted where no path rule matches.
    pub const fn granted(&self) -> Access {
        self.granted
    }

    /// Returns the accesses that are granted anywhere, by the base set or by a path rule.
    ///
    /// The sandbox is built from this set.
    pub const fn granted_anywhere(&self) -> Access {
        self.granted_anywhere
    }

    /// Returns the path rules, or `None` if the policy has none.
    pub const fn paths(&self) -> Option<&Arc<PathRules>> {
        self.paths.as_ref()
    }

    /// Returns the limits.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns whether the policy grants no change anywhere.
    pub const fn is_read_only(&self) -> bool {
        self.granted_anywhere.changes_nothing()
    }

    /// Returns whether an FSYNC of the guest can succeed without a host call: the policy grants no
    /// change, so the guest has no unwritten data, and it does not grant `fsync`.
    ///
    /// Such an FSYNC must not fail, because programs that only read also call fsync.
    pub const fn has_nothing_unwritten(&self) -> bool {
        self.is_read_only() && !self.granted_anywhere.contains(Access::FSYNC)
    }

    /// Adds path rules to a policy that has none.
    pub(crate) fn with_paths(self, paths: PathRules) -> Self {
        let granted_anywhere =
            paths.rules().iter().fold(self.granted, |granted, rule| granted.union(rule.access));
        Self { granted_anywhere, paths: Some(Arc::new(paths)), ..self }
    }

    /// Creates a policy that grants these accesses everywhere, without limits.
    pub(crate) fn everywhere(profile: Profile, granted: Access) -> Self {
        Self { profile, granted, granted_anywhere: granted, paths: None, limits: Limits::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_without_mutations_keeps_all_other_accesses() {
        let policy = Policy::of(Profile::Share).without_mutations();
        assert!(policy.is_read_only());
        assert_eq!(policy.granted(), Profile::Share.granted() - Access::MUTATIONS);
    }

    #[test]
    fn policy_that_changes_nothing_is_read_only() {
        assert!(Policy::of(Profile::Rootfs).is_read_only());
        assert!(!Policy::of(Profile::Share).is_read_only());
    }
}
