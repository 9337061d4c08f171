//! How long a request has to wait before it is served: a policy limits a guest's speed, and INIT and DESTROY have a limit
//! under every policy.
//!
//! What a guest forgets has a budget of its own. It gives back what the guest holds, so it waits for no other request, and
//! no other request waits for it.

use super::rate::Rate;
use crate::limits::{FORGETS_PER_OPERATION, SESSION_CHANGES_PER_SECOND};
use crate::sync::clock;
use pinhole_policy::Limits;
use pinhole_protocol::Opcode;
use std::num::NonZero;
use std::time::{Duration, Instant};

/// Where the opcode stands in `fuse_in_header`.
const OPCODE_AT: std::ops::Range<usize> = 4..8;

/// The speed limits of one session.
#[derive(Debug)]
pub(super) struct Throttle {
    operations: Option<Rate>,
    /// Inodes that are forgotten.
    forgets: Option<Rate>,
    /// Bytes that are written: data, values of attributes, targets of links.
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

    /// How long a request has to wait. `message` begins with its header; one that is too short for that counts as any
    /// other request.
    pub(super) fn owed(&self, message: &[u8]) -> Duration {
        let opcode = opcode_of(message);
        let changes = opcode.is_some_and(changes_session);
        if self.operations.is_none() && self.bytes.is_none() && !changes {
            return Duration::ZERO;
        }
        let now = clock::elapsed(self.began);
        let owed = |rate: &Option<Rate>, counts| {
            rate.as_ref().filter(|_| counts).map_or(Duration::ZERO, |rate| rate.owed(now))
        };
        if opcode.is_some_and(forgets) {
            return owed(&self.forgets, true);
        }
        let writes = owed(&self.bytes, opcode.is_some_and(writes));
        owed(&self.operations, true).max(writes).max(owed(&self.changes, changes))
    }

    /// A request was served or refused.
    pub(super) fn served(&self, opcode: Option<Opcode>) {
        if opcode.is_some_and(forgets) {
            return self.forgot(1);
        }
        if opcode.is_some_and(changes_session) {
            self.take(self.changes.as_ref(), 1);
        }
        self.take(self.operations.as_ref(), 1);
    }

    /// So many inodes were forgotten.
    pub(super) fn forgot(&self, inodes: u64) {
        self.take(self.forgets.as_ref(), inodes);
    }

    /// So many bytes were written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.take(self.bytes.as_ref(), bytes);
    }

    fn take(&self, rate: Option<&Rate>, units: u64) {
        if let Some(rate) = rate {
            rate.take(units, clock::elapsed(self.began));
        }
    }

    /// The most that one request should write: a second's worth.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes.as_ref().map_or(u64::MAX, |rate| rate.per_second().get())
    }
}

/// Whether a message is a FORGET or BATCH_FORGET.
pub fn is_forget(message: &[u8]) -> bool {
    opcode_of(message).is_some_and(forgets)
}

fn opcode_of(message: &[u8]) -> Option<Opcode> {
    let bytes = message.get(OPCODE_AT)?.try_into().ok()?;
    Opcode::from_raw(u32::from_le_bytes(bytes))
}

const fn forgets(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Forget | Opcode::BatchForget)
}

/// Whether it takes the session's state, for which every other request waits.
const fn changes_session(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Init | Opcode::Destroy)
}

const fn writes(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Write | Opcode::CopyFileRange | Opcode::CopyFileRange64 | Opcode::SetXattr | Opcode::SymLink
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: Opcode) -> Vec<u8> {
        [40u32.to_le_bytes(), opcode.raw().to_le_bytes()].concat()
    }

    fn is_held(throttle: &Throttle, opcode: Opcode) -> bool {
        !throttle.owed(&message(opcode)).is_zero()
    }

    #[test]
    fn without_limits_nothing_waits() {
        let throttle = Throttle::new(&Limits::default());
        throttle.served(Some(Opcode::Write));
        throttle.wrote(u64::MAX);
        assert!(!is_held(&throttle, Opcode::Write));
    }

    #[test]
    fn who_writes_too_fast_waits_to_write_and_for_nothing_else() {
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
    fn every_request_counts_and_waits_but_forgets() {
        let others = [Opcode::Init, Opcode::Destroy, Opcode::Interrupt, Opcode::GetAttr];
        for counted in others.map(Some).into_iter().chain([None]) {
            let throttle = operations(1);
            for _ in 0..100 {
                throttle.served(counted);
            }
            for opcode in others {
                assert!(is_held(&throttle, opcode), "{opcode:?} after {counted:?}");
            }
            // What has no opcode does not get past the limit either.
            assert!(!throttle.owed(&[]).is_zero(), "{counted:?}");
            assert!(!is_held(&throttle, Opcode::Forget) && !is_held(&throttle, Opcode::BatchForget));
        }
    }

    #[test]
    fn forgetting_has_a_budget_of_its_own() {
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
    fn changes_of_the_session_have_a_limit_without_a_policy() {
        let throttle = Throttle::new(&Limits::default());
        for _ in 0..10 * SESSION_CHANGES_PER_SECOND {
            throttle.served(Some(Opcode::Init));
            throttle.served(Some(Opcode::Destroy));
        }
        assert!(is_held(&throttle, Opcode::Init) && is_held(&throttle, Opcode::Destroy));
        assert!(!is_held(&throttle, Opcode::GetAttr) && !is_held(&throttle, Opcode::Forget));
    }
}
