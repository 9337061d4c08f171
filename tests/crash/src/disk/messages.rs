//! The few FUSE messages of a mounted file that is a disk: the requests that Linux sends to it, and
//! the bodies of their replies. Layouts are those of the kernel's `include/uapi/linux/fuse.h`.

use rustix::io::Errno;

/// Length of the header of a reply in bytes (`fuse_out_header`).
const REPLY_HEADER_LEN: u32 = 16;

/// Length of the header of a request in bytes (`fuse_in_header`).
const HEADER_LEN: usize = 40;

/// Longest write in bytes, and so the longest request.
pub(super) const WRITE_LEN_MAX: u32 = 1 << 20;

/// Pages of a request. Linux allows 256 without a change by the administrator.
const PAGES_MAX: u16 = 256;

/// `FUSE_ASYNC_READ`, `FUSE_BIG_WRITES` and `FUSE_MAX_PAGES`.
const INIT_FLAGS: u32 = 1 | 1 << 5 | 1 << 22;

/// `FOPEN_DIRECT_IO`: each read and write of the loop device becomes one request at once.
const DIRECT_IO: u32 = 1;

/// Mode of the file.
const MODE: u32 = 0o100_600;

/// Request to the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'m> {
    /// INIT.
    Init,
    /// GETATTR, or a SETATTR of times.
    Attributes,
    /// OPEN.
    Open,
    /// READ of so many bytes from an offset.
    Read { at: u64, len: u32 },
    /// WRITE of bytes at an offset.
    Write { at: u64, bytes: &'m [u8] },
    /// FALLOCATE that makes a range read as zeros.
    Zero { at: u64, len: u64 },
    /// FSYNC: a flush of the disk.
    Flush,
    /// Request that succeeds without effect: FLUSH, RELEASE, DESTROY.
    Nothing,
    /// Request without a reply: FORGET, BATCH_FORGET, INTERRUPT.
    Silent,
    /// Request that a disk does not need.
    Unknown,
}

/// Returns the 32-bit number at an offset, or 0 beyond the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u32::from_le_bytes(*field))
}

/// Returns the 64-bit number at an offset, or 0 beyond the end.
fn wide(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u64::from_le_bytes(*field))
}

/// Decodes a message of the kernel. Returns its `unique` and the request.
pub(super) fn decode(message: &[u8]) -> (u64, Request<'_>) {
    let body = message.get(HEADER_LEN..).unwrap_or_default();
    let request = match number(message, 4) {
        2 | 36 | 42 => Request::Silent,
        3 | 4 => Request::Attributes,
        14 => Request::Open,
        15 => Request::Read { at: wide(body, 8), len: number(body, 16) },
        16 => Request::Write { at: wide(body, 8), bytes: body.get(HEADER_LEN..).unwrap_or_default() },
        18 | 25 | 38 => Request::Nothing,
        20 => Request::Flush,
        26 => Request::Init,
        43 => Request::Zero { at: wide(body, 8), len: wide(body, 16) },
        _ => Request::Unknown,
    };
    (wide(message, 8), request)
}

/// Returns the header of a successful reply whose body has `len` bytes.
pub(super) fn success(unique: u64, len: usize) -> Vec<u8> {
    header(unique, 0, len)
}

/// Returns a reply with an error.
pub(super) fn refusal(unique: u64, errno: Errno) -> Vec<u8> {
    header(unique, -errno.raw_os_error(), 0)
}

fn header(unique: u64, error: i32, len: usize) -> Vec<u8> {
    let len = u32::try_from(len).unwrap_or(u32::MAX).saturating_add(REPLY_HEADER_LEN);
    [len.to_le_bytes(), error.to_le_bytes()].concat().into_iter().chain(unique.to_le_bytes()).collect()
}

/// Returns the body of the reply to INIT: protocol version 7.31.
pub(super) fn init() -> Vec<u8> {
    let mut body: Vec<u8> = [7, 31, 1 << 17, INIT_FLAGS].map(u32::to_le_bytes).concat();
    // max_background and congestion_threshold.
    body.extend([64, 48].map(u16::to_le_bytes).concat());
    body.extend([WRITE_LEN_MAX, 1].map(u32::to_le_bytes).concat());
    body.extend(PAGES_MAX.to_le_bytes());
    body.resize(64, 0);
    body
}

/// Returns the body of the reply to GETATTR for a file of so many bytes.
pub(super) fn attributes(len: u64) -> Vec<u8> {
    // attr_valid in seconds, attr_valid_nsec and padding, inode number, size, blocks.
    let mut body = [3600, 0, 1, len, len / 512].map(u64::to_le_bytes).concat();
    // Times.
    body.resize(body.len() + 36, 0);
    // mode, nlink, uid, gid, rdev, blksize, flags.
    body.extend([MODE, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes).concat());
    body
}

/// Returns the body of the reply to OPEN.
pub(super) fn open() -> Vec<u8> {
    [0, 0, DIRECT_IO, 0].map(u32::to_le_bytes).concat()
}

/// Returns the body of the reply to WRITE.
pub(super) fn written(len: usize) -> Vec<u8> {
    [u32::try_from(len).unwrap_or(u32::MAX), 0].map(u32::to_le_bytes).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a message as Linux sends it.
    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap();
        let mut message = [len, opcode, 77, 0].map(u32::to_le_bytes).concat();
        message.resize(HEADER_LEN, 0);
        message.extend(body);
        message
    }

    #[test]
    fn write_has_its_offset_and_its_bytes() {
        let mut body = [1_u64, 4096].map(u64::to_le_bytes).concat();
        body.extend([3_u32, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat());
        body.extend(b"xyz");
        let expected = Request::Write { at: 4096, bytes: b"xyz" };
        assert_eq!(decode(&message(16, &body)), (77, expected));
    }

    #[test]
    fn replies_have_the_lengths_that_linux_expects() {
        let lengths = [init(), attributes(9), open(), written(3), success(1, 0)].map(|reply| reply.len());
        assert_eq!(lengths, [64, 104, 16, 8, 16]);
    }
}
