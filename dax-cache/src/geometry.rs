//! The length and alignment of the window, and ranges that were checked against them.
//!
//! A guest sends a [`Wanted`], or the offset and length of a range. [`Geometry`] turns these
//! numbers into a [`Mapping`] or a [`WindowRange`], or returns an error. Code outside this file
//! never checks these numbers again.

use crate::DaxError;

/// log2 of the smallest alignment: the smallest page of any Linux.
pub const ALIGNMENT_SHIFT_MIN: u32 = 12;
/// log2 of the largest alignment. Linux refuses to mount above `FUSE_DAX_SHIFT`
/// (`fuse_dax_check_alignment`).
pub const ALIGNMENT_SHIFT_MAX: u32 = 21;
/// Length of a slot in bytes (`FUSE_DAX_SZ`).
///
/// Linux divides the window into slots and maps one slot with each SETUPMAPPING. The smallest
/// window that it can use is one slot.
pub const SLOT_LEN: u64 = 1 << ALIGNMENT_SHIFT_MAX;

/// The length of the window, and the alignment of its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Length in bytes.
    window_len: u64,
    /// Alignment in bytes.
    alignment: u64,
}

/// Why a window is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// The length is not a power of two, or less than [`SLOT_LEN`]. Regions of
    /// `VIRTIO_PCI_CAP_SHARED_MEMORY_CFG` are PCI BARs, and QEMU accepts only powers of two.
    #[error("window length {len:#x} is not a power of two from {SLOT_LEN:#x} on")]
    WindowLen {
        /// Length in bytes.
        len: u64,
    },
    /// The alignment is less than a page, or more than Linux accepts.
    #[error("alignment shift {shift} is not in {ALIGNMENT_SHIFT_MIN} to {ALIGNMENT_SHIFT_MAX}")]
    Alignment {
        /// log2 of the alignment in bytes.
        shift: u32,
    },
}

impl Geometry {
    /// Returns a window of `window_len` bytes with ranges aligned to `1 << alignment_shift` bytes.
    ///
    /// The alignment must be at least the host's page size. The guest gets it as `map_alignment` in
    /// the reply to INIT.
    ///
    /// # Errors
    /// [`GeometryError`] if the length is not a power of two or less than [`SLOT_LEN`], or if the
    /// alignment is out of bounds.
    pub const fn new(window_len: u64, alignment_shift: u32) -> Result<Self, GeometryError> {
        if !window_len.is_power_of_two() || window_len < SLOT_LEN {
            return Err(GeometryError::WindowLen { len: window_len });
        }
        if alignment_shift < ALIGNMENT_SHIFT_MIN || alignment_shift > ALIGNMENT_SHIFT_MAX {
            return Err(GeometryError::Alignment { shift: alignment_shift });
        }
        Ok(Self { window_len, alignment: 1 << alignment_shift })
    }

    /// Returns the length of the window in bytes.
    pub const fn window_len(&self) -> u64 {
        self.window_len
    }

    /// Returns the alignment in bytes, a power of two.
    pub const fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Checks a range of the window, as in a REMOVEMAPPING.
    ///
    /// # Errors
    /// [`DaxError`], always EINVAL, if the range is empty, misaligned or not inside the window.
    pub fn range(&self, offset: u64, len: u64) -> Result<WindowRange, DaxError> {
        if len == 0 {
            return Err(DaxError::Empty);
        }
        self.check_alignment(offset)?;
        self.check_alignment(len)?;
        match offset.checked_add(len) {
            Some(end) if end <= self.window_len => Ok(WindowRange { offset, len }),
            Some(_) | None => Err(DaxError::OutsideWindow { offset, len }),
        }
    }

    /// Checks a mapping, as in a SETUPMAPPING.
    ///
    /// # Errors
    /// Those of [`Geometry::range`], and [`DaxError`] if the file range is misaligned or ends past
    /// `loff_t`.
    pub fn mapping(&self, wanted: &Wanted) -> Result<Mapping, DaxError> {
        let range = self.range(wanted.window_offset, wanted.len)?;
        self.check_alignment(wanted.file_offset)?;
        let end = wanted.file_offset.checked_add(wanted.len);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(DaxError::OutsideFile { offset: wanted.file_offset, len: wanted.len });
        }
        Ok(Mapping { range, node: wanted.node, file_offset: wanted.file_offset, writable: wanted.writable })
    }

    /// Checks that a number of bytes is a multiple of the alignment.
    const fn check_alignment(&self, value: u64) -> Result<(), DaxError> {
        // The alignment is a power of two, so alignment - 1 masks the misaligned bits.
        if value & self.alignment.wrapping_sub(1) == 0 {
            Ok(())
        } else {
            Err(DaxError::Misaligned { value, alignment: self.alignment })
        }
    }
}

