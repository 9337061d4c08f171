//! Which file range sits where in the DAX window. Pure: no I/O, no knowledge of guests or hosts.
//!
//! Only the seam stands here so far: the [`Window`] through which the session asks for mappings, and [`Absent`], the
//! window of a share that has none. The interval table comes with the DAX issue.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

/// A shared-memory window into which file ranges can be mapped.
pub trait Window: Send + Sync {
    /// Bytes of the window, a power of two; `None` where the share has no window, which is how the session knows to
    /// answer SETUPMAPPING and REMOVEMAPPING with ENOSYS and to offer no `map_alignment`.
    fn window_len(&self) -> Option<u64>;
}

/// No window: every file is served by READ and WRITE.
#[derive(Clone, Copy, Debug, Default)]
pub struct Absent;

impl Window for Absent {
    fn window_len(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_window_has_no_length() {
        assert_eq!(Absent.window_len(), None);
    }
}
