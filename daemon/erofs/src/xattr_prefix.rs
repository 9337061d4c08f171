//! Prefixes of extended attribute names: the usual ones, and those that an image defines.

use arrayvec::ArrayVec;
use zerocopy::little_endian::U16;

use crate::error::OpenError;
use crate::limits::MAX_XATTR_NAME;
use crate::source::{self, Source};
use crate::superblock::Superblock;

/// Numbers of the usual prefixes. Linux shows no attributes with other numbers. The two names of
/// access control lists are complete.
pub(crate) const USUAL: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Returns the usual prefix with a number.
pub(crate) fn usual(number: u8) -> Option<&'static [u8]> {
    USUAL.iter().find_map(|(known, prefix)| (*known == number).then_some(*prefix))
}

/// Prefix that the image defines: one of the usual ones and more bytes.
#[derive(Debug, Clone)]
pub(crate) struct Prefix {
    /// Number of the usual prefix.
    pub(crate) base: u8,
    pub(crate) infix: ArrayVec<u8, MAX_XATTR_NAME>,
}

/// Reads the prefixes that the image defines: each is a length of 2 bytes, a number and bytes, and
/// begins on 4 bytes.
pub(crate) fn read_prefixes(source: &impl Source, superblock: &Superblock) -> Result<Vec<Prefix>, OpenError> {
    let mut prefixes = Vec::new();
    let mut offset = superblock.xattr_prefixes_start;
    for index in 0..superblock.xattr_prefix_count {
        offset = offset.next_multiple_of(4);
        let length: U16 = source::read(source, offset)?;
        let length = length.get();
        let base: u8 = source::read(source, offset.saturating_add(2))?;
        let mut infix = [0; MAX_XATTR_NAME];
        let bytes = usize::from(length).checked_sub(1).and_then(|length| infix.get_mut(..length));
        let bytes = bytes.ok_or(OpenError::XattrPrefix { index, length: usize::from(length) })?;
        source.copy(offset.saturating_add(3), bytes)?;
        prefixes.push(Prefix { base, infix: bytes.iter().copied().collect() });
        offset = offset.saturating_add(2).saturating_add(u64::from(length));
    }
    Ok(prefixes)
}
