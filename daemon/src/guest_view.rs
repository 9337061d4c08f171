//! The guest's memory for one request: all of it, which only the kernel reads and writes, and the
//! part of it that the daemon itself may read and write.
//!
//! QEMU describes each mapping of the DAX window as a memory region like any other. Behind such a
//! region is a file of the share, which any process may truncate. A thread that then touches a page
//! past its end gets SIGBUS, but `preadv2` and `pwritev2` fail with EFAULT. So only file data may
//! be in such a region: no ring, no table of descriptors, no header, no reply.

use vm_memory::GuestMemoryMmap;

/// The two views of guest memory. Without a window they are the same.
#[derive(Clone, Copy, Debug)]
pub struct GuestView<'a> {
    /// Memory that never disappears: for rings, tables, messages and replies.
    pub ram: &'a GuestMemoryMmap,
    /// `ram` and the window: for file data, only by address in system calls.
    pub all: &'a GuestMemoryMmap,
}

impl<'a> From<&'a GuestMemoryMmap> for GuestView<'a> {
    fn from(memory: &'a GuestMemoryMmap) -> Self {
        Self { ram: memory, all: memory }
    }
}
