//! Names of capabilities, and changes of those that a share needs.

use rustix::thread::CapabilitySet;
use std::str::FromStr;

/// Changes of the capabilities that a share needs, as `--modcaps` has them: `+name` keeps one more,
/// `-name` drops one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityChanges {
    pub(super) added: CapabilitySet,
    pub(super) removed: CapabilitySet,
}

impl Default for CapabilityChanges {
    fn default() -> Self {
        Self { added: CapabilitySet::empty(), removed: CapabilitySet::empty() }
    }
}

/// A word of `--modcaps` that names no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} is not a change of a capability: give +NAME or -NAME, separated by colons, such as +sys_admin:-chown"
)]
pub struct CapabilityError {
    /// The word.
    pub word: String,
}

impl FromStr for CapabilityChanges {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, CapabilityError> {
        let mut changes = Self::default();
        for word in text.split(':').filter(|word| !word.is_empty()) {
            let wrong = || CapabilityError { word: word.to_owned() };
            let (added, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(name), _) => (true, name),
                (None, Some(name)) => (false, name),
                (None, None) => return Err(wrong()),
            };
            let one = named(name).ok_or_else(wrong)?;
            changes.added.set(one, added);
            changes.removed.set(one, !added);
        }
        Ok(changes)
    }
}

/// Returns the capability of this name, in the kernel's spelling or virtiofsd's.
pub(super) fn named(name: &str) -> Option<CapabilitySet> {
    let name = name.to_uppercase();
    CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_policy::capabilities;

    #[test]
    fn the_last_of_two_changes_wins() {
        let changes: CapabilityChanges = "+sys_admin:-chown:+CAP_MKNOD:-mknod".parse().unwrap();
        assert_eq!(changes.added, CapabilitySet::SYS_ADMIN);
        assert_eq!(changes.removed, CapabilitySet::CHOWN | CapabilitySet::MKNOD);
        for wrong in ["sys_admin", "+", "+no_such", "-"] {
            assert!(wrong.parse::<CapabilityChanges>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_capability_of_the_table_has_a_number() {
        for row in capabilities::ROWS {
            assert!(named(row.name).is_some(), "{}", row.name);
        }
    }
}
