//! Where the bytes of an image come from.

use zerocopy::{FromBytes, IntoBytes};

/// Bytes of an image.
///
/// The bytes may change or vanish at any time, as those of a mapped file do. So a source only
/// copies bytes out and never lends a reference.
pub trait Source {
    /// Returns the length in bytes.
    fn len(&self) -> u64;

    /// Fills `into` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// The bytes are not all inside the image, or the image cannot be read any more. The content of
    /// `into` is then unspecified.
    fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError>;

    /// Returns whether the source has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes outside the image were asked for, or the image cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the image cannot be read there")]
pub struct SourceError;

impl Source for [u8] {
    fn len(&self) -> u64 {
        u64::try_from(<[u8]>::len(self)).unwrap_or(u64::MAX)
    }

    fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(into.len()));
        let bytes = start.zip(end).and_then(|(start, end)| self.get(start..end)).ok_or(SourceError)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        (**self).copy(offset, into)
    }
}

/// Copies one structure of the format.
pub(crate) fn read<T: FromBytes + IntoBytes>(
    source: &(impl Source + ?Sized),
    offset: u64,
) -> Result<T, SourceError> {
    let mut value = T::new_zeroed();
    source.copy(offset, value.as_mut_bytes())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_refuses_every_byte_outside() {
        let bytes: &[u8] = &[1, 2, 3, 4];
        let mut two = [0; 2];
        assert_eq!(bytes.copy(2, &mut two), Ok(()));
        assert_eq!(two, [3, 4]);
        assert_eq!(bytes.copy(3, &mut two), Err(SourceError));
        assert_eq!(bytes.copy(u64::MAX, &mut two), Err(SourceError));
        assert_eq!(bytes.copy(5, &mut []), Err(SourceError));
    }
}
