//! Rules by which VMMs map files into a DAX window. They come from the sources of the VMMs and from
//! the behavior of QEMU 11.1.

/// Reaction of a VMM to a range that is already mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// QEMU: the request is refused.
    Refused,
    /// `mmap(MAP_FIXED)`: the new mapping replaces the old one.
    Replaced,
}

/// Rights of a VMM's mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The rights that the message asks for.
    AsAsked,
    /// Readable and writable, whatever the message says (QEMU: `memory_region_init_ram_from_fd`).
    /// An `O_RDONLY` descriptor then cannot be mapped.
    Writable,
    /// Readable and writable if the descriptor allows it, otherwise readable. Such a VMM gives a
    /// hostile guest every right that the descriptor allows.
    AsDescriptor,
}

/// Rules of one VMM.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Reaction to a mapping over an earlier one.
    pub overlap: Overlap,
    /// Whether the VMM refuses an unmap whose range is not exactly one earlier mapping.
    pub exact_unmap: bool,
    /// Whether a range beyond the end of the file is mapped.
    pub past_end_of_file: bool,
    /// Rights of a mapping.
    pub protection: Protection,
    /// Largest number of mappings at the same time.
    pub mappings_max: usize,
    /// Whether each mapping is guest memory that the VMM announces to the daemon before its reply
    /// (`ADD_MEM_REG`, `REM_MEM_REG`).
    pub announces_memory: bool,
    /// Whether a reset of the device removes all mappings.
    pub drops_on_reset: bool,
}

impl Rules {
    /// Returns the rules of QEMU 11.1.
    pub const fn strict() -> Self {
        Self {
            overlap: Overlap::Refused,
            exact_unmap: true,
            past_end_of_file: false,
            protection: Protection::Writable,
            mappings_max: 480,
            announces_memory: true,
            drops_on_reset: true,
        }
    }

    /// Returns the rules of a VMM that reserves the window and maps into it, as crosvm does.
    pub const fn mapping() -> Self {
        Self {
            overlap: Overlap::Replaced,
            exact_unmap: false,
            past_end_of_file: true,
            protection: Protection::AsAsked,
            mappings_max: usize::MAX,
            announces_memory: false,
            drops_on_reset: false,
        }
    }

    /// Returns the rules of [`Rules::mapping`], but with all rights that the descriptor allows.
    pub const fn greedy() -> Self {
        Self { protection: Protection::AsDescriptor, ..Self::mapping() }
    }
}
