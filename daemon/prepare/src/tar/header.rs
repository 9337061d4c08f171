//! The header block of a tar entry: ustar, GNU and the old form.
//!
//! The source is POSIX pax "ustar Interchange Format" and GNU tar's `tar.h`. Each number is checked
//! against its type, and a wrong checksum is an error.

use std::ops::Range;

/// Bytes of a block.
pub(crate) const BLOCK_LEN: usize = 512;

/// Why a block is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHeader(pub(crate) &'static str);

/// A header block with a right checksum. Fields are decoded when they are asked for.
#[derive(Debug)]
pub(crate) struct Header<'a>(&'a [u8; BLOCK_LEN]);

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK_NAME: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// Fields of the GNU form, in the place of the prefix.
const SPARSE: Range<usize> = 386..482;
const IS_EXTENDED: usize = 482;
const REAL_SIZE: Range<usize> = 483..495;

/// Bytes of a region in a map of a sparse file.
const REGION_LEN: usize = 24;
/// Bytes of the regions in a further block of a map, and the flag behind them.
const FURTHER_REGIONS: Range<usize> = 0..504;
const FURTHER_IS_EXTENDED: usize = 504;

impl<'a> Header<'a> {
    /// Checks a block.
    pub(crate) fn new(block: &'a [u8; BLOCK_LEN]) -> Result<Self, BadHeader> {
        let header = Self(block);
        let written = number(header.field(CHECKSUM))?;
        let bytes =
            || block.iter().enumerate().map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
        let sum: i128 = bytes().map(i128::from).sum();
        // Some old programs add signed bytes.
        let signed: i128 = bytes().map(|byte| i128::from(byte.cast_signed())).sum();
        if written == sum || written == signed { Ok(header) } else { Err(BadHeader("has a wrong checksum")) }
    }

    fn field(&self, range: Range<usize>) -> &'a [u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn is_gnu(&self) -> bool {
        self.field(MAGIC) == b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        self.field(MAGIC).starts_with(b"ustar\0")
    }

    /// Returns the name, with the prefix of the ustar form.
    pub(crate) fn path(&self) -> Vec<u8> {
        let mut path = Vec::new();
        if self.is_ustar() && !text(self.field(PREFIX)).is_empty() {
            path.extend_from_slice(text(self.field(PREFIX)));
            path.push(b'/');
        }
        path.extend_from_slice(text(self.field(NAME)));
        path
    }

    pub(crate) fn link_name(&self) -> &'a [u8] {
        text(self.field(LINK_NAME))
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0.get(TYPE).copied().unwrap_or_default()
    }

    pub(crate) fn size(&self) -> Result<u64, BadHeader> {
        whole(self.field(SIZE), "has a wrong size")
    }

    pub(crate) fn mode(&self) -> Result<u32, BadHeader> {
        whole(self.field(MODE), "has a wrong mode")
    }

    pub(crate) fn uid(&self) -> Result<u32, BadHeader> {
        whole(self.field(UID), "has a wrong user id")
    }

    pub(crate) fn gid(&self) -> Result<u32, BadHeader> {
        whole(self.field(GID), "has a wrong group id")
    }

    pub(crate) fn mtime(&self) -> Result<i64, BadHeader> {
        whole(self.field(MTIME), "has a wrong time")
    }

    /// Returns the major and the minor number of a device.
    pub(crate) fn device(&self) -> Result<(u32, u32), BadHeader> {
        let part = |range| whole(self.field(range), "has a wrong device number");
        Ok((part(MAJOR)?, part(MINOR)?))
    }

    /// Returns the regions of a GNU sparse entry in the header, whether a further block of the map
    /// follows, and the size of the file.
    pub(crate) fn sparse(&self) -> Result<(Vec<Range<u64>>, bool, u64), BadHeader> {
        if !self.is_gnu() {
            return Err(BadHeader("is of a sparse file, but not in GNU form"));
        }
        let is_extended = self.0.get(IS_EXTENDED).is_some_and(|flag| *flag != 0);
        Ok((regions(self.field(SPARSE))?, is_extended, whole(self.field(REAL_SIZE), "has a wrong size")?))
    }
}

/// Decodes a further block of the map of a sparse entry: its regions, and whether one more follows.
pub(crate) fn further_regions(block: &[u8; BLOCK_LEN]) -> Result<(Vec<Range<u64>>, bool), BadHeader> {
    let is_extended = block.get(FURTHER_IS_EXTENDED).is_some_and(|flag| *flag != 0);
    Ok((regions(block.get(FURTHER_REGIONS).unwrap_or_default())?, is_extended))
}

/// Decodes regions up to the first unused one.
fn regions(fields: &[u8]) -> Result<Vec<Range<u64>>, BadHeader> {
    const WRONG: &str = "has a wrong map of a sparse file";
    let mut regions = Vec::new();
    for field in fields.chunks_exact(REGION_LEN) {
        let (offset, len) = field.split_at(REGION_LEN / 2);
        if len.first() == Some(&0) {
            break;
        }
        let (offset, len): (u64, u64) = (whole(offset, WRONG)?, whole(len, WRONG)?);
        regions.push(offset..offset.checked_add(len).ok_or(BadHeader(WRONG))?);
    }
    Ok(regions)
}

/// Returns a field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn whole<T: TryFrom<i128>>(field: &[u8], wrong: &'static str) -> Result<T, BadHeader> {
    let number = number(field).map_err(|_bad| BadHeader(wrong))?;
    T::try_from(number).map_err(|_beyond| BadHeader(wrong))
}

/// Decodes a number of at most 12 bytes: octal digits, or a big-endian number with the highest bit
/// set. An empty field is 0.
fn number(field: &[u8]) -> Result<i128, BadHeader> {
    const WRONG: BadHeader = BadHeader("has a number that is not octal");
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        // Bit 6 is the sign.
        let first = i128::from(*first & 0x7f);
        let first = if first & 0x40 == 0 { first } else { first - 0x80 };
        return Ok(rest.iter().fold(first, |number, byte| number << 8 | i128::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'7' => Ok(number << 3 | i128::from(digit - b'0')),
        _ => Err(WRONG),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary_of_either_sign() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"  644 \0\0"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0"), Ok(0));
        assert_eq!(number(b"777777777777"), Ok(0o777_777_777_777));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02"), Ok(0x102));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(-2));
        for wrong in [&b"0008"[..], b"-1", b"1 2", b"0x1"] {
            assert!(number(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn number_beyond_its_type_is_an_error() {
        let id = b"\x80\0\0\x01\0\0\0\0";
        assert_eq!(whole::<u32>(id, "has a wrong user id"), Err(BadHeader("has a wrong user id")));
        assert_eq!(whole::<u64>(id, "has a wrong size"), Ok(1 << 32));
        let negative = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe";
        assert_eq!(whole::<u64>(negative, "has a wrong size"), Err(BadHeader("has a wrong size")));
    }
}
