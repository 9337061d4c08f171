//! FALLOCATE in steps.
//!
//! The host may take seconds for one `fallocate(2)` of some gigabytes, in which nothing ends it: a queue that is being
//! stopped, and the VMM with it, would wait for all of it. So a long one is carried out as several calls of the host, each
//! of [`ALLOCATION_STEP_LEN`], and may end between two of them. The guest sees one operation: only the last step changes
//! the file's length.

use crate::filesystem::{Answer, Caller, Paced, Repeat, StopCheck};
use crate::limits::{ALLOCATION_STEP_LEN, ALLOCATION_STEPS_MAX};
use crate::passthrough::Passthrough;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::resolve::{self, errno};
use pinhole_protocol::{self as protocol, Errno};
use rustix::fs::FallocateFlags;
use rustix::io::retry_on_intr;
use std::os::fd::AsFd as _;

/// Bytes in one block as `statx(2)` counts them.
const BLOCK_LEN: u64 = 512;

/// One call of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    offset: u64,
    len: u64,
    is_last: bool,
}

/// The steps of one range, in ascending order. All but the first begin at a multiple of a step's length, so that no page
/// and no block belongs to two of them.
#[derive(Clone, Debug)]
struct Steps {
    next: u64,
    end: u64,
    step_len: u64,
}

impl Steps {
    /// `None`: the range is short, or none that a file can have, so that one call does, or says what is wrong with it.
    fn of(offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok())?;
        if len <= ALLOCATION_STEP_LEN {
            return None;
        }
        let share = len.div_ceil(ALLOCATION_STEPS_MAX).next_multiple_of(ALLOCATION_STEP_LEN);
        Some(Self { next: offset, end, step_len: share })
    }
}

impl Steps {
    /// Those that are left once the range is done up to this offset.
    fn from(self, reached: u64) -> Self {
        Self { next: self.next.max(reached), ..self }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let offset = self.next;
        if offset >= self.end {
            return None;
        }
        let border = (offset / self.step_len).saturating_add(1).saturating_mul(self.step_len);
        self.next = border.min(self.end);
        Some(Step { offset, len: self.next.saturating_sub(offset), is_last: self.next == self.end })
    }
}

/// What a step does twice where the operation is carried out again.
const fn repeat(mode: FallocateFlags) -> Repeat {
    if mode.intersects(FallocateFlags::PUNCH_HOLE.union(FallocateFlags::ZERO_RANGE)) {
        Repeat::Harmful
    } else {
        Repeat::Harmless
    }
}

/// The mode of a step behind which more follow.
fn without_growth(mode: FallocateFlags) -> FallocateFlags {
    mode | FallocateFlags::KEEP_SIZE
}

impl Passthrough {
    /// The request does not say whether its caller keeps set-user-id and set-group-id.
    pub(in crate::passthrough) fn fallocate(
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
        match Steps::of(offset, length) {
            Some(steps) if !mode.intersects(shifts) => in_steps(&file, mode, steps, stop),
            Some(_) | None => reserve(&file, mode, (offset, length)).map(Paced::Ready),
        }
    }
}

fn in_steps(file: &FileHandle, mode: FallocateFlags, steps: Steps, stop: StopCheck<'_>) -> Answer<Paced<()>> {
    let reached = stop.reached();
    if reached.is_none() && !mode.contains(FallocateFlags::PUNCH_HOLE) {
        if file.traits.in_memory && without_growth(mode) == FallocateFlags::KEEP_SIZE {
            check_free_memory(file, &steps)?;
        }
        // What is wrong with the whole, such as an end that no file of this file system can have, is said before any of it is
        // done.
        reserve(file, without_growth(mode), (steps.end.saturating_sub(1), 1))?;
    }
    for step in steps.from(reached.unwrap_or(0)) {
        let mode = if step.is_last { mode } else { without_growth(mode) };
        // The guest may have been told the length since the last step.
        file.note_own_change();
        reserve(file, mode, (step.offset, step.len))?;
        if !step.is_last && stop.is_to_stop(repeat(mode), step.offset.saturating_add(step.len)) {
            return Ok(Paced::Stopped);
        }
    }
    Ok(Paced::Ready(()))
}

/// One call. hugetlbfs, and tmpfs of older kernels, answer EINTR where SIGSTOP or a freezer interrupts it.
fn reserve(file: &FileHandle, mode: FallocateFlags, (offset, len): (u64, u64)) -> Answer<()> {
    retry_on_intr(|| rustix::fs::fallocate(file.as_fd(), mode, offset, len)).map_err(errno)
}

/// tmpfs gives back what it has reserved where it has no room for all of it. The steps before the one that fails are not
/// given back, so what cannot succeed is not begun.
///
/// # Errors
/// ENOSPC.
fn check_free_memory(file: &FileHandle, steps: &Steps) -> Answer<()> {
    let figures = rustix::fs::fstatfs(file.as_fd()).map_err(errno)?;
    let (block_len, free) = (u64::try_from(figures.f_bsize).unwrap_or(0), figures.f_bfree);
    // Without a limit it has no blocks to count.
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

    fn steps(offset: u64, len: u64) -> Vec<Step> {
        Steps::of(offset, len).unwrap().collect()
    }

    #[test]
    fn steps_cover_the_range_once_and_only_the_last_one_ends_it() {
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
            let rest: Vec<Step> = Steps::of(7, 5 * STEP).unwrap().from(step.offset).collect();
            assert_eq!(rest, all[done..]);
        }
    }

    #[test]
    fn a_range_of_gigabytes_has_steps_of_the_named_length() {
        assert_eq!(steps(0, 3 << 30).len() as u64, (3 << 30) / STEP);
        assert!(steps(0, 3 << 30).iter().all(|step| step.len == STEP));
    }

    #[test]
    fn a_short_range_and_one_that_no_file_has_are_left_to_one_call() {
        for (offset, len) in [(0, 0), (0, STEP), (u64::MAX, 2), (1 << 62, 1 << 62), (0, u64::MAX)] {
            assert!(Steps::of(offset, len).is_none(), "{offset} {len}");
        }
    }
}
