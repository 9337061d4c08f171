//! A checked walk of one descriptor chain of a split virtqueue (virtio 1.3, 2.7.5).
//!
//! The guest's memory is hostile: every malformed chain is an error with a name, never a chain that
//! ends early. The walk reads each descriptor from guest memory once. Its result holds checked
//! addresses and no reference into guest memory, so a chain can wait and move to another thread.

use crate::guest_view::GuestView;
use crate::io_vectors::{IoVectors, Piece};
use crate::limits::CHAIN_DESCRIPTORS_MAX;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{
    Address as _, Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
    VolatileMemory as _, VolatileSlice,
};

/// Bytes of one descriptor.
const DESCRIPTOR_LEN: u32 = 16;

/// Reason why a chain is malformed. Only that request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A descriptor index that the table does not have.
    #[error("descriptor {index} of a table of {count}")]
    IndexOutOfRange {
        /// The index.
        index: u16,
        /// Descriptors in that table.
        count: u16,
    },
    /// More descriptors than the table has: a loop.
    #[error("more than {limit} descriptors in one chain: a loop, or too long")]
    TooLong {
        /// Largest permitted number of descriptors.
        limit: u16,
    },
    /// A descriptor of a table lies outside memory.
    #[error("no descriptor table at {address:#x}")]
    TableOutsideMemory {
        /// Guest physical address of the descriptor.
        address: u64,
    },
    /// A buffer of length 0.
    #[error("descriptor {index} has no length")]
    ZeroLength {
        /// The descriptor.
        index: u16,
    },
    /// A buffer that begins in no memory region.
    #[error("buffer at {address:#x} lies outside memory")]
    OutsideMemory {
        /// Guest physical address.
        address: u64,
    },
    /// A buffer that begins in one memory region and does not end in it.
    #[error("buffer of {len} bytes at {address:#x} crosses the end of a memory region")]
    CrossesRegion {
        /// Guest physical address.
        address: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A readable buffer after a writable one (virtio 1.3, 2.7.4.2).
    #[error("descriptor {index} is readable but follows a writable one")]
    ReadableAfterWritable {
        /// The descriptor.
        index: u16,
    },
    /// An indirect table without the feature `VIRTIO_F_RING_INDIRECT_DESC`.
    #[error("indirect descriptor without VIRTIO_F_RING_INDIRECT_DESC")]
    IndirectNotNegotiated,
    /// An indirect table within an indirect table.
    #[error("indirect descriptor inside an indirect table")]
    NestedIndirect,
    /// An indirect table that is not the end of its chain.
    #[error("indirect descriptor with a next descriptor")]
    IndirectWithNext,
    /// An indirect table whose length is 0, too large, or not a multiple of a descriptor's length.
    #[error("indirect table of {len} bytes")]
    IndirectLength {
        /// Length in bytes.
        len: u32,
    },
    /// More bytes than virtio allows in one chain (2^32).
    #[error("more than 4 GiB in one chain")]
    TooManyBytes,
}

/// The descriptor table of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Guest physical address of descriptor 0.
    pub address: GuestAddress,
    /// Number of descriptors.
    pub count: u16,
}

/// The buffers of one request. A value is used for one request after another and keeps its memory,
/// so a request allocates nothing. The memory is never more than the longest chain needs.
#[derive(Debug, Default)]
pub struct Chain {
    /// First the buffers of the message, then those for the reply, each in order.
    pieces: Vec<Piece>,
    readable_count: usize,
    bytes: u32,
}

