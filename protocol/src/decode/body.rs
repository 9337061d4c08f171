//! A cursor over a request body, and the checks that several layouts share.

use crate::{DecodeError, Name, Open, OpenFlags, Timestamp, abi};
use std::ffi::CStr;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A cursor over the bytes of one body. Each `take` function moves the cursor past the bytes that
/// it returns.
pub(super) struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    /// Returns a cursor at the start of `bytes`.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the unread bytes without taking them.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes all unread bytes.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Takes one wire struct. `what` is its name in an error.
    pub(super) fn take<T>(&mut self, what: &'static str) -> Result<&'a T, DecodeError>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        let bytes = self.take_bytes(what, size_of::<T>())?;
        T::ref_from_bytes(bytes).map_err(|_size| DecodeError::Short {
            what,
            need: size_of::<T>(),
            have: bytes.len(),
        })
    }

    /// Takes `len` bytes.
    pub(super) fn take_bytes(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(DecodeError::Short { what, need: len, have: self.rest.len() });
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// Takes a NUL-terminated string.
    pub(super) fn take_c_str(&mut self, what: &'static str) -> Result<&'a CStr, DecodeError> {
        let text =
            CStr::from_bytes_until_nul(self.rest).map_err(|_no_nul| DecodeError::Unterminated { what })?;
        self.take_bytes(what, text.to_bytes_with_nul().len())?;
        Ok(text)
    }

    /// Takes one path component.
    pub(super) fn take_name(&mut self) -> Result<Name<'a>, DecodeError> {
        Ok(Name::parse(self.take_c_str("name")?)?)
    }

    /// Takes the name of an extended attribute, 1 to 255 bytes.
    pub(super) fn take_xattr_name(&mut self) -> Result<&'a CStr, DecodeError> {
        let name = self.take_c_str("attribute name")?;
        match name.count_bytes() {
            1..=255 => Ok(name),
            len => Err(DecodeError::XattrName { len }),
        }
    }
}

/// Returns `value` if `mask` has the bit, else `None`.
pub(super) fn when<T>(mask: u32, bit: u32, value: T) -> Option<T> {
    (mask & bit != 0).then_some(value)
}

/// Returns the bits of `word`, or an error if it has bits outside `known`.
pub(super) fn known_bits(field: &'static str, word: U32, known: u32) -> Result<u32, DecodeError> {
    match word.get() & !known {
        0 => Ok(word.get()),
        bits => Err(DecodeError::UnknownFlags { field, bits: u64::from(bits) }),
    }
}

/// Decodes a flag word and rejects unknown bits.
pub(super) fn strict_flags<F: bitflags::Flags<Bits = u32>>(
    field: &'static str,
    word: U32,
) -> Result<F, DecodeError> {
    known_bits(field, word, F::all().bits()).map(F::from_bits_retain)
}

/// Decodes the `open(2)` flags of a request that opens a file.
pub(super) fn open_flags(word: U32) -> Result<OpenFlags, DecodeError> {
    match word.get() {
        bits if bits & OpenFlags::ACCESS_BITS == OpenFlags::ACCESS_BITS => Err(DecodeError::AccessMode(bits)),
        bits => Ok(OpenFlags::from_bits_retain(bits)),
    }
}

/// Decodes `open(2)` flags and the hints to the server beside them.
pub(super) fn open(flags: U32, hints: U32) -> Result<Open, DecodeError> {
    let hints = known_bits("open_flags", hints, abi::FUSE_OPEN_KILL_SUIDGID)?;
    Ok(Open { flags: open_flags(flags)?, kill_suidgid: hints & abi::FUSE_OPEN_KILL_SUIDGID != 0 })
}

/// Returns a mode without its file type: permissions, suid, sgid and sticky.
pub(super) const fn permissions(mode: U32) -> u32 {
    mode.get() & 0o7777
}

/// Decodes a timestamp. The seconds are signed, although the wire type is unsigned.
pub(super) fn timestamp(
    field: &'static str,
    seconds: U64,
    nanoseconds: U32,
) -> Result<Timestamp, DecodeError> {
    match nanoseconds.get() {
        nanoseconds @ 0..1_000_000_000 => Ok(Timestamp { seconds: seconds.get().cast_signed(), nanoseconds }),
        nanoseconds => Err(DecodeError::Nanoseconds { field, nanoseconds }),
    }
}
