//! The check of path components.

use std::ffi::CStr;

/// Maximum length of a path component in bytes (`NAME_MAX` of Linux).
pub const NAME_LEN_MAX: usize = 255;

/// A single path component that is safe to pass to `openat` and similar calls.
///
/// The component is not empty, not "." or "..", has no '/' and no NUL, and at most 255 bytes. The
/// bytes need not be UTF-8. A name leaves the decoder only as this type, so no opcode can skip the
/// check (threat model, invariant 1). LOOKUP alone has [`LookupName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a CStr);

/// The name of a LOOKUP: one component, or the two names that a guest looks up if both sides have
/// negotiated `EXPORT_SUPPORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupName<'a> {
    /// A name in the directory.
    Component(Name<'a>),
    /// ".": the node itself, which need not be a directory.
    Itself,
    /// "..": the parent of the directory.
    Parent,
}

/// Why a string is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no terminating NUL inside the message.
    #[error("name has no terminating NUL")]
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
        /// Length in bytes.
        len: usize,
    },
}

impl<'a> Name<'a> {
    /// Checks one component.
    ///
    /// # Errors
    /// [`NameError`] says which rule the bytes break.
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

    /// Returns the component with its terminating NUL, as system calls expect it.
    pub const fn as_c_str(self) -> &'a CStr {
        self.0
    }

    /// Returns the bytes of the component without the NUL.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }
}

impl<'a> LookupName<'a> {
    /// Checks the name of a LOOKUP.
    ///
    /// # Errors
    /// [`NameError`] says which rule the bytes break.
    pub fn parse(text: &'a CStr) -> Result<Self, NameError> {
        match text.to_bytes() {
            b"." => Ok(Self::Itself),
            b".." => Ok(Self::Parent),
            _ => Name::parse(text).map(Self::Component),
        }
    }

    /// Returns the component.
    ///
    /// # Errors
    /// [`NameError::Dots`] for the two other names.
    pub const fn component(self) -> Result<Name<'a>, NameError> {
        match self {
            Self::Component(name) => Ok(name),
            Self::Itself | Self::Parent => Err(NameError::Dots),
        }
    }

    /// Returns the name with its terminating NUL.
    pub const fn as_c_str(self) -> &'a CStr {
        match self {
            Self::Component(name) => name.as_c_str(),
            Self::Itself => c".",
            Self::Parent => c"..",
        }
    }
}

impl<'a> From<Name<'a>> for LookupName<'a> {
    fn from(name: Name<'a>) -> Self {
        Self::Component(name)
    }
}