impl Chain {
    /// Replaces the buffers with those of the chain that begins at descriptor `head` of `table`.
    /// `indirect` says whether `VIRTIO_F_RING_INDIRECT_DESC` was negotiated.
    ///
    /// # Errors
    /// The first error of a malformed chain. Then there are no buffers.
    pub fn walk<'m>(
        &mut self,
        memory: impl Into<GuestView<'m>>,
        table: DescriptorTable,
        head: u16,
        indirect: bool,
    ) -> Result<(), ChainError> {
        self.clear();
        let mut walk = Walk { memory: memory.into(), chain: self };
        let walked = match walk.follow(table, head, indirect) {
            Ok(Some(inner)) => walk.follow_indirect(inner),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if walked.is_err() {
            self.clear();
        }
        walked
    }

    fn clear(&mut self) {
        self.pieces.clear();
        (self.readable_count, self.bytes) = (0, 0);
    }

    /// Returns the buffers of the message, in order.
    pub fn readable(&self) -> &[Piece] {
        self.pieces.get(..self.readable_count).unwrap_or_default()
    }

    /// Returns the buffers for the reply, in order.
    pub fn writable(&self) -> &[Piece] {
        self.pieces.get(self.readable_count..).unwrap_or_default()
    }

    /// Returns the message in `memory`, which may be newer than the memory that was walked. The
    /// message ends before the first piece that is no longer in memory.
    pub fn message<'a>(&'a self, memory: impl Into<GuestView<'a>>) -> IoVectors<'a> {
        IoVectors::guest(memory, self.readable())
    }

    /// Returns the space for the reply in `memory`, under the same rule as [`Chain::message`].
    pub fn room<'a>(&'a self, memory: impl Into<GuestView<'a>>) -> IoVectors<'a> {
        IoVectors::guest(memory, self.writable())
    }

    /// Returns the number of bytes of the message and of the space for the reply.
    pub const fn len(&self) -> u32 {
        self.bytes
    }

    /// Returns whether there is no buffer.
    pub const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns the number of bytes of the daemon's memory that the chain takes.
    pub const fn footprint(&self) -> usize {
        self.pieces.capacity().saturating_mul(size_of::<Piece>())
    }
}

struct Walk<'m, 'c> {
    memory: GuestView<'m>,
    chain: &'c mut Chain,
}

/// The memory of a table. `None`: the table is not in one region, which no well-behaved guest does.
type TableMemory<'m> = Option<VolatileSlice<'m>>;

impl<'m> Walk<'m, '_> {
    /// Follows one table to its end, or to the indirect table that ends it.
    fn follow(
        &mut self,
        table: DescriptorTable,
        head: u16,
        indirect: bool,
    ) -> Result<Option<DescriptorTable>, ChainError> {
        let memory = self.table_memory(table);
        let mut index = head;
        for _ in 0..table.count {
            let descriptor = self.read(table, memory, index)?;
            if has(descriptor, VRING_DESC_F_INDIRECT) {
                return if indirect {
                    inner_table(descriptor).map(Some)
                } else {
                    Err(ChainError::IndirectNotNegotiated)
                };
            }
            self.take(descriptor, index)?;
            if !has(descriptor, VRING_DESC_F_NEXT) {
                return Ok(None);
            }
            index = descriptor.next();
        }
        // The chain is a loop, or the table is empty. `read` refuses a head that the table does not
        // have.
        Err(ChainError::TooLong { limit: table.count })
    }

    fn follow_indirect(&mut self, table: DescriptorTable) -> Result<(), ChainError> {
        let memory = self.table_memory(table);
        let mut index = 0;
        for _ in 0..table.count {
            let descriptor = self.read(table, memory, index)?;
            if has(descriptor, VRING_DESC_F_INDIRECT) {
                return Err(ChainError::NestedIndirect);
            }
            self.take(descriptor, index)?;
            if !has(descriptor, VRING_DESC_F_NEXT) {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(ChainError::TooLong { limit: table.count })
    }

    fn table_memory(&self, table: DescriptorTable) -> TableMemory<'m> {
        let len = usize::from(table.count).saturating_mul(size_of::<Descriptor>());
        self.memory.ram.get_slice(table.address, len).ok()
    }

    fn read(
        &self,
        table: DescriptorTable,
        memory: TableMemory<'_>,
        index: u16,
    ) -> Result<Descriptor, ChainError> {
        if index >= table.count {
            return Err(ChainError::IndexOutOfRange { index, count: table.count });
        }
        let at = usize::from(index).saturating_mul(size_of::<Descriptor>());
        if let Some(Ok(place)) = memory.as_ref().map(|memory| memory.get_ref(at)) {
            return Ok(place.load());
        }
        let outside = ChainError::TableOutsideMemory { address: table.address.raw_value() };
        let offset = u64::from(index) * u64::from(DESCRIPTOR_LEN);
        let address = table.address.checked_add(offset).ok_or(outside)?;
        match self.memory.ram.read_obj(address) {
            Ok(descriptor) => Ok(descriptor),
            Err(_) => Err(ChainError::TableOutsideMemory { address: address.raw_value() }),
        }
    }

    fn take(&mut self, descriptor: Descriptor, index: u16) -> Result<(), ChainError> {
        let len = descriptor.len();
        if len == 0 {
            return Err(ChainError::ZeroLength { index });
        }
        let chain = &mut *self.chain;
        let writable = has(descriptor, VRING_DESC_F_WRITE);
        if !writable && chain.readable_count < chain.pieces.len() {
            return Err(ChainError::ReadableAfterWritable { index });
        }
        chain.bytes = chain.bytes.checked_add(len).ok_or(ChainError::TooManyBytes)?;
        inside(self.memory.all, descriptor.addr(), len)?;
        chain.pieces.push(Piece { address: descriptor.addr(), len });
        if !writable {
            chain.readable_count = chain.pieces.len();
        }
        Ok(())
    }
}

