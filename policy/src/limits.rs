//! How much of the host one guest may take. Absent: as much as the daemon's own limits let it.

use std::num::NonZero;

/// A figure; `None`: no limit of the policy's.
pub type Limit = Option<NonZero<u64>>;

/// The limits of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Files and directories open at once; past it ENFILE.
    pub open_handles: Limit,
    /// Nodes that the guest holds a reference to at once; past it ENFILE.
    pub live_inodes: Limit,
    /// Byte-range and whole-file locks held at once; past it ENOLCK.
    pub locks: Limit,
    /// Requests taken from the guest and not yet answered; past it the guest waits.
    pub queued_requests: Limit,
    /// Bytes written and not yet on the host's disk; past it the guest's writes wait for the disk.
    pub dirty_bytes: Limit,
    /// Bytes written a second; past it the guest's writes wait.
    pub write_bytes_per_second: Limit,
    /// Operations a second; past it the guest waits.
    pub operations_per_second: Limit,
    /// Bytes of the biggest file; past it EFBIG.
    pub file_size: Limit,
    /// Names that one request for a listing goes through; the rest comes with the next.
    pub listing_names: Limit,
}
