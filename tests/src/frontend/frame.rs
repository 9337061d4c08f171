//! FUSE messages encoded by hand, so that a test does not trust the encoder that it tests.

use super::{FrontendError, Reply};

/// `unique` of each message, unless a test sets another.
pub const UNIQUE: u64 = 0x1122_3344_5566_7788;

/// Offset of the length in a message.
const LEN_AT: usize = 0;
/// Offset of the opcode in a message.
const OPCODE_AT: usize = 4;
/// Offset of `unique` in a message.
const UNIQUE_AT: usize = 8;

/// Offset of the caller's user and group in a message.
const CALLER_AT: usize = 24;
/// Offset of the length of all extensions, in units of eight bytes.
const EXTENSIONS_AT: usize = 36;

/// The opcodes of `linux/fuse.h`, by their kernel names.
#[expect(missing_docs, reason = "the kernel's names")]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN_FILE: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const GETLK: u32 = 31;
    pub const SETLK: u32 = 32;
    pub const SETLKW: u32 = 33;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const BMAP: u32 = 37;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const POLL: u32 = 40;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SETUPMAPPING: u32 = 48;
    pub const REMOVEMAPPING: u32 = 49;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

/// Message under construction: the header and the bytes that were appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// Starts a message with the header of `opcode` on `node`, sent by the guest's root.
    pub fn new(opcode: u32, node: u64) -> Self {
        // len, opcode, unique, nodeid, uid, gid, pid, total_extlen and padding.
        Self(Vec::new()).u32(0).u32(opcode).u64(UNIQUE).u64(node).u32(0).u32(0).u32(1).u32(0)
    }

    /// Appends a 32-bit number.
    #[must_use]
    pub fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Appends a 64-bit number.
    #[must_use]
    pub fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Appends bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a name and the NUL that ends it.
    #[must_use]
    pub fn name(self, name: impl AsRef<[u8]>) -> Self {
        self.bytes(name.as_ref()).bytes(&[0])
    }

    /// Sets another `unique`.
    #[must_use]
    pub fn unique(mut self, unique: u64) -> Self {
        put(&mut self.0, UNIQUE_AT, &unique.to_le_bytes());
        self
    }

    /// Sets the user and the group of the caller. The default is root.
    #[must_use]
    pub fn caller(mut self, user: u32, group: u32) -> Self {
        put(&mut self.0, CALLER_AT, &user.to_le_bytes());
        put(&mut self.0, CALLER_AT + 4, &group.to_le_bytes());
        self
    }

    /// Appends supplementary groups as an extension (`FUSE_EXT_GROUPS`). No bytes may follow it.
    #[must_use]
    pub fn groups(mut self, groups: &[u32]) -> Self {
        const EXT_GROUPS: u32 = 32;
        let begin = self.0.len();
        let len = (12 + 4 * groups.len()).next_multiple_of(8);
        let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        self = self.u32(u32::try_from(len).unwrap_or(u32::MAX)).u32(EXT_GROUPS).u32(count);
        self = groups.iter().fold(self, |frame, group| frame.u32(*group));
        self.0.resize(begin + len, 0);
        let words = u16::try_from(len / 8).unwrap_or(u16::MAX);
        put(&mut self.0, EXTENSIONS_AT, &words.to_le_bytes());
        self
    }

    /// Returns the opcode.
    pub fn opcode(&self) -> u32 {
        u32_at(&self.0, OPCODE_AT).unwrap_or_default()
    }

    /// Returns the message with its length filled in.
    pub fn message(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        put(&mut self.0, LEN_AT, &len.to_le_bytes());
        self.0
    }
}

/// Overwrites the bytes at the offset `at` with `value`.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(value) {
        *place = *byte;
    }
}

/// Returns the 32-bit number at the offset `at` of a reply's body.
///
/// # Errors
/// [`FrontendError::Reply`] if the body is too short.
pub fn u32_at(body: &[u8], at: usize) -> Result<u32, FrontendError> {
    let bytes = body.get(at..).and_then(|rest| rest.first_chunk());
    let bytes = bytes.ok_or_else(|| FrontendError::Reply(format!("no number at {at} of {}", body.len())))?;
    Ok(u32::from_le_bytes(*bytes))
}

/// Returns the 64-bit number at the offset `at` of a reply's body.
///
/// # Errors
/// [`FrontendError::Reply`] if the body is too short.
pub fn u64_at(body: &[u8], at: usize) -> Result<u64, FrontendError> {
    let (low, high) = (u32_at(body, at)?, u32_at(body, at + 4)?);
    Ok(u64::from(low) | u64::from(high) << 32)
}

/// Checks the properties of every reply: it has the `unique` of the request, its length is the used
/// length, and the device wrote no byte after it.
///
/// # Errors
/// [`FrontendError::Reply`] with the property that does not hold.
pub fn check(reply: &Reply, unique: u64) -> Result<(), FrontendError> {
    let (header, _) = reply.parts()?;
    if header.unique.0 != unique {
        return Err(FrontendError::Reply(format!("the answer to {:#x}", header.unique.0)));
    }
    if header.len != reply.used_len {
        return Err(FrontendError::Reply(format!("{} bytes used for {}", reply.used_len, header.len)));
    }
    if !reply.rest_untouched {
        return Err(FrontendError::Reply("bytes behind the answer were written".to_owned()));
    }
    reply.error()?;
    Ok(())
}
