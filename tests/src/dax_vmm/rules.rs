//! Differences between VMMs in what they map, as their sources say and as QEMU 11.1 does.

/// What a VMM does with a range that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// QEMU: the request is refused.
    Refused,
    /// `mmap(MAP_FIXED)`: the new mapping is there and the old one is not.
    Replaced,
}

/// With which rights a VMM maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// With those that the message asks for.
    AsAsked,
    /// To be read and written, whatever the message says (QEMU: `memory_region_init_ram_from_fd`).
    /// A descriptor that is `O_RDONLY` then cannot be mapped at all.
    Writable,
    /// To be read and written if the descriptor allows it, else to be read: a VMM that is on the
    /// guest's side.
    AllThereIs,
}

/// One VMM.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A second mapping over a first.
    pub overlap: Overlap,
    /// An unmap is refused unless it names one earlier mapping, neither more nor less.
    pub exact_unmap: bool,
    /// A range that ends behind the end of the file is mapped.
    pub past_end_of_file: bool,
    /// Rights of a mapping.
    pub protection: Protection,
    /// Mappings at once.
    pub mappings_max: usize,
    /// Each mapping is guest memory, of which the daemon is told before the answer (`ADD_MEM_REG`,
    /// `REM_MEM_REG`).
    pub tells_memory: bool,
    /// A reset of the device takes out everything.
    pub drops_on_reset: bool,
}

impl Rules {
    /// QEMU 11.1.
    pub const fn strict() -> Self {
        Self {
            overlap: Overlap::Refused,
            exact_unmap: true,
            past_end_of_file: false,
            protection: Protection::Writable,
            mappings_max: 480,
            tells_memory: true,
            drops_on_reset: true,
        }
    }

    /// A VMM that reserves the window and maps into it, as crosvm does.
    pub const fn mapping() -> Self {
        Self {
            overlap: Overlap::Replaced,
            exact_unmap: false,
            past_end_of_file: true,
            protection: Protection::AsAsked,
            mappings_max: usize::MAX,
            tells_memory: false,
            drops_on_reset: false,
        }
    }

    /// The same, but it gives the guest what it can.
    pub const fn greedy() -> Self {
        Self { protection: Protection::AllThereIs, ..Self::mapping() }
    }
}
