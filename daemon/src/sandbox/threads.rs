//! The sandbox of a process that must keep its rights, because it removes its own mount at the end:
//! each thread that serves gives up rights for itself.

use super::error::SandboxError;
use super::filter::Filters;
use super::landlock::Rules;
use super::missing::{Layers, MissingFeature};
use super::namespaces::{self, HostPlaces};
use super::plan::Plan;
use super::privileges;
use pinhole_policy::host_calls::Threads;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// What a thread gives up by itself.
#[derive(Debug)]
pub struct ThreadSandbox {
    /// The share and `/proc/self/fd`.
    pub places: HostPlaces,
    share: OwnedFd,
    rules: Option<Rules>,
    filters: Filters,
}

impl Plan {
    /// Gives up what the process can, and returns what each of its serving threads gives up.
    ///
    /// # Errors
    /// As for [`Inside::confine`](super::Inside::confine).
    pub fn for_threads(&self) -> Result<(ThreadSandbox, Vec<MissingFeature>), SandboxError> {
        let mut missing = Vec::new();
        privileges::keep_for_mounting(self, &mut missing)?;
        let places = namespaces::in_place(self)?;
        let rules = self.builds(Layers::LANDLOCK).then(|| Rules::new(self, false));
        let lost = |source| SandboxError::Share { path: self.share.clone(), source };
        let share = places.root.try_clone().map_err(lost)?;
        if let Some(rules) = &rules {
            missing.extend(rules.missing(rules.try_out(share.as_fd()).map_err(SandboxError::Landlock)?));
        }
        self.check(&missing)?;
        Ok((ThreadSandbox { places, share, rules, filters: self.filters()? }, missing))
    }
}

impl ThreadSandbox {
    /// Returns the two places, and what each thread does first.
    pub fn into_parts(self) -> (HostPlaces, impl Fn(Threads) -> io::Result<()> + Send + Sync + 'static) {
        let Self { places, share, rules, filters } = self;
        let confine = move |kind| {
            if let Some(rules) = &rules {
                rules.enforce(share.as_fd()).map_err(io::Error::other)?;
            }
            filters.install(kind)
        };
        (places, confine)
    }
}
