//! What a guest has to wait for before it is served again, under a policy that limits its speed.

use super::rate::Rate;
use pinhole_policy::Limits;
use pinhole_protocol::Opcode;
use std::time::{Duration, Instant};

/// Where the opcode stands in `fuse_in_header`.
const OPCODE_AT: std::ops::Range<usize> = 4..8;

/// The speed limits of one session.
#[derive(Debug)]
pub(super) struct Throttle {
    operations: Option<Rate>,
    /// Bytes that are written: data, values of attributes, targets of links.
    bytes: Option<Rate>,
    began: Instant,
}

impl Throttle {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            operations: limits.operations_per_second.map(Rate::new),
            bytes: limits.write_bytes_per_second.map(Rate::new),
            began: Instant::now(),
        }
    }

    /// How long a request has to wait. `message` begins with its header; what is too short to have one is refused
    /// soon enough.
    pub(super) fn owed(&self, message: &[u8]) -> Duration {
        if self.operations.is_none() && self.bytes.is_none() {
            return Duration::ZERO;
        }
        let raw =
            message.get(OPCODE_AT).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
        let opcode = Opcode::from_raw(raw);
        if opcode.is_some_and(is_urgent) {
            return Duration::ZERO;
        }
        let now = self.began.elapsed();
        let operations = self.operations.as_ref().map_or(Duration::ZERO, |rate| rate.owed(now));
        let bytes = self.bytes.as_ref().filter(|_| opcode.is_some_and(writes));
        operations.max(bytes.map_or(Duration::ZERO, |rate| rate.owed(now)))
    }

    /// A request was answered.
    pub(super) fn served(&self, opcode: Option<Opcode>) {
        if let Some(rate) = &self.operations
            && !opcode.is_some_and(is_urgent)
        {
            rate.take(1, self.began.elapsed());
        }
    }

    /// So many bytes were written.
    pub(super) fn wrote(&self, bytes: u64) {
        if let Some(rate) = &self.bytes {
            rate.take(bytes, self.began.elapsed());
        }
    }

    /// The most that one request should write: a second's worth.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes.as_ref().map_or(u64::MAX, |rate| rate.per_second().get())
    }
}

/// What waits for nobody: it gives back what the guest holds, or begins and ends the session.
const fn is_urgent(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::Init | Opcode::Destroy
    )
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
    use std::num::NonZero;

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

    #[test]
    fn who_asks_too_often_waits_but_never_to_forget_or_to_begin_anew() {
        let limits = Limits { operations_per_second: NonZero::new(1), ..Limits::default() };
        let throttle = Throttle::new(&limits);
        for _ in 0..100 {
            throttle.served(Some(Opcode::GetAttr));
        }
        assert!(is_held(&throttle, Opcode::GetAttr));
        for opcode in [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt, Opcode::Init, Opcode::Destroy]
        {
            assert!(!is_held(&throttle, opcode), "{opcode:?}");
        }
        // Neither does what has no opcode get past the limit.
        assert!(!throttle.owed(&[]).is_zero());
    }

    #[test]
    fn forgetting_costs_nothing() {
        let limits = Limits { operations_per_second: NonZero::new(1), ..Limits::default() };
        let throttle = Throttle::new(&limits);
        for _ in 0..100 {
            throttle.served(Some(Opcode::Forget));
        }
        assert!(!is_held(&throttle, Opcode::GetAttr));
    }
}