/// A mapping that a SETUPMAPPING asks for, with the unchecked numbers of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Node id of the file.
    pub node: u64,
    /// `foffset`: offset from the start of the file, in bytes.
    pub file_offset: u64,
    /// `moffset`: offset from the start of the window, in bytes.
    pub window_offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whether to map for reading and writing, not only for reading. This may be true although the
    /// guest did not ask to write: see [`crate::Capabilities::map_writable`].
    pub writable: bool,
}

/// A range that is aligned, not empty and inside the window. Only [`Geometry`] creates one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRange {
    offset: u64,
    len: u64,
}

impl WindowRange {
    /// Returns the offset from the start of the window, in bytes.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the length in bytes, never 0.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns the offset of the first byte after the range.
    pub const fn end(&self) -> u64 {
        // `Geometry::range` has checked this sum.
        self.offset.saturating_add(self.len)
    }

    /// Returns whether this range contains all of `other`.
    pub const fn covers(&self, other: &Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }
}

/// A checked mapping of a file range into the window. Only [`Geometry`] creates one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    range: WindowRange,
    node: u64,
    file_offset: u64,
    writable: bool,
}

impl Mapping {
    /// Returns the range in the window.
    pub const fn range(&self) -> WindowRange {
        self.range
    }

    /// Returns the node id of the file.
    pub const fn node(&self) -> u64 {
        self.node
    }

    /// Returns the offset from the start of the file, in bytes.
    pub const fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Returns whether the guest can write through the mapping.
    ///
    /// If not, the front-end must get an `O_RDONLY` descriptor, because QEMU ignores a request for
    /// a read-only mapping.
    pub const fn writable(&self) -> bool {
        self.writable
    }

    /// Returns the same mapping without the right to write.
    pub(crate) const fn read_only(self) -> Self {
        Self { writable: false, ..self }
    }

    /// Returns whether both mappings are of the same bytes of the same file at the same place,
    /// whatever their rights.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.range == other.range && self.node == other.node && self.file_offset == other.file_offset
    }

    /// Returns whether this mapping satisfies a request for `wanted`.
    pub(crate) fn satisfies(&self, wanted: &Self) -> bool {
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
    fn the_window_length_must_be_a_power_of_two() {
        for len in [0, 1, SLOT_LEN - 1, SLOT_LEN / 2, SLOT_LEN * 3, u64::MAX] {
            assert_eq!(Geometry::new(len, 12), Err(GeometryError::WindowLen { len }));
        }
        for len in [SLOT_LEN, 1 << 30, 1 << 63] {
            assert_eq!(Geometry::new(len, 12).unwrap().window_len(), len);
        }
    }

    #[test]
    fn the_alignment_is_between_a_page_and_a_slot() {
        for shift in [0, 11, 22, 63, 64, u32::MAX] {
            assert_eq!(Geometry::new(SLOT_LEN, shift), Err(GeometryError::Alignment { shift }));
        }
        assert_eq!(Geometry::new(SLOT_LEN, 21).unwrap().alignment(), SLOT_LEN);
    }

    #[test]
    fn a_range_must_be_inside_the_window() {
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
    fn zero_and_all_ones_are_not_the_whole_window() {
        assert_eq!(geometry().range(0, 0), Err(DaxError::Empty));
        let all = DaxError::Misaligned { value: u64::MAX, alignment: PAGE };
        assert_eq!(geometry().range(0, u64::MAX), Err(all));
    }

    #[test]
    fn each_number_must_be_aligned() {
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
    fn a_file_range_must_end_below_the_largest_offset() {
        let last = (1 << 63) - PAGE;
        let wanted = Wanted { node: 1, file_offset: last, window_offset: 0, len: PAGE, writable: false };
        assert_eq!(
            geometry().mapping(&wanted),
            Err(DaxError::OutsideFile { offset: last, len: PAGE }),
            "the end of the range is not a loff_t"
        );
        let before = Wanted { file_offset: last - PAGE, ..wanted };
        assert_eq!(geometry().mapping(&before).unwrap().file_offset(), last - PAGE);
        let wraps = Wanted { file_offset: !(PAGE - 1), ..wanted };
        assert!(matches!(geometry().mapping(&wraps), Err(DaxError::OutsideFile { .. })));
    }
}
