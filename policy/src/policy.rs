//! What one guest may do: a base set, path rules over it, and limits.

use crate::{Access, Limits, PathRules, Profile};
use std::sync::Arc;

/// What one guest may do.
#[derive(Clone, Debug)]
pub struct Policy {
    granted: Access,
    reach: Access,
    paths: Option<Arc<PathRules>>,
    limits: Limits,
}

impl Policy {
    /// What a profile grants, everywhere and without limits.
    pub fn of(profile: Profile) -> Self {
        Self::everywhere(profile.granted())
    }

    /// The profile of that name.
    pub fn full() -> Self {
        Self::of(Profile::Full)
    }

    /// The same policy without what changes anything.
    #[must_use]
    pub fn without_mutations(self) -> Self {
        self.without(Access::MUTATIONS)
    }

    /// The same policy without these.
    #[must_use]
    pub fn without(self, access: Access) -> Self {
        Self {
            granted: self.granted.difference(access),
            reach: self.reach.difference(access),
            paths: self.paths.map(|paths| Arc::new(paths.without(access))),
            limits: self.limits,
        }
    }

    /// The same policy with these limits.
    #[must_use]
    pub fn limited(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What is granted where no path rule says otherwise.
    pub const fn granted(&self) -> Access {
        self.granted
    }

    /// What is granted anywhere: by the base set or by any path rule. Filters and capabilities are made for this.
    pub const fn reach(&self) -> Access {
        self.reach
    }

    /// The path rules, if there are any.
    pub const fn paths(&self) -> Option<&Arc<PathRules>> {
        self.paths.as_ref()
    }

    /// The limits.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether this policy lets nothing be changed, anywhere.
    pub const fn is_read_only(&self) -> bool {
        self.reach.changes_nothing()
    }

    /// Whether nothing that this guest has done can be waiting for the disk, nor may it make the host write: then it is
    /// told that all is durable without the host being asked, because programs that only read do ask for that.
    pub const fn has_nothing_unwritten(&self) -> bool {
        self.is_read_only() && !self.reach.contains(Access::FSYNC)
    }

    pub(crate) fn with_paths(self, paths: PathRules) -> Self {
        let reach = paths.rules().iter().fold(self.granted, |reach, rule| reach.union(rule.access));
        Self { reach, paths: Some(Arc::new(paths)), ..self }
    }

    pub(crate) fn everywhere(granted: Access) -> Self {
        Self { granted, reach: granted, paths: None, limits: Limits::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_mutations_keeps_the_rest() {
        let policy = Policy::of(Profile::Share).without_mutations();
        assert!(policy.is_read_only());
        assert_eq!(policy.granted(), Profile::Share.granted() - Access::MUTATIONS);
    }

    #[test]
    fn only_a_policy_that_changes_nothing_is_read_only() {
        assert!(Policy::of(Profile::Rootfs).is_read_only());
        assert!(!Policy::of(Profile::Share).is_read_only());
    }
}
