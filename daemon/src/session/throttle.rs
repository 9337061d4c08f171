//! Speed limits: the time that a request must wait before it is served.
//!
//! A policy limits a guest's speed. INIT and DESTROY have a limit under every policy.
//!
//! Forgotten nodes have their own budget. FORGET gives resources back, so it waits for no other
//! request, and no other request waits for it.

use crate::limits::{FORGETS_PER_OPERATION, SESSION_CHANGES_PER_SECOND};
use crate::sync::clock;
use pinhole_policy::Limits;
use pinhole_protocol::{Opcode, OpcodeFacts};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Size of a full budget in nanoseconds. The allowance of one second may be spent at once.
const BURST: u64 = 1_000_000_000;

/// The speed limits of one session.
#[derive(Debug)]
pub(super) struct Throttle {
    operations: Option<Rate>,
    /// Forgotten nodes.
    forgets: Option<Rate>,
    /// Written bytes: file data, values of attributes, targets of links.
    bytes: Option<Rate>,
    /// INIT and DESTROY.
    changes: Option<Rate>,
    began: Instant,
}

impl Throttle {
    pub(super) fn new(limits: &Limits) -> Self {
        let operations = limits.operations_per_second;
        let forgets = operations.map_or(0, |limit| limit.get().saturating_mul(FORGETS_PER_OPERATION));
        Self {
            operations: operations.map(Rate::new),
            forgets: NonZero::new(forgets).map(Rate::new),
            bytes: limits.write_bytes_per_second.map(Rate::new),
            changes: NonZero::new(SESSION_CHANGES_PER_SECOND).map(Rate::new),
            began: clock::now(),
        }
    }

    /// Returns the time that a request must wait. A message without a known opcode counts as any
    /// other request.
    pub(super) fn owed(&self, opcode: Option<Opcode>) -> Duration {
        let facts = opcode.map(Opcode::facts).unwrap_or_default();
        let changes = facts.contains(OpcodeFacts::CHANGES_SESSION);
        if self.operations.is_none() && self.bytes.is_none() && !changes {
            return Duration::ZERO;
        }
        let now = clock::elapsed(self.began);
        let owed = |rate: &Option<Rate>, counts| {
            rate.as_ref().filter(|_| counts).map_or(Duration::ZERO, |rate| rate.owed(now))
        };
        if facts.contains(OpcodeFacts::URGENT) {
            return owed(&self.forgets, true);
        }
        let writes = owed(&self.bytes, facts.contains(OpcodeFacts::WRITES));
        owed(&self.operations, true).max(writes).max(owed(&self.changes, changes))
    }

    /// Counts a request that was served or refused.
    pub(super) fn served(&self, opcode: Option<Opcode>) {
        let facts = opcode.map(Opcode::facts).unwrap_or_default();
        if facts.contains(OpcodeFacts::URGENT) {
            return self.forgot(1);
        }
        if facts.contains(OpcodeFacts::CHANGES_SESSION) {
            self.take(self.changes.as_ref(), 1);
        }
        self.take(self.operations.as_ref(), 1);
    }

    /// Counts nodes that were forgotten.
    pub(super) fn forgot(&self, nodes: u64) {
        self.take(self.forgets.as_ref(), nodes);
    }

    /// Counts bytes that were written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.take(self.bytes.as_ref(), bytes);
    }

    fn take(&self, rate: Option<&Rate>, units: u64) {
        if let Some(rate) = rate {
            rate.take(units, clock::elapsed(self.began));
        }
    }

    /// Returns the largest number of bytes that one request should write: the allowance of a
    /// second.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes.as_ref().map_or(u64::MAX, |rate| rate.per_second.get())
    }
}

/// A budget that grows by a fixed number of units each second.
///
/// The cost of a request is taken after it was served. So its true size counts, and no request is
/// too large to be served. If the budget is overdrawn, the guest's next request waits until it is
/// not. The caller passes the time.
#[derive(Debug)]
struct Rate {
    per_second: NonZero<u64>,
    /// The moment at which the budget is no longer overdrawn, in nanoseconds. It counts from
    /// [`BURST`] before the beginning.
    paid: AtomicU64,
}

impl Rate {
    /// Makes a full budget.
    const fn new(per_second: NonZero<u64>) -> Self {
        Self { per_second, paid: AtomicU64::new(0) }
    }

    /// Takes units, even if the budget is empty. `now` is the time since the beginning.
    fn take(&self, units: u64, now: Duration) {
        let cost = u128::from(units).saturating_mul(u128::from(BURST)) / u128::from(self.per_second.get());
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        // A full budget does not grow.
        let full = nanoseconds(now);
        let add = |paid: u64| Some(paid.max(full).saturating_add(cost));
        // The closure always returns a value, so the update cannot fail.
        self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_default();
    }

