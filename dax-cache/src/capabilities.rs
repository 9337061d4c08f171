//! What a front-end has shown that it can do.
//!
//! Nothing in vhost-user says any of this; the daemon tries it out on a scratch file after the connection, and keeps
//! the answers here. The constructors are what was measured of front-ends that are known.

use crate::SLOT_LEN;

/// Mappings at once for QEMU: each is a memory region that every vhost-user device of the machine is told of, which take
/// some 500 with the guest's own memory. All windows of one machine share them; this counts one window.
pub const QEMU_MAPPINGS_MAX: usize = 479;

/// Mappings at once for a front-end that maps over a reserved range: each cuts that range once more, so that n of them
/// are 2n + 1 areas of its address space, and Linux's default `vm.max_map_count` is 65,530 for the whole process.
pub const REPLACING_MAPPINGS_MAX: usize = 16_384;

/// What happens to a mapping when another is asked for over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// The new one is refused (QEMU: "VIRTIO Shared Memory mapping overlap"): one that is accepted shows that nothing
    /// was there.
    Refused,
    /// The new one takes the old one's place at once, as with `mmap(MAP_FIXED)`.
    Replaced,
    /// Not tried: both may come to lie there.
    Unknown,
}

/// A front-end's abilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// It maps an `O_RDONLY` descriptor. Without it nothing can be mapped that the guest must not write: a descriptor's
    /// own mode is all that keeps QEMU from mapping writable.
    pub read_only_descriptors: bool,
    /// It maps ranges that end behind the end of the file, as Linux asks for at the end of every file whose length is
    /// no multiple of [`SLOT_LEN`].
    pub past_end_of_file: bool,
    /// What a second mapping does to a first.
    pub overlap: Overlap,
    /// Mappings at once.
    pub mappings_max: usize,
    /// A reset of the device takes out all mappings without being told.
    pub drops_on_reset: bool,
}

impl Capabilities {
    /// QEMU 11.1: one memory region a mapping, made by `memory_region_init_ram_from_fd`.
    pub const fn qemu() -> Self {
        Self {
            read_only_descriptors: false,
            past_end_of_file: false,
            overlap: Overlap::Refused,
            mappings_max: QEMU_MAPPINGS_MAX,
            drops_on_reset: true,
        }
    }

    /// A front-end that reserves the window and maps into it by `mmap(MAP_FIXED)`, as crosvm does.
    pub const fn replacing() -> Self {
        Self {
            read_only_descriptors: true,
            past_end_of_file: true,
            overlap: Overlap::Replaced,
            mappings_max: REPLACING_MAPPINGS_MAX,
            drops_on_reset: false,
        }
    }

    /// A front-end of which nothing is known yet.
    pub const fn unknown() -> Self {
        Self {
            read_only_descriptors: false,
            past_end_of_file: false,
            overlap: Overlap::Unknown,
            mappings_max: QEMU_MAPPINGS_MAX,
            drops_on_reset: false,
        }
    }

    /// Whether to map writable for a guest that asks to read or to write, and may or may not be given a writable
    /// mapping of this node; `None` if it can have none.
    ///
    /// More than was asked for is given where the front-end takes no `O_RDONLY` descriptor, and where it would have to
    /// take the mapping out when the guest comes back to write. Never more than `may_write`.
    pub const fn map_writable(&self, asked: bool, may_write: bool) -> Option<bool> {
        let replaces = matches!(self.overlap, Overlap::Replaced);
        match (asked, may_write) {
            (true, true) => Some(true),
            (true, false) => None,
            (false, true) => Some(!(self.read_only_descriptors && replaces)),
            (false, false) => {
                if self.read_only_descriptors {
                    Some(false)
                } else {
                    None
                }
            }
        }
    }

    /// Bytes of the largest window in which Linux, with slots of [`SLOT_LEN`], stays within the budget whatever it
    /// does: past it, it learns of the budget by failing reads instead of by having no free slot. 0: not one slot.
    pub fn window_len_max(&self) -> u64 {
        let slots = u64::try_from(self.mappings_max).unwrap_or(u64::MAX);
        slots.checked_ilog2().and_then(|shift| SLOT_LEN.checked_shl(shift)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_may_not_write_never_gets_a_writable_mapping() {
        for capabilities in [Capabilities::qemu(), Capabilities::replacing(), Capabilities::unknown()] {
            for asked in [false, true] {
                assert_ne!(capabilities.map_writable(asked, false), Some(true));
            }
            assert_eq!(capabilities.map_writable(true, true), Some(true));
        }
    }

    #[test]
    fn qemu_can_map_only_what_may_be_written() {
        assert_eq!(Capabilities::qemu().map_writable(false, true), Some(true));
        assert_eq!(Capabilities::qemu().map_writable(false, false), None);
    }

    #[test]
    fn read_only_stays_read_only_where_that_can_be_changed_in_place() {
        assert_eq!(Capabilities::replacing().map_writable(false, true), Some(false));
        let gap = Capabilities { overlap: Overlap::Refused, ..Capabilities::replacing() };
        assert_eq!(gap.map_writable(false, true), Some(true));
        assert_eq!(gap.map_writable(false, false), Some(false));
    }

    #[test]
    fn the_largest_window_has_no_more_slots_than_there_may_be_mappings() {
        assert_eq!(Capabilities::qemu().window_len_max(), 256 * SLOT_LEN);
        assert_eq!(Capabilities::replacing().window_len_max(), 32 << 30);
        let of = |mappings_max| Capabilities { mappings_max, ..Capabilities::qemu() }.window_len_max();
        assert_eq!((of(0), of(1), of(7)), (0, SLOT_LEN, 4 * SLOT_LEN));
    }
}
