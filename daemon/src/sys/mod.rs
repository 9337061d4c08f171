//! System calls and functions of the C library that have no safe wrapper in the crates used here.
//!
//! Each function is safe to call: it checks the requirements of its call, or the call has none. A
//! guest reaches only `inode_handle` and [`descriptors::close`]. All other functions are called
//! before the first request, or once when a thread or a connection starts or ends.

pub(crate) mod descriptors;
pub(crate) mod fault_copy;
pub(crate) mod fs_verity;
#[cfg_attr(not(feature = "test-utils"), expect(unreachable_pub, reason = "public only with the feature"))]
pub(crate) mod inode_handle;
pub(crate) mod memory;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod signals;
pub(crate) mod thread;
