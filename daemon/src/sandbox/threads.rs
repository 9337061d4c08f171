//! The sandbox of a process that keeps rights, because it removes its own mount at the end. Each
//! thread that serves gives up rights for itself.

use super::error::SandboxError;
use super::landlock::Rules;
use super::missing::Layers;
use super::namespaces;
use super::plan::Plan;
use super::privileges;
use super::processes::Confined;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

impl Plan {
    /// Gives up the rights that the process does not need, and returns the setup with which each
    /// serving thread gives up the rest.
    ///
    /// # Errors
    /// As for [`Inside::confine`](super::Inside::confine).
    pub fn for_threads(&self) -> Result<Confined, SandboxError> {
        let mut missing = Vec::new();
        privileges::leave_memory_out_of_cores()?;
        privileges::drop_rights(self, &mut missing, true)?;
        let places = namespaces::in_place(self)?;
        let rules = self.builds(Layers::LANDLOCK).then(|| Rules::new(self, false));
        let lost = |source| SandboxError::Share { path: self.share.clone().unwrap_or_default(), source };
        let share = places.share.as_ref().map(OwnedFd::try_clone).transpose().map_err(lost)?;
        if let Some(rules) = &rules {
            missing.extend(
                rules.missing(
                    rules.try_out(share.as_ref().map(OwnedFd::as_fd)).map_err(SandboxError::Landlock)?,
                ),
            );
        }
        self.check(&missing)?;
        let filters = self.filters()?;
        Confined::new(places, missing, move |kind| {
            if let Some(rules) = &rules {
                rules.enforce(share.as_ref().map(OwnedFd::as_fd)).map_err(io::Error::other)?;
            }
            filters.install(kind)
        })
    }
}
