//! The window's measures, and ranges that were checked against them.
//!
//! What a guest sends is [`Wanted`] or a pair of numbers; [`Geometry`] makes a [`Mapping`] or a [`WindowRange`] of it, or
//! says what is wrong. Nothing behind this file checks a number again.

use crate::DaxError;

/// log2 of the least alignment: the smallest page of any Linux.
pub const ALIGNMENT_SHIFT_MIN: u32 = 12;
/// log2 of the greatest alignment: Linux refuses to mount with more than `FUSE_DAX_SHIFT` (`fuse_dax_check_alignment`).
pub const ALIGNMENT_SHIFT_MAX: u32 = 21;
/// Bytes of the slots in which Linux divides the window, of every SETUPMAPPING that it sends, and of the least window
/// that it can use (`FUSE_DAX_SZ`).
pub const SLOT_LEN: u64 = 1 << ALIGNMENT_SHIFT_MAX;

/// The length of the window and the alignment in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    window_len: u64,
    alignment: u64,
}

/// A window that there cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// `VIRTIO_PCI_CAP_SHARED_MEMORY_CFG` regions are PCI BARs, and QEMU takes no other length.
    #[error("{len:#x} bytes are no window: a power of two, {SLOT_LEN:#x} or more")]
    WindowLen {
        /// Bytes.
        len: u64,
    },
    /// Less than a page, or more than Linux takes.
    #[error("an alignment of 1 << {shift} bytes: {ALIGNMENT_SHIFT_MIN} to {ALIGNMENT_SHIFT_MAX}")]
    Alignment {
        /// log2 of bytes.
        shift: u32,
    },
}

impl Geometry {
    /// A window of `window_len` bytes in which everything lies at multiples of `1 << alignment_shift` bytes: the host's
    /// page size or more, told to the guest as `map_alignment` of INIT.
    ///
    /// # Errors
    /// [`GeometryError`] if the length is no power of two or less than [`SLOT_LEN`], or the alignment is out of bounds.
    pub const fn new(window_len: u64, alignment_shift: u32) -> Result<Self, GeometryError> {
        if !window_len.is_power_of_two() || window_len < SLOT_LEN {
            return Err(GeometryError::WindowLen { len: window_len });
        }
        if alignment_shift < ALIGNMENT_SHIFT_MIN || alignment_shift > ALIGNMENT_SHIFT_MAX {
            return Err(GeometryError::Alignment { shift: alignment_shift });
        }
        Ok(Self { window_len, alignment: 1 << alignment_shift })
    }

    /// Bytes of the window.
    pub const fn window_len(&self) -> u64 {
        self.window_len
    }

    /// Bytes, a power of two.
    pub const fn alignment(&self) -> u64 {
        self.alignment
    }

    /// A range of the window, as a REMOVEMAPPING names it.
    ///
    /// # Errors
    /// [`DaxError`], all of them EINVAL, if it is empty, misaligned or not wholly in the window.
    pub fn range(&self, offset: u64, len: u64) -> Result<WindowRange, DaxError> {
        if len == 0 {
            return Err(DaxError::Empty);
        }
        self.aligned(offset)?;
        self.aligned(len)?;
        match offset.checked_add(len) {
            Some(end) if end <= self.window_len => Ok(WindowRange { offset, len }),
            Some(_) | None => Err(DaxError::OutsideWindow { offset, len }),
        }
    }

    /// A mapping, as a SETUPMAPPING names it.
    ///
    /// # Errors
    /// As [`Geometry::range`], and if the file range is misaligned or ends behind `loff_t`.
    pub fn mapping(&self, wanted: &Wanted) -> Result<Mapping, DaxError> {
        let range = self.range(wanted.window_offset, wanted.len)?;
        self.aligned(wanted.file_offset)?;
        let end = wanted.file_offset.checked_add(wanted.len);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(DaxError::OutsideFile { offset: wanted.file_offset, len: wanted.len });
        }
        Ok(Mapping { range, node: wanted.node, file_offset: wanted.file_offset, writable: wanted.writable })
    }

    const fn aligned(&self, value: u64) -> Result<(), DaxError> {
        // The alignment is a power of two.
        if value & self.alignment.wrapping_sub(1) == 0 {
            Ok(())
        } else {
            Err(DaxError::Misaligned { value, alignment: self.alignment })
        }
    }
}

/// What a SETUPMAPPING asks for: numbers as the guest sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node id.
    pub node: u64,
    /// `foffset`: bytes from the file's start.
    pub file_offset: u64,
    /// `moffset`: bytes from the window's start.
    pub window_offset: u64,
    /// Bytes.
    pub len: u64,
    /// Mapped for reading and writing; else for reading. What the guest asked for, or more: see
    /// [`crate::Capabilities::map_writable`].
    pub writable: bool,
}

/// A range of the window that is aligned, not empty and inside. Only [`Geometry`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRange {
    offset: u64,
    len: u64,
}

