//! Restrictions of mounts.
//!
//! Why `unsafe` here: `mount_setattr` has no safe wrapper.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets `nosuid` and `nodev`, and if asked also `ro`, on every mount of a tree that is not
/// mounted yet. Flags that are set stay set.
///
/// # Errors
/// ENOSYS before Linux 5.12, and other errors of the host.
pub(crate) fn restrict_mounts(tree: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a C string. `attributes` is a `mount_attr` and its size is given. The
    // kernel reads both and writes neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
