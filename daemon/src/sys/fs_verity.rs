//! The fs-verity digest of a file, by which the host's kernel checks each page that it reads.
//!
//! Why `unsafe` here: `FS_IOC_MEASURE_VERITY` has no safe wrapper.
#![expect(unsafe_code, reason = "FS_IOC_MEASURE_VERITY has no safe wrapper")]

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};
use std::os::fd::BorrowedFd;

/// Number of the request: its argument is declared as a `struct fsverity_digest` without the digest
/// (`linux/fsverity.h`).
const MEASURE_VERITY: Opcode = opcode::read_write::<[u16; 2]>(b'f', 134);

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u16 = 1;

/// `struct fsverity_digest` with room for a SHA-256.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct VerityDigest {
    algorithm: u16,
    /// Room for the digest in bytes, and its length in the reply.
    len: u16,
    digest: [u8; 32],
}

/// Returns the digest of a file if the kernel checks it with SHA-256. `None`: it does not, or its
/// file system cannot.
///
/// # Errors
/// The host's error.
pub(crate) fn measured_digest(file: BorrowedFd<'_>) -> rustix::io::Result<Option<[u8; 32]>> {
    let mut found = VerityDigest { algorithm: 0, len: 32, digest: [0; 32] };
    // SAFETY: the kernel reads `len`, and writes all three fields, at most `len` bytes of the last.
    // They are plain numbers, for which all bytes are valid.
    let request = unsafe { Updater::<{ MEASURE_VERITY }, VerityDigest>::new(&mut found) };
    // SAFETY: the request measures and changes nothing else.
    match unsafe { rustix::ioctl::ioctl(file, request) } {
        Ok(()) if found.algorithm == SHA256 && found.len == 32 => Ok(Some(found.digest)),
        // Another algorithm or a longer digest; no digest; a file system without the request.
        Ok(()) | Err(Errno::OVERFLOW | Errno::NODATA | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn request_has_the_number_of_the_header() {
        assert_eq!(u64::from(MEASURE_VERITY), 0xc004_6686);
        assert_eq!(size_of::<VerityDigest>(), 36);
    }

    #[test]
    fn file_without_verity_has_no_digest() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(measured_digest(file.as_fd()), Ok(None));
        let directory = std::fs::File::open("/proc/self").unwrap();
        assert_eq!(measured_digest(directory.as_fd()), Ok(None));
    }
}
