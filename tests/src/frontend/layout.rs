//! The layout of the guest's memory and of a request in it.

/// Length of an out header in bytes.
pub const OUT_HEADER_LEN: usize = 16;

/// Physical address of the guest's memory. It is not 0, so that tests notice an address that was
/// not translated.
pub const MEMORY_START: u64 = 0x10_0000;

/// Length of the guest's memory in bytes. The host allocates only pages that are used.
pub const MEMORY_LEN: u64 = 128 << 20;

/// Length of the memory of one queue in bytes: ring, tables and buffers.
pub const QUEUE_LEN: u64 = 8 << 20;

/// Layout of a request in descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whether one indirect descriptor leads to the others.
    pub indirect: bool,
    /// Largest length of one descriptor in bytes.
    pub descriptor_len_max: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { indirect: false, descriptor_len_max: 1 << 20 }
    }
}
