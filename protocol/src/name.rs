//! One checked path component.

use std::ffi::CStr;

/// The longest component, in bytes, that Linux accepts (`NAME_MAX`).
pub const NAME_LEN_MAX: usize = 255;

/// A single path component that is safe to hand to `openat` and its relatives: not empty, not "." or "..", without
/// '/' and NUL, at most 255 bytes.
///
/// This is the only type in which a name leaves the decoder, so no opcode can forget the check (threat model,
/// invariant 1). The bytes need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a CStr);

/// Why bytes are not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no terminating NUL inside the message.
    #[error("name is not terminated")]
    Unterminated,
    /// The name is empty.
    #[error("name is empty")]
    Empty,
    /// The name is "." or "..".
    #[error("name is \".\" or \"..\"")]
    Dots,
    /// The name contains '/'.
    #[error("name contains '/'")]
    Slash,
    /// The name is longer than 255 bytes.
    #[error("name has {len} bytes, more than 255")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl<'a> Name<'a> {
    /// Checks one component.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn parse(text: &'a CStr) -> Result<Self, NameError> {
        let bytes = text.to_bytes();
        match bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > NAME_LEN_MAX => Err(NameError::TooLong { len: bytes.len() }),
            _ if bytes.contains(&b'/') => Err(NameError::Slash),
            _ => Ok(Self(text)),
        }
    }

    /// The component with its terminating NUL, as system calls want it.
    pub const fn as_c_str(self) -> &'a CStr {
        self.0
    }

    /// The component's bytes without the NUL.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }
}
