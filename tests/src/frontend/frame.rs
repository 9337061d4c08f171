//! FUSE messages laid out by hand, number by number, so that a test does not trust the encoder that it tests.

use super::{FrontendError, Reply};

/// The number of every request laid out here, unless a test gives another.
pub const UNIQUE: u64 = 0x1122_3344_5566_7788;

/// Where the length stands in a message.
const LEN_AT: usize = 0;
/// Where the number stands in a message.
const UNIQUE_AT: usize = 8;

/// A message in the making: header, then what is appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// The header of `opcode` on `node` from the guest's root.
    pub fn new(opcode: u32, node: u64) -> Self {
        // len, opcode, unique, nodeid, uid, gid, pid, total_extlen and padding.
        Self(Vec::new()).u32(0).u32(opcode).u64(UNIQUE).u64(node).u32(0).u32(0).u32(1).u32(0)
    }

    /// Appends a number.
    #[must_use]
    pub fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Appends a number.
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

    /// With another number.
    #[must_use]
    pub fn unique(mut self, unique: u64) -> Self {
        put(&mut self.0, UNIQUE_AT, &unique.to_le_bytes());
        self
    }

    /// The whole message, its length filled in.
    pub fn message(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        put(&mut self.0, LEN_AT, &len.to_le_bytes());
        self.0
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(value) {
        *place = *byte;
    }
}

/// The number at `at` in a reply's body.
///
/// # Errors
/// [`FrontendError::Reply`] where the body ends before.
pub fn u32_at(body: &[u8], at: usize) -> Result<u32, FrontendError> {
    let bytes = body.get(at..).and_then(|rest| rest.first_chunk());
    let bytes = bytes.ok_or_else(|| FrontendError::Reply(format!("no number at {at} of {}", body.len())))?;
    Ok(u32::from_le_bytes(*bytes))
}

/// The number at `at` in a reply's body.
///
/// # Errors
/// [`FrontendError::Reply`] where the body ends before.
pub fn u64_at(body: &[u8], at: usize) -> Result<u64, FrontendError> {
    let (low, high) = (u32_at(body, at)?, u32_at(body, at + 4)?);
    Ok(u64::from(low) | u64::from(high) << 32)
}

/// What is true of every answer: its number is the request's, its length the used length, and nothing behind it was
/// written.
///
/// # Errors
/// [`FrontendError::Reply`] with what is not.
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
