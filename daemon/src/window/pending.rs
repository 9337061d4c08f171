//! Requests that wait for the front-end.

use crate::filesystem::MapFile;
use crate::limits::{WINDOW_REQUESTS_MAX, WINDOW_WAIT_MAX};
use crate::sync::clock;
use pinhole_dax_cache::DaxError;
use pinhole_protocol::Errno;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

pub(super) fn errno(error: DaxError) -> Errno {
    Errno::from_raw(error.errno())
}

/// Descriptors for a SETUPMAPPING.
#[derive(Debug)]
pub(crate) struct MapFiles {
    /// Descriptor for the requested mapping.
    pub(crate) wanted: MapFile,
    /// Descriptor that was opened `O_RDONLY`, to restore the previous mapping.
    pub(crate) restore: Option<MapFile>,
}

/// The outcome of a request that waits for the front-end.
#[derive(Debug)]
pub struct Pending {
    result: OnceLock<Result<(), DaxError>>,
    deadline: Instant,
    /// Number of all such requests.
    count: Arc<AtomicUsize>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pending {
    /// Makes the outcome of one more request, or returns `None` if too many wait.
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Option<Arc<Self>> {
        if count.fetch_add(1, Ordering::Relaxed) >= WINDOW_REQUESTS_MAX {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let now = clock::now();
        let deadline = now.checked_add(WINDOW_WAIT_MAX).unwrap_or(now);
        Some(Arc::new(Self { result: OnceLock::new(), deadline, count: Arc::clone(count) }))
    }

    /// Returns the time at which the request ends in any case.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the result, if it is settled.
    pub(super) fn result(&self) -> Option<Result<(), DaxError>> {
        self.result.get().copied()
    }

    /// Sets the result. Only the first result counts.
    pub(super) fn settle(&self, result: Result<(), DaxError>) {
        self.result.set(result).unwrap_or_default();
    }
}