impl WindowRange {
    /// Bytes from the window's start.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// The first byte behind it.
    pub const fn end(&self) -> u64 {
        // The sum was checked when the range was made.
        self.offset.saturating_add(self.len)
    }

    /// Whether all of `other` is in it.
    pub const fn covers(&self, other: &Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }
}

/// A file range in the window, checked. Only [`Geometry`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    range: WindowRange,
    node: u64,
    file_offset: u64,
    writable: bool,
}

impl Mapping {
    /// Where in the window.
    pub const fn range(&self) -> WindowRange {
        self.range
    }

    /// The node whose file it is.
    pub const fn node(&self) -> u64 {
        self.node
    }

    /// Bytes from the file's start.
    pub const fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Whether the guest can store through it. If not, the front-end must be handed a descriptor that is `O_RDONLY`:
    /// QEMU maps writable whatever it is told.
    pub const fn writable(&self) -> bool {
        self.writable
    }

    /// The same without the right to write.
    pub(crate) const fn read_only(self) -> Self {
        Self { writable: false, ..self }
    }

    /// Whether the same bytes of the same file lie at the same place, whatever the rights.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.range == other.range && self.node == other.node && self.file_offset == other.file_offset
    }

    /// Whether who asks for `wanted` has it already.
    pub(crate) fn serves(&self, wanted: &Self) -> bool {
        self.same_content(wanted) && (self.writable || !wanted.writable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn geometry() -> Geometry {
        Geometry::new(SLOT_LEN * 4, 12).unwrap()
    }

    #[test]
    fn a_window_is_a_power_of_two_that_linux_can_use() {
        for len in [0, 1, SLOT_LEN - 1, SLOT_LEN / 2, SLOT_LEN * 3, u64::MAX] {
            assert_eq!(Geometry::new(len, 12), Err(GeometryError::WindowLen { len }));
        }
        for len in [SLOT_LEN, 1 << 30, 1 << 63] {
            assert_eq!(Geometry::new(len, 12).unwrap().window_len(), len);
        }
    }

    #[test]
    fn an_alignment_is_a_page_at_least_and_a_slot_of_linux_at_most() {
        for shift in [0, 11, 22, 63, 64, u32::MAX] {
            assert_eq!(Geometry::new(SLOT_LEN, shift), Err(GeometryError::Alignment { shift }));
        }
        assert_eq!(Geometry::new(SLOT_LEN, 21).unwrap().alignment(), SLOT_LEN);
    }

    #[test]
    fn a_range_lies_wholly_in_the_window() {
        let whole = geometry().range(0, SLOT_LEN * 4).unwrap();
        assert_eq!((whole.offset(), whole.len(), whole.end()), (0, SLOT_LEN * 4, SLOT_LEN * 4));
        let last = geometry().range(SLOT_LEN * 4 - PAGE, PAGE).unwrap();
        assert!(whole.covers(&last) && !last.covers(&whole) && last.covers(&last));
        for (offset, len) in [
            (SLOT_LEN * 4, PAGE),
            (SLOT_LEN * 4 - PAGE, PAGE * 2),
            (PAGE, SLOT_LEN * 4),
            (!(PAGE - 1), PAGE),
            (!(PAGE - 1), !(PAGE - 1)),
            (0, !(PAGE - 1)),
        ] {
            assert_eq!(geometry().range(offset, len), Err(DaxError::OutsideWindow { offset, len }));
        }
    }

    #[test]
    fn no_length_and_all_ones_are_no_words_for_everything() {
        assert_eq!(geometry().range(0, 0), Err(DaxError::Empty));
        let all = DaxError::Misaligned { value: u64::MAX, alignment: PAGE };
        assert_eq!(geometry().range(0, u64::MAX), Err(all));
    }

    #[test]
    fn each_number_has_to_be_aligned() {
        let good = Wanted { node: 1, file_offset: PAGE, window_offset: PAGE, len: PAGE, writable: false };
        geometry().mapping(&good).unwrap();
        for bad in [
            Wanted { file_offset: PAGE + 1, ..good },
            Wanted { window_offset: PAGE + 1, ..good },
            Wanted { len: PAGE + 1, ..good },
        ] {
            let misaligned = DaxError::Misaligned { value: PAGE + 1, alignment: PAGE };
            assert_eq!(geometry().mapping(&bad), Err(misaligned));
        }
    }

    #[test]
    fn a_file_ends_where_offsets_end() {
        let last = (1 << 63) - PAGE;
        let wanted = Wanted { node: 1, file_offset: last, window_offset: 0, len: PAGE, writable: false };
        assert_eq!(
            geometry().mapping(&wanted),
            Err(DaxError::OutsideFile { offset: last, len: PAGE }),
            "the end itself is no loff_t"
        );
        let before = Wanted { file_offset: last - PAGE, ..wanted };
        assert_eq!(geometry().mapping(&before).unwrap().file_offset(), last - PAGE);
        let wraps = Wanted { file_offset: !(PAGE - 1), ..wanted };
        assert!(matches!(geometry().mapping(&wraps), Err(DaxError::OutsideFile { .. })));
    }
}
