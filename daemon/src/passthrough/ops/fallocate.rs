//! FALLOCATE in steps.
//!
//! The host may take seconds for one `fallocate(2)` of some gigabytes, and nothing interrupts it. A
//! queue that is being stopped, and with it the VMM, would wait. So a long FALLOCATE runs as
//! several calls of [`ALLOCATION_STEP_LEN`] each, and may end between two of them. The guest sees
//! one operation: only the last step changes the length of the file.

use crate::filesystem::{Answer, Caller, Paced, Repeat, StopCheck};
use crate::limits::{ALLOCATION_STEP_LEN, ALLOCATION_STEPS_MAX};
use crate::passthrough::Passthrough;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::inodes::BLOCK_LEN;
use crate::passthrough::resolve::{self, errno};
use pinhole_protocol::{self as protocol, Errno};
use rustix::fs::FallocateFlags;
use rustix::io::retry_on_intr;
use std::os::fd::AsFd as _;

/// One call of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AllocationStep {
    offset: u64,
    len: u64,
    is_last: bool,
}

/// The steps of one range, in ascending order. All but the first begin at a multiple of the length
/// of a step, so that no page and no block belongs to two steps.
#[derive(Clone, Debug)]
struct AllocationSteps {
    next: u64,
    end: u64,
    step_len: u64,
}

impl AllocationSteps {
    /// Splits a range. `None`: one call is enough, because the range is short or because no file
    /// can have it.
    fn of(offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok())?;
        if len <= ALLOCATION_STEP_LEN {
            return None;
        }
        let share = len.div_ceil(ALLOCATION_STEPS_MAX).next_multiple_of(ALLOCATION_STEP_LEN);
        Some(Self { next: offset, end, step_len: share })
    }

    /// Returns the steps that are left once the range is done up to this offset.
    fn from(self, reached: u64) -> Self {
        Self { next: self.next.max(reached), ..self }
    }
}

impl Iterator for AllocationSteps {
    type Item = AllocationStep;

    fn next(&mut self) -> Option<AllocationStep> {
        let offset = self.next;
        if offset >= self.end {
            return None;
        }
        let border = (offset / self.step_len).saturating_add(1).saturating_mul(self.step_len);
        self.next = border.min(self.end);
        Some(AllocationStep { offset, len: self.next.saturating_sub(offset), is_last: self.next == self.end })
    }
}

/// Returns the mode of a step that is not the last.
fn without_growth(mode: FallocateFlags) -> FallocateFlags {
    mode | FallocateFlags::KEEP_SIZE
}

impl Passthrough {
    /// Allocates, frees or shifts a range. The request does not carry whether to remove set-user-id
    /// and set-group-id.
    pub(super) fn fallocate(
        &self,
        caller: &Caller<'_>,
        fallocate: protocol::Fallocate,
        stop: StopCheck<'_>,
    ) -> Answer<Paced<()>> {
        let file = self.files.file(fallocate.handle)?;
        file.note_own_change();
        let protocol::Fallocate { offset, length, .. } = fallocate;
        let mode = FallocateFlags::from_bits_retain(fallocate.mode.bits());
        let shifts = FallocateFlags::INSERT_RANGE | FallocateFlags::COLLAPSE_RANGE;
        if mode.contains(FallocateFlags::INSERT_RANGE) {
            self.check_size(resolve::stat(file.as_fd())?.size().checked_add(length))?;
        } else if !mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::COLLAPSE_RANGE) {
            self.check_size(offset.checked_add(length))?;
        }
        file.note_growth(&self.inodes, offset.saturating_add(length));
        self.identity.kill_suidgid(!caller.may_have_fsetid())?;
        match AllocationSteps::of(offset, length) {
            Some(steps) if !mode.intersects(shifts) => in_steps(&file, mode, steps, stop),
            Some(_) | None => reserve(&file, mode, (offset, length)).map(Paced::Ready),
        }
    }
}

