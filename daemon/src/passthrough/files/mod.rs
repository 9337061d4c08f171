//! Files and directories that the guest has open.

pub(in crate::passthrough) mod deferred_close;
pub(in crate::passthrough) mod dirty_bytes;
pub(in crate::passthrough) mod handles;
pub(in crate::passthrough) mod large;