    /// Returns the time until the budget is no longer overdrawn.
    fn owed(&self, now: Duration) -> Duration {
        let now = nanoseconds(now).saturating_add(BURST);
        Duration::from_nanos(self.paid.load(Ordering::Relaxed).saturating_sub(now))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_held(throttle: &Throttle, opcode: Opcode) -> bool {
        !throttle.owed(Some(opcode)).is_zero()
    }

    #[test]
    fn without_limits_nothing_waits() {
        let throttle = Throttle::new(&Limits::default());
        throttle.served(Some(Opcode::Write));
        throttle.wrote(u64::MAX);
        assert!(!is_held(&throttle, Opcode::Write));
    }

    #[test]
    fn writing_too_fast_delays_only_writes() {
        let limits = Limits { write_bytes_per_second: NonZero::new(1), ..Limits::default() };
        let throttle = Throttle::new(&limits);
        throttle.wrote(1 << 20);
        let writes = [Opcode::Write, Opcode::CopyFileRange, Opcode::CopyFileRange64];
        for opcode in writes.into_iter().chain([Opcode::SetXattr, Opcode::SymLink]) {
            assert!(is_held(&throttle, opcode), "{opcode:?}");
        }
        for opcode in [Opcode::Read, Opcode::Lookup, Opcode::Forget] {
            assert!(!is_held(&throttle, opcode), "{opcode:?}");
        }
    }

    fn operations(per_second: u64) -> Throttle {
        Throttle::new(&Limits { operations_per_second: NonZero::new(per_second), ..Limits::default() })
    }

    #[test]
    fn all_requests_but_forgets_count_and_wait() {
        let others = [Opcode::Init, Opcode::Destroy, Opcode::Interrupt, Opcode::GetAttr];
        for counted in others.map(Some).into_iter().chain([None]) {
            let throttle = operations(1);
            for _ in 0..100 {
                throttle.served(counted);
            }
            for opcode in others {
                assert!(is_held(&throttle, opcode), "{opcode:?} after {counted:?}");
            }
            // A message without an opcode is limited too.
            assert!(!throttle.owed(None).is_zero(), "{counted:?}");
            assert!(!is_held(&throttle, Opcode::Forget) && !is_held(&throttle, Opcode::BatchForget));
        }
    }

    #[test]
    fn forgets_have_their_own_budget() {
        let throttle = operations(1);
        for _ in 0..FORGETS_PER_OPERATION {
            assert!(!is_held(&throttle, Opcode::Forget));
            throttle.served(Some(Opcode::Forget));
        }
        throttle.forgot(100 * FORGETS_PER_OPERATION);
        assert!(is_held(&throttle, Opcode::Forget) && is_held(&throttle, Opcode::BatchForget));
        assert!(!is_held(&throttle, Opcode::GetAttr));
    }

    #[test]
    fn session_changes_are_limited_without_a_policy() {
        let throttle = Throttle::new(&Limits::default());
        for _ in 0..10 * SESSION_CHANGES_PER_SECOND {
            throttle.served(Some(Opcode::Init));
            throttle.served(Some(Opcode::Destroy));
        }
        assert!(is_held(&throttle, Opcode::Init) && is_held(&throttle, Opcode::Destroy));
        assert!(!is_held(&throttle, Opcode::GetAttr) && !is_held(&throttle, Opcode::Forget));
    }

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn rate(per_second: u64) -> Rate {
        Rate::new(NonZero::new(per_second).unwrap())
    }

    #[test]
    fn one_second_of_budget_may_be_spent_at_once() {
        let rate = rate(100);
        for _ in 0..100 {
            assert_eq!(rate.owed(at(0)), Duration::ZERO);
            rate.take(1, at(0));
        }
        assert_eq!(rate.owed(at(0)), Duration::ZERO);
        rate.take(1, at(0));
        assert_eq!(rate.owed(at(0)), at(10));
        assert_eq!(rate.owed(at(10)), Duration::ZERO);
    }

    #[test]
    fn a_request_larger_than_the_budget_is_paid_afterwards() {
        let rate = rate(1000);
        rate.take(10_000, at(0));
        assert_eq!(rate.owed(at(0)), at(9000));
        assert_eq!(rate.owed(at(8999)), at(1));
        assert_eq!(rate.owed(at(9000)), Duration::ZERO);
    }

    #[test]
    fn idle_time_fills_at_most_one_second() {
        let rate = rate(10);
        rate.take(20, at(0));
        rate.take(0, at(60_000));
        rate.take(11, at(60_000));
        assert_eq!(rate.owed(at(60_000)), at(100));
    }

    #[test]
    fn the_rate_holds_over_a_long_time() {
        let (rate, mut now, mut taken) = (rate(50), Duration::ZERO, 0);
        while now < at(100_000) {
            now += rate.owed(now).max(Duration::from_micros(10));
            rate.take(3, now);
            taken += 3;
        }
        assert!((5000..=5100).contains(&taken), "{taken}");
    }

    #[test]
    fn no_figure_overflows() {
        for (per_second, units) in [(1, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 1)] {
            let rate = rate(per_second);
            rate.take(units, Duration::MAX);
            rate.take(units, Duration::ZERO);
            assert!(rate.owed(Duration::ZERO) >= rate.owed(Duration::MAX));
        }
    }
}