fn in_steps(
    file: &FileHandle,
    mode: FallocateFlags,
    steps: AllocationSteps,
    stop: StopCheck<'_>,
) -> Answer<Paced<()>> {
    let reached = stop.reached();
    if reached.is_none() && !mode.contains(FallocateFlags::PUNCH_HOLE) {
        if file.traits.in_memory && without_growth(mode) == FallocateFlags::KEEP_SIZE {
            check_free_memory(file, &steps)?;
        }
        // An error of the whole range, such as an end that this file system does not support, is
        // returned before anything is done.
        reserve(file, without_growth(mode), (steps.end.saturating_sub(1), 1))?;
    }
    let zeroes = mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
    let repeat = if zeroes { Repeat::Harmful } else { Repeat::Harmless };
    for step in steps.from(reached.unwrap_or(0)) {
        let mode = if step.is_last { mode } else { without_growth(mode) };
        // The guest may have read the attributes of the file since the last step.
        file.note_own_change();
        reserve(file, mode, (step.offset, step.len))?;
        if !step.is_last && stop.is_to_stop(repeat, step.offset.saturating_add(step.len)) {
            return Ok(Paced::Stopped);
        }
    }
    Ok(Paced::Ready(()))
}

/// Makes one call. hugetlbfs, and tmpfs of older kernels, return EINTR after SIGSTOP or a freezer.
fn reserve(file: &FileHandle, mode: FallocateFlags, (offset, len): (u64, u64)) -> Answer<()> {
    retry_on_intr(|| rustix::fs::fallocate(file.as_fd(), mode, offset, len)).map_err(errno)
}

/// Checks that a file system in memory has room for all steps.
///
/// tmpfs frees the whole reservation of a call that fails, but not those of earlier steps. So an
/// operation that cannot succeed is not begun.
///
/// # Errors
/// ENOSPC.
fn check_free_memory(file: &FileHandle, steps: &AllocationSteps) -> Answer<()> {
    let figures = rustix::fs::fstatfs(file.as_fd()).map_err(errno)?;
    let (block_len, free) = (u64::try_from(figures.f_bsize).unwrap_or(0), figures.f_bfree);
    // Without a size limit, tmpfs reports no blocks.
    if figures.f_blocks == 0 {
        return Ok(());
    }
    let held = resolve::stat(file.as_fd())?.blocks().saturating_mul(BLOCK_LEN);
    let needed = steps.end.saturating_sub(steps.next).saturating_sub(held);
    if needed > free.saturating_mul(block_len) { Err(Errno::ENOSPC) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = ALLOCATION_STEP_LEN;

    fn steps(offset: u64, len: u64) -> Vec<AllocationStep> {
        AllocationSteps::of(offset, len).unwrap().collect()
    }

    #[test]
    fn steps_cover_the_range_once() {
        for (offset, len) in
            [(0, STEP + 1), (1, 3 * STEP), (STEP - 1, 2 * STEP), (7, 1 << 50), (1 << 60, 1 << 61)]
        {
            let all = steps(offset, len);
            let mut next = offset;
            for (index, step) in all.iter().enumerate() {
                assert_eq!(step.offset, next, "{offset} {len}");
                assert!(step.len > 0 && (index == 0 || step.offset.is_multiple_of(STEP)), "{step:?}");
                assert_eq!(step.is_last, index + 1 == all.len(), "{step:?}");
                next += step.len;
            }
            assert_eq!(next, offset + len);
            assert!(all.len() as u64 <= ALLOCATION_STEPS_MAX + 1, "{}", all.len());
        }
    }

    #[test]
    fn interrupted_range_goes_on_with_its_remaining_steps() {
        let all = steps(7, 5 * STEP);
        for (done, step) in all.iter().enumerate() {
            let rest: Vec<AllocationStep> =
                AllocationSteps::of(7, 5 * STEP).unwrap().from(step.offset).collect();
            assert_eq!(rest, all[done..]);
        }
    }

    #[test]
    fn large_range_has_steps_of_the_same_length() {
        assert_eq!(steps(0, 3 << 30).len() as u64, (3 << 30) / STEP);
        assert!(steps(0, 3 << 30).iter().all(|step| step.len == STEP));
    }

    #[test]
    fn short_or_impossible_range_is_one_call() {
        for (offset, len) in [(0, 0), (0, STEP), (u64::MAX, 2), (1 << 62, 1 << 62), (0, u64::MAX)] {
            assert!(AllocationSteps::of(offset, len).is_none(), "{offset} {len}");
        }
    }
}
