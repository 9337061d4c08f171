//! The layers of the sandbox, and the parts of them that a host does not have.

use super::error::SandboxError;
use std::fmt;

bitflags::bitflags! {
    /// Layers of the sandbox.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Layers: u8 {
        /// Namespaces, or the root directory of `--sandbox chroot`.
        const NAMESPACE = 1;
        /// The capabilities of the policy's table and no others.
        const CAPABILITIES = 1 << 1;
        /// Landlock.
        const LANDLOCK = 1 << 2;
        /// Filters of system calls.
        const SECCOMP = 1 << 3;
    }
}

/// A part of a layer that the host does not have. It is logged at the start, or, if the layer is
/// required, an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFeature {
    layer: Layers,
    why: String,
}

impl MissingFeature {
    pub(super) fn new(layer: Layers, why: impl Into<String>) -> Self {
        Self { layer, why: why.into() }
    }

    /// Fails if one of `required` is the layer of this feature.
    pub(super) fn check(&self, required: Layers) -> Result<(), SandboxError> {
        match self.layer.intersection(required).iter_names().next() {
            Some((name, _)) => {
                Err(SandboxError::Required { layer: name.to_ascii_lowercase(), why: self.why.clone() })
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
    fn only_a_feature_of_a_required_layer_is_an_error() {
        let missing = MissingFeature::new(Layers::NAMESPACE, "no network of its own");
        let refused = missing.check(Layers::LANDLOCK | Layers::NAMESPACE).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "--require namespace: no network of its own; leave out namespace to serve without it"
        );
        for required in [Layers::empty(), Layers::LANDLOCK | Layers::SECCOMP] {
            assert!(missing.check(required).is_ok(), "{required:?}");
        }
    }
}
