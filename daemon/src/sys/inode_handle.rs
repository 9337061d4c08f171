//! Inode handles: the host's own names of inodes, which open an inode without a descriptor or a
//! path (`name_to_handle_at(2)`, `open_by_handle_at(2)`).
//!
//! Why `unsafe` here: neither call has a safe wrapper. Both take a structure that ends in a
//! variable number of bytes.
#![expect(unsafe_code, reason = "name_to_handle_at and open_by_handle_at have no safe wrapper")]

use rustix::fs::OFlags;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Largest length of a handle in bytes (`MAX_HANDLE_SZ`).
const LEN_MAX: usize = 128;

/// Largest length in bytes of a handle that is kept in place: ext4 and XFS need 8 to 12, tmpfs 12,
/// btrfs 20.
const SHORT_LEN: usize = 20;

/// Names one inode of one file system as long as the inode exists.
///
/// The generation in it distinguishes an inode from a later one with the same number. Only the
/// host's kernel reads a handle. A guest never sees one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeHandle(Packed);

/// There may be millions of handles, so the usual ones are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Packed {
    /// `len` of the bytes are used, the others are zero.
    Short {
        kind: u8,
        len: u8,
        bytes: [u8; SHORT_LEN],
    },
    Long(Box<(i32, Box<[u8]>)>),
}

/// `struct file_handle` and the space for its bytes.
#[repr(C)]
struct HandleBuffer {
    head: libc::file_handle,
    bytes: [u8; LEN_MAX],
}

impl HandleBuffer {
    const fn new(len: u32, kind: i32) -> Self {
        let head = libc::file_handle { handle_bytes: len, handle_type: kind, f_handle: [] };
        Self { head, bytes: [0; LEN_MAX] }
    }
}

impl InodeHandle {
    /// Returns the handle of `name` in `directory`, and its mount. Does not follow a link.
    ///
    /// # Errors
    /// EOPNOTSUPP if the file system has no handles, EOVERFLOW if the handle is too long.
    pub fn beneath(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<(Self, u64)> {
        Self::ask(directory, name, 0)
    }

    /// Returns the handle of the inode of a descriptor, and its mount.
    ///
    /// # Errors
    /// As for [`InodeHandle::beneath`].
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<(Self, u64)> {
        Self::ask(fd, c"", libc::AT_EMPTY_PATH)
    }

    fn ask(directory: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<(Self, u64)> {
        let mut buffer = HandleBuffer::new(u32::try_from(LEN_MAX).unwrap_or(0), 0);
        let mut mount: libc::c_int = 0;
        // SAFETY: the name is a C string, `mount` is writable, and `buffer` begins with a
        // `file_handle` whose `handle_bytes` says how many bytes of the same object follow it. The
        // pointer is made from the whole buffer.
        let outcome = unsafe {
            libc::name_to_handle_at(
                directory.as_raw_fd(),
                name.as_ptr(),
                (&raw mut buffer).cast(),
                &raw mut mount,
                flags,
            )
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        let len = usize::try_from(buffer.head.handle_bytes).unwrap_or(usize::MAX);
        let bytes = buffer.bytes.get(..len).ok_or(io::ErrorKind::InvalidData)?;
        let mount = u64::try_from(mount).map_err(io::Error::other)?;
        Ok((Self(Packed::new(buffer.head.handle_type, bytes)), mount))
    }

    /// Opens the inode. `mount` is any descriptor of its mount that is not O_PATH.
    ///
    /// # Errors
    /// ESTALE if the inode is gone, or if the host has no memory for it. EPERM without
    /// CAP_DAC_READ_SEARCH.
    pub fn open(&self, mount: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let (kind, bytes) = self.0.parts();
        let mut buffer = HandleBuffer::new(u32::try_from(bytes.len()).map_err(io::Error::other)?, kind);
        for (place, byte) in buffer.bytes.iter_mut().zip(bytes) {
            *place = *byte;
        }
        let flags = libc::c_int::try_from((flags | OFlags::CLOEXEC).bits()).map_err(io::Error::other)?;
        // SAFETY: `buffer` begins with a `file_handle` whose `handle_bytes` are in the same object;
        // the kernel only reads it. The pointer is made from the whole buffer.
        let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut buffer).cast(), flags) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            // ext4 returns ENOMEM for an inode whose number is just being given to a new one:
            // `iget_locked` returns null while the inode is I_CREATING. So the old inode is gone. A
            // real lack of memory looks the same.
            let is_made_anew = error.raw_os_error() == Some(libc::ENOMEM);
            return Err(if is_made_anew { io::Error::from_raw_os_error(libc::ESTALE) } else { error });
        }
        // SAFETY: the kernel has just made this descriptor, and no other value owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl Packed {
    fn new(kind: i32, bytes: &[u8]) -> Self {
        let mut short = [0; SHORT_LEN];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len()), u8::try_from(kind)) {
            (Some(place), Ok(len), Ok(kind)) => {
                place.copy_from_slice(bytes);
                Self::Short { kind, len, bytes: short }
            }
            (Some(_) | None, _, _) => Self::Long(Box::new((kind, bytes.into()))),
        }
    }

    /// Returns kind and bytes.
    fn parts(&self) -> (i32, &[u8]) {
        match self {
            Self::Short { kind, len, bytes } => {
                (i32::from(*kind), bytes.get(..usize::from(*len)).unwrap_or_default())
            }
            Self::Long(long) => (long.0, &long.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::lock::Mutex;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_handle_opens_its_inode_and_no_later_inode() {
        let folder = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("a"), "first").unwrap();
        let (handle, mount) = InodeHandle::beneath(directory.as_fd(), c"a").unwrap();
        let file = std::fs::File::open(folder.path().join("a")).unwrap();
        assert_eq!(InodeHandle::of(file.as_fd()).unwrap(), (handle.clone(), mount));
        std::fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        let mut text = String::new();
        let found = handle.open(directory.as_fd(), OFlags::RDONLY).unwrap();
        std::fs::File::from(found).read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        drop(file);
        std::fs::remove_file(folder.path().join("b")).unwrap();
        std::fs::write(folder.path().join("a"), "second").unwrap();
        let stale = handle.open(directory.as_fd(), OFlags::RDONLY).unwrap_err();
        assert_eq!(stale.raw_os_error(), Some(libc::ESTALE));
    }

    #[test]
    fn a_handle_is_stale_while_its_number_is_reused() {
        const ROUNDS: u32 = 3000;
        let folder = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(folder.path()).unwrap();
        let handle = || {
            let path = folder.path().join("file");
            std::fs::write(&path, "").unwrap();
            let handle = InodeHandle::beneath(directory.as_fd(), c"file").unwrap().0;
            std::fs::remove_file(path).unwrap();
            handle
        };
        let (last, ended) = (Mutex::new(handle()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let removed = last.lock().clone();
                    let result =
                        removed.open(directory.as_fd(), OFlags::PATH).map_err(|error| error.raw_os_error());
                    // Opened just before it was removed, or stale.
                    assert!(result.is_ok() || result.err() == Some(Some(libc::ESTALE)));
                }
            });
            for _ in 0..ROUNDS {
                let next = handle();
                *last.lock() = next;
            }
            ended.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_handle_takes_little_memory() {
        assert!(size_of::<InodeHandle>() <= 24);
    }
}
