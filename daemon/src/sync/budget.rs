//! A budget of host descriptors, so that a guest cannot use up the limit of the process.

use pinhole_protocol::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of descriptors that the guest may hold on the host, through nodes and handles.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    limit: u64,
    taken: AtomicU64,
}

/// The right to hold one descriptor. `drop` gives it back.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Counts>);

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self(Arc::new(Counts { limit, taken: AtomicU64::new(0) }))
    }

    /// Takes the right to open one descriptor, before it is opened.
    ///
    /// # Errors
    /// ENFILE at the limit. The daemon continues, and the guest may close files.
    pub(crate) fn ticket(&self) -> Result<Ticket, Errno> {
        let take = |taken: u64| (taken < self.0.limit).then(|| taken.saturating_add(1));
        match self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(Ticket(Arc::clone(&self.0))),
            Err(_) => Err(Errno::ENFILE),
        }
    }

    /// Returns whether a quarter is still free. Descriptors that the guest did not ask for are
    /// opened only then.
    pub(crate) fn is_ample(&self) -> bool {
        self.taken() < self.0.limit / 4 * 3
    }

    /// Returns the number of descriptors held now.
    pub(crate) fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_is_enfile_until_a_ticket_is_dropped() {
        let budget = Budget::new(2);
        let first = budget.ticket().unwrap();
        let _second = budget.ticket().unwrap();
        assert_eq!(budget.ticket().err(), Some(Errno::ENFILE));
        drop(first);
        assert_eq!(budget.taken(), 1);
        drop(budget.ticket().unwrap());
    }

    #[test]
    fn the_last_quarter_is_not_ample() {
        let budget = Budget::new(8);
        let _taken: Vec<_> = (0..5).map(|_| budget.ticket().unwrap()).collect();
        assert!(budget.is_ample());
        let _sixth = budget.ticket().unwrap();
        assert!(!budget.is_ample());
    }
}
