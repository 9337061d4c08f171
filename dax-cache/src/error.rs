//! What can go wrong with the window, and what the guest is told.

/// How the front-end failed to do a step. The answer to `SHMEM_MAP` carries no errno, so there is no more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It answered, and said no.
    #[error("the front-end refused")]
    Refused,
    /// No answer: the channel is closed, or it took longer than the caller waits. Whether it was done is not known, and
    /// nothing more can be sent on this channel.
    #[error("the front-end does not answer")]
    Gone,
}

/// Why a request about the window failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DaxError {
    /// Window offset, file offset or length is no multiple of the alignment that INIT told.
    #[error("{value:#x} is no multiple of {alignment:#x}")]
    Misaligned {
        /// The number, in bytes.
        value: u64,
        /// `1 << map_alignment` bytes.
        alignment: u64,
    },
    /// A range of no length.
    #[error("a range of no length")]
    Empty,
    /// The range ends behind the window, or behind all numbers.
    #[error("{len:#x} bytes at {offset:#x} are not in the window")]
    OutsideWindow {
        /// Bytes from the window's start.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The file range ends behind what a file can have (`loff_t`).
    #[error("{len:#x} bytes at {offset:#x} are in no file")]
    OutsideFile {
        /// Bytes from the file's start.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A mapping lies in part inside and in part outside of the range.
    #[error("the mapping of {len:#x} bytes at {offset:#x} sticks out of the range")]
    Partial {
        /// The mapping's start, in bytes from the window's start.
        offset: u64,
        /// The mapping's length in bytes.
        len: u64,
    },
    /// The mappings that there may be at once are there.
    #[error("{max} mappings are all that there may be")]
    BudgetSpent {
        /// How many.
        max: usize,
    },
    /// The front-end said no to what was needed.
    #[error("the front-end refused")]
    Refused,
    /// The front-end does not answer, now or since an earlier step.
    #[error("the front-end does not answer")]
    Gone,
    /// The table was cleared while the request was under way.
    #[error("the window was cleared meanwhile")]
    Cleared,
    /// Another request is under way: a mistake of the caller's, who gives one after the other.
    #[error("another request is under way")]
    Busy,
}

impl DaxError {
    /// The Linux error number to answer with.
    ///
    /// Linux hands most numbers on to whoever reads, and makes a SIGBUS of them in a page fault. Three it must never get
    /// for a SETUPMAPPING: EAGAIN makes a page fault ask again at once and for ever (`__fuse_dax_fault`, which takes it
    /// for "no free slot" while there is one), ENOMEM makes it a fault to be retried, on kernels before 5.16 after the
    /// OOM killer has been let loose, and ENOSYS is an answer for ever. No number makes it reclaim slots: it does so
    /// when it runs out of slots of its own, which comes first in a window of [`crate::Capabilities::window_len_max`].
    /// Past the budget it is therefore ENOSPC, which at least names what is full.
    pub const fn errno(self) -> i32 {
        const EIO: i32 = 5;
        const EINVAL: i32 = 22;
        const ENOSPC: i32 = 28;
        match self {
            Self::Misaligned { .. }
            | Self::Empty
            | Self::OutsideWindow { .. }
            | Self::OutsideFile { .. }
            | Self::Partial { .. } => EINVAL,
            Self::BudgetSpent { .. } => ENOSPC,
            Self::Refused | Self::Gone | Self::Cleared | Self::Busy => EIO,
        }
    }
}

impl From<Failure> for DaxError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused => Self::Refused,
            Failure::Gone => Self::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_makes_a_guest_ask_again_for_ever() {
        const NEVER: [i32; 3] = [11, 12, 38];
        let all = [
            DaxError::Misaligned { value: 1, alignment: 4096 },
            DaxError::Empty,
            DaxError::OutsideWindow { offset: 0, len: 0 },
            DaxError::OutsideFile { offset: 0, len: 0 },
            DaxError::Partial { offset: 0, len: 0 },
            DaxError::BudgetSpent { max: 0 },
            Failure::Refused.into(),
            Failure::Gone.into(),
            DaxError::Cleared,
            DaxError::Busy,
        ];
        for error in all {
            assert!(!NEVER.contains(&error.errno()) && error.errno() > 0, "{error}");
        }
    }
}
