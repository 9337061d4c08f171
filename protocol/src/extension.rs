//! The extensions that Linux appends to requests that create files: supplementary groups and
//! security contexts (since 7.38).
//!
//! The request header has the total length of the extensions (`total_extlen`, in units of eight
//! bytes). Each extension is a record `{ size, type, ... }`, padded to eight bytes.
//! [`Extensions::parse`] checks all records, so that reading them later cannot fail.

use crate::{DecodeError, abi};
use std::ffi::CStr;
use zerocopy::FromBytes as _;
use zerocopy::little_endian::U32;

/// The checked extensions of one request. Most requests have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    bytes: &'a [u8],
    groups: Option<&'a [U32]>,
    contexts: Option<SecurityContexts<'a>>,
}

impl<'a> Extensions<'a> {
    /// No extensions.
    pub const EMPTY: Self = Self { bytes: &[], groups: None, contexts: None };

    /// Checks all records in `bytes`.
    ///
    /// # Errors
    /// [`DecodeError::ExtensionKind`] if a record has an unknown type, [`DecodeError::Extension`]
    /// if a record is malformed or occurs twice.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut extensions = Self { bytes, groups: None, contexts: None };
        let mut rest = bytes;
        while !rest.is_empty() {
            let Ok((head, _)) = abi::ExtHeader::ref_from_prefix(rest) else {
                return Err(DecodeError::Extension("a record's header is cut off"));
            };
            let size = len_of(head.size);
            if !size.is_multiple_of(8) {
                return Err(DecodeError::Extension("a record is not padded to eight bytes"));
            }
            let Some((record, after)) = rest.split_at_checked(size) else {
                return Err(DecodeError::Extension("a record is longer than the extensions"));
            };
            let Some((_, body)) = record.split_at_checked(size_of::<abi::ExtHeader>()) else {
                return Err(DecodeError::Extension("a record is shorter than its header"));
            };
            extensions.take_record(head.r#type.get(), body)?;
            rest = after;
        }
        Ok(extensions)
    }

    /// Checks the body of one record and stores it.
    fn take_record(&mut self, kind: u32, body: &'a [u8]) -> Result<(), DecodeError> {
        let duplicate = match kind {
            0..=abi::FUSE_MAX_NR_SECCTX => {
                self.contexts.replace(SecurityContexts::parse(body, kind)?).is_some()
            }
            abi::FUSE_EXT_GROUPS => self.groups.replace(parse_groups(body)?).is_some(),
            _ => return Err(DecodeError::ExtensionKind(kind)),
        };
        if duplicate { Err(DecodeError::Extension("a record occurs twice")) } else { Ok(()) }
    }

    /// Returns the caller's groups besides the gid in the header.
    ///
    /// The guest sends only groups that matter for this request. Linux sends at most one: the group
    /// of the directory, if the caller is a member.
    pub fn groups(&self) -> Option<Groups<'a>> {
        self.groups.map(|groups| Groups(groups.iter()))
    }

    /// Returns the security labels for the new file.
    pub const fn security_contexts(&self) -> Option<SecurityContexts<'a>> {
        self.contexts
    }

    /// Returns the bytes as the guest sent them.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Converts a length or count of the wire.
fn len_of(number: U32) -> usize {
    // A length that does not fit is longer than any message, so the caller rejects it.
    usize::try_from(number.get()).unwrap_or(usize::MAX)
}

/// Returns the group ids in the body of a groups record.
fn parse_groups(body: &[u8]) -> Result<&[U32], DecodeError> {
    const SHORT: DecodeError = DecodeError::Extension("there are fewer groups than counted");
    let (head, rest) = abi::SuppGroups::ref_from_prefix(body).map_err(|_short| SHORT)?;
    // zerocopy checks the multiplication of count and size. The slice borrows the message, so a
    // large count allocates nothing.
    let (groups, padding) =
        <[U32]>::ref_from_prefix_with_elems(rest, len_of(head.nr_groups)).map_err(|_short| SHORT)?;
    if padding.len() >= 8 {
        return Err(DecodeError::Extension("there are more groups than counted"));
    }
    Ok(groups)
}

/// The supplementary group ids of a request.
#[derive(Clone, Debug)]
pub struct Groups<'a>(std::slice::Iter<'a, U32>);

impl Iterator for Groups<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0.next().map(|group| group.get())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Groups<'_> {}

/// One security label for a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityContext<'a> {
    /// Name of the extended attribute for the label, such as `security.selinux`; 1 to 255 bytes.
    pub name: &'a CStr,
    /// The label.
    pub value: &'a [u8],
}

/// The security labels of a request, at most 31. [`SecurityContexts::iter`] reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityContexts<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> SecurityContexts<'a> {
    /// Checks the body of a record of `count` labels.
    fn parse(bytes: &'a [u8], count: u32) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        for _ in 0..count {
            let Some((context, after)) = split_context(rest) else {
                return Err(DecodeError::Extension("a security context is cut off"));
            };
            if context.name.is_empty() || context.name.count_bytes() > 255 {
                return Err(DecodeError::Extension(
                    "the name of a security context does not have 1 to 255 bytes",
                ));
            }
            rest = after;
        }
        if rest.len() >= 8 {
            return Err(DecodeError::Extension("there are more security contexts than counted"));
        }
        Ok(Self { bytes, count })
    }

    /// Returns the labels in the guest's order.
    pub fn iter(&self) -> impl Iterator<Item = SecurityContext<'a>> + use<'a> {
        let mut rest = self.bytes;
        (0..self.count).map_while(move |_| {
            let (context, after) = split_context(rest)?;
            rest = after;
            Some(context)
        })
    }
}

/// Splits the first label off `bytes`. Returns the label and the bytes after its padding.
fn split_context(bytes: &[u8]) -> Option<(SecurityContext<'_>, &[u8])> {
    let (head, rest) = abi::Secctx::ref_from_prefix(bytes).ok()?;
    let name = CStr::from_bytes_until_nul(rest).ok()?;
    let (_, rest) = rest.split_at_checked(name.count_bytes().checked_add(1)?)?;
    let (value, rest) = rest.split_at_checked(len_of(head.size))?;
    let used = bytes.len().checked_sub(rest.len())?;
    let padding = used.checked_next_multiple_of(8)?.checked_sub(used)?;
    let after = rest.get(padding..).unwrap_or_default();
    Some((SecurityContext { name, value }, after))
}
