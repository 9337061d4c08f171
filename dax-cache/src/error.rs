//! Lists the reasons why a DAX request fails, and the errno that the guest gets for each.

const EIO: i32 = 5;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOSPC: i32 = 28;

/// Failure of one message to the front-end (`SHMEM_MAP` or `SHMEM_UNMAP`). The reply to such a
/// message has no errno, so the daemon knows no further detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The front-end replied that it refuses the message.
    #[error("the front-end refused")]
    Refused,
    /// The front-end did not reply: the channel is closed, or the caller stopped waiting for the
    /// reply. Whether the front-end acted on the message is unknown. No further message can be sent
    /// on this channel.
    #[error("the front-end does not reply")]
    Gone,
}

/// Reason why a SETUPMAPPING or REMOVEMAPPING failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DaxError {
    /// A window offset, file offset or length is not a multiple of the alignment in the reply to
    /// INIT.
    #[error("{value:#x} is not a multiple of {alignment:#x}")]
    Misaligned {
        /// The misaligned number, in bytes.
        value: u64,
        /// `1 << map_alignment` bytes.
        alignment: u64,
    },
    /// The length of a range is 0.
    #[error("the range is empty")]
    Empty,
    /// The range ends past the end of the window, or its end overflows.
    #[error("{len:#x} bytes at {offset:#x} are not inside the window")]
    OutsideWindow {
        /// Offset from the start of the window, in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The file range ends past the largest file offset (`loff_t`).
    #[error("{len:#x} bytes at {offset:#x} exceed the largest file offset")]
    OutsideFile {
        /// Offset from the start of the file, in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A mapping is partly inside and partly outside the range.
    #[error("the mapping of {len:#x} bytes at {offset:#x} is partly outside the range")]
    Partial {
        /// Offset of the mapping from the start of the window, in bytes.
        offset: u64,
        /// Length of the mapping in bytes.
        len: u64,
    },
    /// The window already has the largest permitted number of mappings.
    #[error("the window has {max} mappings, which is the limit")]
    BudgetSpent {
        /// Largest permitted number of mappings.
        max: usize,
    },
    /// The front-end refused a message.
    #[error("the front-end refused")]
    Refused,
    /// The front-end did not reply to this message or to an earlier one.
    #[error("the front-end does not reply")]
    Gone,
    /// The table was cleared while the request was in progress.
    #[error("the window was cleared during the request")]
    Cleared,
    /// Another request is in progress. The caller made a mistake: it must finish each request
    /// before it starts the next.
    #[error("another request is in progress")]
    Busy,
}

impl DaxError {
    /// Returns the Linux error number for the reply.
    ///
    /// Linux passes most errors of a SETUPMAPPING on to the program that reads or writes the file.
    /// In a page fault, it turns them into SIGBUS. A SETUPMAPPING must never fail with one of these
    /// three:
    ///
    /// - EAGAIN: Linux retries the page fault at once and without end, because `__fuse_dax_fault`
    ///   takes EAGAIN for "no free slot", although a slot is free.
    /// - ENOMEM: Linux retries the page fault. Kernels before 5.16 run the OOM killer first.
    /// - ENOSYS: Linux never sends a SETUPMAPPING again.
    ///
    /// [`Self::BudgetSpent`] becomes ENOSPC because that errno names the cause. No errno makes
    /// Linux give up old mappings: Linux does so only when it has no free slot left. In a window of
    /// at most [`crate::Capabilities::window_len_max`] bytes, Linux runs out of free slots before
    /// the budget is spent.
    pub const fn errno(self) -> i32 {
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
    fn no_errno_makes_a_guest_retry_forever() {
        const EAGAIN: i32 = 11;
        const ENOMEM: i32 = 12;
        const ENOSYS: i32 = 38;
        const RETRIED_OR_FINAL: [i32; 3] = [EAGAIN, ENOMEM, ENOSYS];
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
            assert!(!RETRIED_OR_FINAL.contains(&error.errno()) && error.errno() > 0, "{error}");
        }
    }
}
