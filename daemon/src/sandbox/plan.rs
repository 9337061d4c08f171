//! The plan of a sandbox: the share and the rights that it needs.

use super::capabilities::CapabilityChanges;
use super::error::SandboxError;
use super::filter::{Filters, OnForbidden};
use super::id_maps::IdMaps;
use super::missing::{Layers, MissingFeature};
use clap::ValueEnum;
use pinhole_policy::{Access, Facilities};
use std::num::NonZero;
use std::path::PathBuf;

/// Isolation of the process from the rest of the host, as `--sandbox` takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    /// A second process serves, with namespaces of its own and the share as its root directory.
    #[default]
    Namespace,
    /// A second process serves, with the share as its root directory.
    Chroot,
    /// A second process serves. Only the other layers restrict it.
    None,
}

/// The share and the rights that it needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Isolation from the rest of the host.
    pub isolation: Isolation,
    /// The ids of the user namespace.
    pub id_maps: IdMaps,
    /// The shared directory. `None`: the process needs no file by name, so its root directory is
    /// empty.
    pub share: Option<PathBuf>,
    /// The rights that the policy grants anywhere.
    pub reach: Access,
    /// No file of the share may be changed.
    pub read_only: bool,
    /// The additions of the command line.
    pub facilities: Facilities,
    /// Changes of the capabilities in the policy's table.
    pub capabilities: CapabilityChanges,
    /// The effect of a system call that is not in the policy's table.
    pub forbidden: OnForbidden,
    /// Length in bytes of the largest file that may be written.
    pub file_size: Option<NonZero<u64>>,
    /// The layers to build; all of them, except in tests.
    pub layers: Layers,
    /// The layers that must not be missing.
    pub required: Layers,
}

impl Plan {
    /// Returns whether this layer is to be built.
    pub(super) const fn builds(&self, layer: Layers) -> bool {
        self.layers.contains(layer)
    }

    /// Returns the filters of the serving process's threads.
    ///
    /// # Errors
    /// Fails if there are none for this architecture.
    pub fn filters(&self) -> Result<Filters, SandboxError> {
        Filters::new(self.on_forbidden(), self.reach, self.facilities)
    }

    /// Returns the effect of a forbidden call: `Allow` if filters are not to be built.
    pub(super) const fn on_forbidden(&self) -> OnForbidden {
        if self.builds(Layers::SECCOMP) { self.forbidden } else { OnForbidden::Allow }
    }

    /// Fails if a feature of a required layer is missing.
    pub(super) fn check(&self, missing: &[MissingFeature]) -> Result<(), SandboxError> {
        missing.iter().try_for_each(|feature| feature.check(self.required))
    }
}
