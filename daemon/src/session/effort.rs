//! How long the host may take for a request, estimated from what the request says.
//!
//! A queue takes no more long requests off its ring than it can finish in about a second, so that it can be stopped in about
//! that time. The estimates are of a slow but ordinary host: one that is wrong by some factor makes a stop longer, or a
//! queue hold back requests for which the host has time, and does no other harm.

use super::Session;
use crate::filesystem::FileSystem;
use crate::limits::{COPY_LEN_MAX, LONG_ALLOCATION_LEN, WRITE_LEN_MAX};
use pinhole_protocol::{Dialect, Fallocate, FallocateMode, Operation, Request};
use std::time::Duration;

/// A request without data that goes to the disk at most once.
const SMALL: Duration = Duration::from_millis(1);
/// One that makes a file durable.
const SYNC: Duration = Duration::from_millis(20);
/// One that frees, zeroes or moves blocks: tmpfs frees 8 GB a second.
const FREE: Duration = Duration::from_millis(250);

/// Bytes a microsecond.
mod speed {
    /// Read from a disk that is not in the cache.
    pub(super) const READ: u64 = 200;
    /// Written past the cache, or to another machine.
    pub(super) const WRITE: u64 = 100;
    /// Copied inside the host.
    pub(super) const COPY: u64 = 500;
    /// Reserved in memory, which has to be zeroed; disks are faster.
    pub(super) const RESERVE: u64 = 1000;
}

/// An estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    time: Duration,
    is_interruptible: bool,
}

impl Effort {
    /// How long the host may take.
    pub const fn time(self) -> Duration {
        self.time
    }

    /// Whether it may take longer than that, in steps between any two of which it can be given up as if it had not begun. That
    /// is possible only while no later request of its queue has been answered.
    pub const fn is_interruptible(self) -> bool {
        self.is_interruptible
    }

    /// One for tests of what is made of it.
    #[cfg(test)]
    pub(crate) const fn for_tests(time: Duration, is_interruptible: bool) -> Self {
        Self { time, is_interruptible }
    }

    const fn of(time: Duration) -> Self {
        Self { time, is_interruptible: false }
    }

    fn of_bytes(len: u64, bytes_per_us: u64) -> Self {
        Self::of(SMALL.saturating_add(Duration::from_micros(len / bytes_per_us)))
    }
}

impl<F: FileSystem> Session<F> {
    /// How long the host may take for a request that would wait. `message` is its header and its arguments, and
    /// `payload_len` the bytes behind them.
    pub fn effort(&self, message: &[u8], payload_len: usize) -> Effort {
        let request = Request::decode(message, payload_len, Dialect::default());
        match request.map(|request| request.operation) {
            Ok(Ok(operation)) => effort(&operation),
            // It is refused as soon as it is served.
            Ok(Err(_)) | Err(_) => Effort::of(SMALL),
        }
    }
}

fn effort(operation: &Operation<'_>) -> Effort {
    match operation {
        Operation::Read(read) => Effort::of_bytes(read.size.min(WRITE_LEN_MAX).into(), speed::READ),
        Operation::Write(write) => Effort::of_bytes(write.size.min(WRITE_LEN_MAX).into(), speed::WRITE),
        Operation::CopyFileRange(copy) => Effort::of_bytes(copy.length.min(COPY_LEN_MAX as u64), speed::COPY),
        Operation::Fallocate(fallocate) => reservation(fallocate),
        // FLUSH and RELEASE come here only on the share of another server.
        Operation::Fsync(_) | Operation::FsyncDir(_) | Operation::Flush(_) | Operation::Release(_) => {
            Effort::of(SYNC)
        }
        // Only one that frees many blocks comes here.
        Operation::SetAttr(_) | Operation::Open(_) | Operation::Create(_) => Effort::of(FREE),
        Operation::Init(_)
        | Operation::Destroy(_)
        | Operation::Lookup(_)
        | Operation::Forget(_)
        | Operation::BatchForget(_)
        | Operation::GetAttr(_)
        | Operation::GetStatx(_)
        | Operation::ReadLink(_)
        | Operation::SymLink(_)
        | Operation::MkNod(_)
        | Operation::MkDir(_)
        | Operation::Unlink(_)
        | Operation::RmDir(_)
        | Operation::Rename(_)
        | Operation::Link(_)
        | Operation::StatFs(_)
        | Operation::SetXattr(_)
        | Operation::GetXattr(_)
        | Operation::ListXattr(_)
        | Operation::RemoveXattr(_)
        | Operation::OpenDir(_)
        | Operation::ReadDir(_)
        | Operation::ReadDirPlus(_)
        | Operation::ReleaseDir(_)
        | Operation::GetLock(_)
        | Operation::SetLock(_)
        | Operation::Access(_)
        | Operation::TmpFile(_)
        | Operation::Interrupt(_)
        | Operation::BMap(_)
        | Operation::Ioctl(_)
        | Operation::Poll(_)
        | Operation::Lseek(_)
        | Operation::SetupMapping(_)
        | Operation::RemoveMapping(_)
        // No thread of the pool waits for it.
        | Operation::SyncFs(_) => Effort::of(SMALL),
    }
}

/// Reserving is interruptible, since to reserve twice is to reserve once.
fn reservation(fallocate: &Fallocate) -> Effort {
    if !FallocateMode::KEEP_SIZE.contains(fallocate.mode) {
        return Effort::of(FREE);
    }
    let effort = Effort::of_bytes(fallocate.length.min(LONG_ALLOCATION_LEN), speed::RESERVE);
    Effort { is_interruptible: fallocate.length > LONG_ALLOCATION_LEN, ..effort }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BACKLOG_TIME_MAX;
    use pinhole_protocol::Handle;

    fn fallocate(length: u64, mode: FallocateMode) -> Effort {
        effort(&Operation::Fallocate(Fallocate { handle: Handle(0), offset: 0, length, mode }))
    }

    #[test]
    fn a_long_reservation_is_interruptible_and_nothing_else_is() {
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
    fn no_single_request_takes_all_of_a_queues_time() {
        for length in [0, 1, LONG_ALLOCATION_LEN, u64::MAX] {
            let time = fallocate(length, FallocateMode::empty()).time();
            assert!(time >= SMALL && time <= BACKLOG_TIME_MAX / 2, "{length}: {time:?}");
        }
    }
}
