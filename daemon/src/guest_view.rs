//! A guest's memory as one request uses it: what the daemon itself may read and write, and what only the kernel may.
//!
//! A front-end that keeps the DAX window as memory of the guest (QEMU) describes each mapping as a region like any other.
//! Behind such a region is a file of the share, which anybody may cut: whoever then touches a page behind its end is sent
//! SIGBUS. `preadv2` and `pwritev2` answer EFAULT instead. So data may lie there, and nothing else: no ring, no table of
//! descriptors, no header, no reply.

use vm_memory::GuestMemoryMmap;

/// The two views. Without a window they are one.
#[derive(Clone, Copy, Debug)]
pub struct GuestView<'a> {
    /// Memory that nobody takes away: for rings, tables, messages and replies.
    pub ram: &'a GuestMemoryMmap,
    /// That and the window's: for data, by its addresses, and for system calls alone.
    pub all: &'a GuestMemoryMmap,
}

impl<'a> From<&'a GuestMemoryMmap> for GuestView<'a> {
    fn from(memory: &'a GuestMemoryMmap) -> Self {
        Self { ram: memory, all: memory }
    }
}
