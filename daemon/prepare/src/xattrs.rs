//! Reads the extended attributes of a file of the host.

use rustix::buffer::Buffer;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Bytes of one attribute and of a list of names: `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of Linux.
const LINUX_LEN_MAX: usize = 64 << 10;

/// The file whose attributes are read.
#[derive(Debug)]
pub(crate) enum Holder<'a> {
    /// An open file.
    Descriptor(BorrowedFd<'a>),
    /// A path whose last name is not followed.
    Name(CString),
}

/// Returns the path of a name in an open directory. Only its last part can be a symlink.
pub(crate) fn path_beneath(directory: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).unwrap_or_default()
}

impl Holder<'_> {
    fn list(&self, buffer: impl Buffer<u8, Output = usize>) -> rustix::io::Result<usize> {
        match self {
            Self::Descriptor(file) => rustix::fs::flistxattr(file, buffer),
            Self::Name(path) => rustix::fs::llistxattr(path, buffer),
        }
    }

    fn get(&self, name: &CStr, buffer: impl Buffer<u8, Output = usize>) -> rustix::io::Result<usize> {
        match self {
            Self::Descriptor(file) => rustix::fs::fgetxattr(file, name, buffer),
            Self::Name(path) => rustix::fs::lgetxattr(path, name, buffer),
        }
    }
}

/// Calls `each` with the name and the value of each extended attribute.
///
/// # Errors
/// Those of listxattr(2) and getxattr(2), except those of a file system without attributes.
pub(crate) fn each(holder: &Holder<'_>, each: &mut dyn FnMut(&[u8], &[u8])) -> rustix::io::Result<()> {
    // Most files have none, which a small buffer shows.
    let mut few = [0; 512];
    let mut many = Vec::new();
    let names = match holder.list(&mut few) {
        Ok(len) => few.get(..len).unwrap_or_default(),
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(Errno::RANGE) => {
            many.resize(LINUX_LEN_MAX, 0);
            let len = holder.list(&mut *many)?;
            many.get(..len).unwrap_or_default()
        }
        Err(errno) => return Err(errno),
    };
    let mut value = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        value.resize(LINUX_LEN_MAX, 0);
        let len = holder.get(name, &mut *value)?;
        each(name.to_bytes(), value.get(..len).unwrap_or_default());
    }
    Ok(())
}
