//! The abilities of a front-end.
//!
//! The vhost-user protocol does not report these abilities. After the connection the daemon tests
//! them with a scratch file and stores the results in [`Capabilities`]. The constructors return the
//! values that were measured for known front-ends.

use crate::SLOT_LEN;

/// Maximum number of mappings at a time for QEMU.
///
/// Each mapping is a memory region that QEMU reports to every vhost-user device of the VM. These
/// devices accept about 500 regions, including the guest's own memory. All windows of a VM share
/// this number, so it holds for a VM with one window.
pub const QEMU_MAPPINGS_MAX: usize = 479;

/// Maximum number of mappings at a time for a front-end that maps over a reserved range.
///
/// Each mapping splits that range once more, so that n mappings make 2n + 1 areas of the address
/// space. Linux's default `vm.max_map_count` is 65,530 areas for the whole process.
pub const REPLACING_MAPPINGS_MAX: usize = 16_384;

/// The effect of a request for a mapping over an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// The new mapping is refused (QEMU: "VIRTIO Shared Memory mapping overlap"). So a mapping that
    /// is accepted shows that the range was free.
    Refused,
    /// The new mapping replaces the old one at once, as with `mmap(MAP_FIXED)`.
    Replaced,
    /// Not tested. Both mappings may then exist in the range.
    Unknown,
}

/// The abilities of a front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Whether the front-end maps `O_RDONLY` descriptors. If not, a file that the guest must not
    /// write cannot be mapped, because only the mode of the descriptor keeps QEMU from mapping
    /// writable.
    pub read_only_descriptors: bool,
    /// Whether the front-end maps ranges that extend past the end of the file. Linux requests such
    /// a range at the end of every file with a length that is not a multiple of [`SLOT_LEN`].
    pub past_end_of_file: bool,
    /// Effect of a mapping over an existing one.
    pub overlap: Overlap,
    /// Maximum number of mappings at a time.
    pub mappings_max: usize,
    /// Whether a reset of the device removes all mappings without a message.
    pub drops_on_reset: bool,
}

impl Capabilities {
    /// Returns the abilities of QEMU 11.1, which makes one memory region for each mapping
    /// (`memory_region_init_ram_from_fd`).
    pub const fn qemu() -> Self {
        Self {
            read_only_descriptors: false,
            past_end_of_file: false,
            overlap: Overlap::Refused,
            mappings_max: QEMU_MAPPINGS_MAX,
            drops_on_reset: true,
        }
    }

    /// Returns the abilities of a front-end that reserves the window and maps into it with
    /// `mmap(MAP_FIXED)`, as crosvm does.
    pub const fn replacing() -> Self {
        Self {
            read_only_descriptors: true,
            past_end_of_file: true,
            overlap: Overlap::Replaced,
            mappings_max: REPLACING_MAPPINGS_MAX,
            drops_on_reset: false,
        }
    }

    /// Returns the abilities to assume of an untested front-end.
    pub const fn unknown() -> Self {
        Self {
            read_only_descriptors: false,
            past_end_of_file: false,
            overlap: Overlap::Unknown,
            mappings_max: QEMU_MAPPINGS_MAX,
            drops_on_reset: false,
        }
    }

    /// Returns whether to map writable, or `None` if no mapping is possible.
    ///
    /// `asked` says whether the guest asks for a writable mapping, `may_write` whether the guest
    /// may have a writable mapping of this node. In two cases a mapping is writable although the
    /// guest does not ask for it: the front-end cannot map `O_RDONLY` descriptors, or the mapping
    /// would have to be removed when the guest later asks to write. A mapping is never writable
    /// without `may_write`.
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

    /// Returns the length in bytes of the largest window in which Linux cannot exceed
    /// `mappings_max`, or 0 if that allows no slot.
    ///
    /// Linux makes at most one mapping for each slot of [`SLOT_LEN`]. It reclaims slots only when
    /// no slot is free. In a larger window Linux would exceed the limit before that, and reads
    /// would fail.
    pub fn window_len_max(&self) -> u64 {
        let slots = u64::try_from(self.mappings_max).unwrap_or(u64::MAX);
        slots.checked_ilog2().and_then(|shift| SLOT_LEN.checked_shl(shift)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_may_write_no_mapping_is_writable() {
        for capabilities in [Capabilities::qemu(), Capabilities::replacing(), Capabilities::unknown()] {
            for asked in [false, true] {
                assert_ne!(capabilities.map_writable(asked, false), Some(true));
            }
            assert_eq!(capabilities.map_writable(true, true), Some(true));
        }
    }

    #[test]
    fn qemu_maps_only_writable_files() {
        assert_eq!(Capabilities::qemu().map_writable(false, true), Some(true));
        assert_eq!(Capabilities::qemu().map_writable(false, false), None);
    }

    #[test]
    fn read_only_is_kept_if_upgrades_are_in_place() {
        assert_eq!(Capabilities::replacing().map_writable(false, true), Some(false));
        let unmaps_first = Capabilities { overlap: Overlap::Refused, ..Capabilities::replacing() };
        assert_eq!(unmaps_first.map_writable(false, true), Some(true));
        assert_eq!(unmaps_first.map_writable(false, false), Some(false));
    }

    #[test]
    fn the_largest_window_has_at_most_mappings_max_slots() {
        assert_eq!(Capabilities::qemu().window_len_max(), 256 * SLOT_LEN);
        assert_eq!(Capabilities::replacing().window_len_max(), 32 << 30);
        let of = |mappings_max| Capabilities { mappings_max, ..Capabilities::qemu() }.window_len_max();
        assert_eq!((of(0), of(1), of(7)), (0, SLOT_LEN, 4 * SLOT_LEN));
    }
}
