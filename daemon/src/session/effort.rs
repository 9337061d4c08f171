//! Estimates of the time that the host may take for a request, from the request alone.
//!
//! A queue takes only as many long requests from its ring as it can finish in about a second, so
//! that it can be stopped in about that time. The estimates are for a slow but ordinary host. A
//! wrong estimate makes a stop longer, or delays requests for which the host has time. It has no
//! other effect.

use crate::limits::{COPY_LEN_MAX, LONG_ALLOCATION_LEN, WRITE_LEN_MAX};
use pinhole_protocol::{Fallocate, FallocateMode, OpcodeFacts, Operation};
use std::time::Duration;

/// Time of a request without data that goes to the disk at most once.
const SMALL: Duration = Duration::from_millis(1);
/// Time of a request that makes data durable, or sends it to another server.
const SYNC: Duration = Duration::from_millis(20);
/// Time of a request that frees, zeroes or moves blocks. tmpfs frees 8 GB a second.
const FREE: Duration = Duration::from_millis(250);

/// Bytes per microsecond.
mod speed {
    /// Reads from a disk, not from the cache.
    pub(super) const READ: u64 = 200;
    /// Writes to a disk or to another host, not to the cache.
    pub(super) const WRITE: u64 = 100;
    /// Copies inside the host.
    pub(super) const COPY: u64 = 500;
    /// Reserves memory, which must be zeroed. Disks are faster.
    pub(super) const RESERVE: u64 = 1000;
}

/// An estimate of the time that the host may take for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    time: Duration,
    is_interruptible: bool,
}

impl Effort {
    /// Returns the time that the host may take.
    pub const fn time(self) -> Duration {
        self.time
    }

    /// Returns whether the host may take longer than [`Self::time`], in steps.
    ///
    /// Between two steps the request can be given up as if it had not begun, as long as no later
    /// request of its queue was answered.
    pub const fn is_interruptible(self) -> bool {
        self.is_interruptible
    }

    /// Makes an estimate for tests.
    #[cfg(test)]
    pub(crate) const fn for_tests(time: Duration, is_interruptible: bool) -> Self {
        Self { time, is_interruptible }
    }

    const fn of_time(time: Duration) -> Self {
        Self { time, is_interruptible: false }
    }

    fn of_bytes(len: u64, bytes_per_us: u64) -> Self {
        Self::of_time(SMALL.saturating_add(Duration::from_micros(len / bytes_per_us)))
    }

    /// Estimates the time for an operation that would have to wait for the host.
    pub(super) fn of(operation: &Operation<'_>) -> Self {
        let facts = operation.opcode().facts();
        if let Operation::Read(read) = operation {
            Self::of_bytes(read.size.min(WRITE_LEN_MAX).into(), speed::READ)
        } else if let Operation::Write(write) = operation {
            Self::of_bytes(write.size.min(WRITE_LEN_MAX).into(), speed::WRITE)
        } else if let Operation::CopyFileRange(copy) = operation {
            Self::of_bytes(copy.length.min(COPY_LEN_MAX as u64), speed::COPY)
        } else if let Operation::Fallocate(fallocate) = operation {
            Self::of_reservation(fallocate)
        } else if facts.contains(OpcodeFacts::SYNCS) {
            Self::of_time(SYNC)
        } else if facts.contains(OpcodeFacts::FREES) {
            Self::of_time(FREE)
        } else {
            Self::of_time(SMALL)
        }
    }

    /// Estimates the time of a FALLOCATE. A reservation is interruptible, because a second run of
    /// it has no effect.
    fn of_reservation(fallocate: &Fallocate) -> Self {
        if !FallocateMode::KEEP_SIZE.contains(fallocate.mode) {
            return Self::of_time(FREE);
        }
        let effort = Self::of_bytes(fallocate.length.min(LONG_ALLOCATION_LEN), speed::RESERVE);
        Self { is_interruptible: fallocate.length > LONG_ALLOCATION_LEN, ..effort }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BACKLOG_TIME_MAX;
    use pinhole_protocol::Handle;

    fn fallocate(length: u64, mode: FallocateMode) -> Effort {
        Effort::of(&Operation::Fallocate(Fallocate { handle: Handle(0), offset: 0, length, mode }))
    }

    #[test]
    fn only_a_long_reservation_is_interruptible() {
        let (plain, keep) = (FallocateMode::empty(), FallocateMode::KEEP_SIZE);
        for mode in [plain, keep] {
            assert!(!fallocate(LONG_ALLOCATION_LEN, mode).is_interruptible());
            assert!(fallocate(LONG_ALLOCATION_LEN + 1, mode).is_interruptible());
        }
        for mode in
            [keep | FallocateMode::PUNCH_HOLE, FallocateMode::ZERO_RANGE, FallocateMode::COLLAPSE_RANGE]
        {
            assert!(!fallocate(u64::MAX, mode).is_interruptible(), "{mode:?}");
        }
    }

    #[test]
    fn no_single_request_takes_all_time_of_a_queue() {
        for length in [0, 1, LONG_ALLOCATION_LEN, u64::MAX] {
            let time = fallocate(length, FallocateMode::empty()).time();
            assert!(time >= SMALL && time <= BACKLOG_TIME_MAX / 2, "{length}: {time:?}");
        }
    }
}