/// Checks that one buffer is in memory. Two regions that touch are two mappings of the host, so a
/// buffer across their border is refused. No well-behaved guest makes one.
fn inside(memory: &GuestMemoryMmap, address: GuestAddress, len: u32) -> Result<(), ChainError> {
    let Some(region) = memory.find_region(address) else {
        return Err(ChainError::OutsideMemory { address: address.raw_value() });
    };
    let to_end = region.last_addr().unchecked_offset_from(address);
    if u64::from(len).saturating_sub(1) > to_end {
        return Err(ChainError::CrossesRegion { address: address.raw_value(), len });
    }
    Ok(())
}

fn inner_table(descriptor: Descriptor) -> Result<DescriptorTable, ChainError> {
    if has(descriptor, VRING_DESC_F_NEXT) {
        return Err(ChainError::IndirectWithNext);
    }
    let len = descriptor.len();
    let count = u16::try_from(len / DESCRIPTOR_LEN).unwrap_or(u16::MAX);
    if len == 0 || !len.is_multiple_of(DESCRIPTOR_LEN) || count > CHAIN_DESCRIPTORS_MAX {
        return Err(ChainError::IndirectLength { len });
    }
    Ok(DescriptorTable { address: descriptor.addr(), count })
}

fn has(descriptor: Descriptor, flag: u32) -> bool {
    u32::from(descriptor.flags()) & flag != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: DescriptorTable = DescriptorTable { address: GuestAddress(0x1000), count: 8 };
    // The ring's own flags are 16 bits wide, the constants of the bindings 32.
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    /// Two regions that touch at 0x10000, and nothing from 0x20000 on.
    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(0x10000), 0x10000)]).unwrap()
    }

    fn put(memory: &GuestMemoryMmap, at: u64, descriptors: &[(u64, u32, u16, u16)]) {
        for (index, (address, len, flags, next)) in descriptors.iter().enumerate() {
            let place = GuestAddress(at + index as u64 * 16);
            memory.write_obj(Descriptor::new(*address, *len, *flags, *next), place).unwrap();
        }
    }

    fn error_of(descriptors: &[(u64, u32, u16, u16)]) -> ChainError {
        let memory = memory();
        put(&memory, 0x1000, descriptors);
        Chain::default().walk(&memory, TABLE, 0, true).unwrap_err()
    }

    fn lens(pieces: &[Piece]) -> Vec<u32> {
        pieces.iter().map(|piece| piece.len).collect()
    }

    #[test]
    fn chain_has_readable_then_writable_buffers_in_order() {
        let memory = memory();
        let chain = [(0x2000, 40, NEXT, 3), (0, 0, 0, 0), (0, 0, 0, 0), (0x3000, 8, NEXT, 1), (0, 0, 0, 0)];
        put(&memory, 0x1000, &chain);
        put(&memory, 0x1010, &[(0x4000, 16, NEXT | WRITE, 2), (0x5000, 104, WRITE, 0)]);
        let mut chain = Chain::default();
        chain.walk(&memory, TABLE, 0, false).unwrap();
        assert_eq!((lens(chain.readable()), lens(chain.writable())), (vec![40, 8], vec![16, 104]));
        assert_eq!((chain.message(&memory).len(), chain.room(&memory).len(), chain.len()), (48, 120, 168));
    }

    #[test]
    fn walk_forgets_the_chain_before() {
        let memory = memory();
        put(&memory, 0x1000, &[(0x2000, 40, NEXT, 1), (0x4000, 16, WRITE, 0), (0x3000, 50, 0, 0)]);
        let mut chain = Chain::default();
        chain.walk(&memory, TABLE, 0, false).unwrap();
        chain.walk(&memory, TABLE, 2, false).unwrap();
        assert_eq!((lens(chain.readable()), lens(chain.writable()), chain.len()), (vec![50], vec![], 50));
        put(&memory, 0x1000, &[(0x2000, 40, NEXT, 1), (0x4000, 16, WRITE | NEXT, 2)]);
        chain.walk(&memory, TABLE, 0, false).unwrap_err();
        assert!(chain.is_empty() && chain.readable().is_empty());
        assert_eq!(chain.len(), 0);
    }

    #[test]
    fn an_indirect_table_continues_the_chain() {
        let memory = memory();
        put(&memory, 0x1000, &[(0x2000, 40, NEXT, 1), (0x6000, 32, INDIRECT | WRITE, 0)]);
        put(&memory, 0x6000, &[(0x3000, 8, NEXT, 1), (0x4000, 16, WRITE, 0)]);
        let mut chain = Chain::default();
        chain.walk(&memory, TABLE, 0, true).unwrap();
        assert_eq!((chain.message(&memory).len(), chain.room(&memory).len()), (48, 16));
    }

    #[test]
    fn every_malformed_chain_has_its_own_error() {
        assert_eq!(error_of(&[(0x2000, 4, NEXT, 8)]), ChainError::IndexOutOfRange { index: 8, count: 8 });
        assert_eq!(error_of(&[(0x2000, 4, NEXT, 0)]), ChainError::TooLong { limit: 8 });
        assert_eq!(error_of(&[(0x2000, 0, 0, 0)]), ChainError::ZeroLength { index: 0 });
        assert_eq!(error_of(&[(0x20000, 4, 0, 0)]), ChainError::OutsideMemory { address: 0x20000 });
        assert_eq!(error_of(&[(u64::MAX, 4, 0, 0)]), ChainError::OutsideMemory { address: u64::MAX });
        assert_eq!(error_of(&[(0xfffe, 4, 0, 0)]), ChainError::CrossesRegion { address: 0xfffe, len: 4 });
        assert_eq!(
            error_of(&[(0x1fffe, u32::MAX, 0, 0)]),
            ChainError::CrossesRegion { address: 0x1fffe, len: u32::MAX }
        );
        assert_eq!(
            error_of(&[(0x2000, 4, NEXT | WRITE, 1), (0x2000, 4, 0, 0)]),
            ChainError::ReadableAfterWritable { index: 1 }
        );
        assert_eq!(error_of(&[(0x6000, 16, INDIRECT | NEXT, 1)]), ChainError::IndirectWithNext);
        for len in [0, 15, 17, u32::MAX, 16 * (u32::from(CHAIN_DESCRIPTORS_MAX) + 1)] {
            assert_eq!(error_of(&[(0x6000, len, INDIRECT, 0)]), ChainError::IndirectLength { len });
        }
        assert_eq!(
            error_of(&[(0x30000, 16, INDIRECT, 0)]),
            ChainError::TableOutsideMemory { address: 0x30000 }
        );
    }

    #[test]
    fn an_indirect_table_is_checked_like_any_other() {
        let within = |inner: &[(u64, u32, u16, u16)]| {
            let memory = memory();
            put(&memory, 0x1000, &[(0x6000, 32, INDIRECT, 0)]);
            put(&memory, 0x6000, inner);
            Chain::default().walk(&memory, TABLE, 0, true).unwrap_err()
        };
        assert_eq!(within(&[(0x6000, 16, INDIRECT, 0)]), ChainError::NestedIndirect);
        assert_eq!(within(&[(0x2000, 4, NEXT, 2)]), ChainError::IndexOutOfRange { index: 2, count: 2 });
        assert_eq!(within(&[(0x2000, 4, NEXT, 0)]), ChainError::TooLong { limit: 2 });
    }

    #[test]
    fn an_indirect_table_that_was_not_negotiated_is_refused() {
        let memory = memory();
        put(&memory, 0x1000, &[(0x6000, 16, INDIRECT, 0)]);
        assert_eq!(
            Chain::default().walk(&memory, TABLE, 0, false).unwrap_err(),
            ChainError::IndirectNotNegotiated
        );
    }

    #[test]
    fn table_at_the_end_of_the_address_space_is_refused() {
        let table = DescriptorTable { address: GuestAddress(u64::MAX - 15), count: 8 };
        let memory = memory();
        for head in 0..8 {
            assert!(matches!(
                Chain::default().walk(&memory, table, head, true).unwrap_err(),
                ChainError::TableOutsideMemory { .. }
            ));
        }
    }
}
