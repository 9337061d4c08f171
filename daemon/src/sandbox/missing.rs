//! What a host does not have of a wall. Said at the start, or, where the wall was asked for, the end.

use super::{Layers, SandboxError};
use std::fmt;

/// Something that a wall is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFeature {
    wall: Layers,
    why: String,
}

impl MissingFeature {
    pub(super) fn of(wall: Layers, why: impl Into<String>) -> Self {
        Self { wall, why: why.into() }
    }

    /// Whether it may be missing where these walls may not.
    pub(super) fn judge(&self, required: Layers) -> Result<(), SandboxError> {
        match self.wall.intersection(required).iter_names().next() {
            Some((name, _)) => {
                Err(SandboxError::Required { wall: name.to_ascii_lowercase(), why: self.why.clone() })
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for MissingFeature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_required_wall_lacks_is_the_end_and_what_another_lacks_is_not() {
        let lack = MissingFeature::of(Layers::NAMESPACE, "no network of its own");
        let refused = lack.judge(Layers::LANDLOCK | Layers::NAMESPACE).unwrap_err();
        assert_eq!(refused.to_string(), "--require namespace: no network of its own");
        for required in [Layers::empty(), Layers::LANDLOCK | Layers::SECCOMP] {
            assert!(lack.judge(required).is_ok(), "{required:?}");
        }
    }
}
