//! Invariants for any descriptor table, at any place in guest memory, with any head:
//!
//! 1. The walk does not panic. It ends with a chain or an error.
//! 2. Its work is bounded: a chain has no more buffers than its tables have descriptors.
//! 3. Every buffer lies inside one memory region and is not empty.
//! 4. Readable buffers come before writable ones.
//! 5. The walk accepts a chain exactly if the independent walk below accepts it, and finds the same
//!    buffers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole::io_vectors::Piece;
use pinhole::limits::CHAIN_DESCRIPTORS_MAX;
use pinhole::transport::chain::{Chain, DescriptorTable};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Start and length of the memory regions: two adjacent ones, and a third one after a hole.
const REGIONS: [(u64, usize); 3] = [(0, 0x4000), (0x4000, 0x2000), (0x8000, 0x1000)];

/// Switch: indirect descriptors are negotiated.
const INDIRECT_NEGOTIATED: u8 = 1;
/// Switch: keep the addresses of descriptors. Otherwise they are reduced to less than 64 KiB, near
/// the memory regions.
const KEEP_ADDRESSES: u8 = 2;
/// Switch: keep the lengths of descriptors. Otherwise they are reduced to less than 4 KiB.
const KEEP_LENGTHS: u8 = 4;

/// An input: switches; address, count and head of the table; then runs of descriptors, each with
/// its address and count first.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// Takes the next `N` bytes.
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// Takes a number of 16 bits.
    fn number(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
}

thread_local! {
    static MEMORY: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&REGIONS.map(|(start, len)| (GuestAddress(start), len))).expect("28 KiB of memory");
}

fuzz_target!(|bytes: &[u8]| {
    MEMORY.with(|memory| {
        for (start, len) in REGIONS {
            memory.write_slice(&vec![0; len], GuestAddress(start)).expect("inside memory");
        }
        let _too_short = run(memory, Input(bytes));
    });
});

/// Writes the tables of an input into memory, and checks the walk. Returns `None` if the input is
/// too short.
fn run(memory: &GuestMemoryMmap, mut input: Input<'_>) -> Option<()> {
    let [switches] = input.take()?;
    let address = u64::from_le_bytes(input.take()?);
    let address = if switches & KEEP_ADDRESSES == 0 { address & 0xffff } else { address };
    let table = DescriptorTable { address: GuestAddress(address), count: input.number()? };
    let head = input.number()?;
    while let (Some(place), Some(count)) = (input.number(), input.number()) {
        for index in 0..u64::from(count) {
            let Some(raw) = input.take() else { break };
            // A descriptor outside of memory cannot be written.
            let _outside =
                memory.write_obj(descriptor(raw, switches), GuestAddress(u64::from(place) + index * 16));
        }
    }
    check(memory, table, head, switches & INDIRECT_NEGOTIATED != 0);
    Some(())
}

/// Returns a descriptor, reduced as the switches say.
fn descriptor(raw: [u8; 16], switches: u8) -> Descriptor {
    let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
    let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    let address = if switches & KEEP_ADDRESSES == 0 { address & 0xffff } else { address };
    let len = if switches & KEEP_LENGTHS == 0 { len & 0xfff } else { len };
    Descriptor::new(address, len, u16::from_le_bytes([f0, f1]), u16::from_le_bytes([n0, n1]))
}

/// Compares the walk with the reference.
fn check(memory: &GuestMemoryMmap, table: DescriptorTable, head: u16, indirect: bool) {
    // The chain is used twice, because a second walk must not keep anything of the first.
    let mut chain = Chain::default();
    let _before = chain.walk(memory, table, head.wrapping_add(1), indirect);
    let walked = chain.walk(memory, table, head, indirect);
    let expected = reference(memory, table, head, indirect);
    match (walked, expected) {
        (Ok(()), Some((readable, writable))) => {
            let most = usize::from(table.count) + usize::from(CHAIN_DESCRIPTORS_MAX);
            assert!(chain.readable().len() + chain.writable().len() <= most);
            assert_same(chain.readable(), &readable);
            assert_same(chain.writable(), &writable);
            assert_eq!(chain.message(memory).len(), total(&readable));
            assert_eq!(chain.room(memory).len(), total(&writable));
        }
        (Err(error), None) => assert!(!error.to_string().is_empty() && chain.is_empty()),
        (Ok(()), None) => panic!("accepted {chain:?}"),
        (Err(error), Some(_)) => panic!("refused: {error}"),
    }
}

/// Address and length in bytes of each buffer.
type Buffers = Vec<(u64, u32)>;

fn total(buffers: &Buffers) -> usize {
    buffers.iter().map(|(_, len)| usize::try_from(*len).expect("usize has 64 bits")).sum()
}

fn assert_same(pieces: &[Piece], buffers: &Buffers) {
    let pieces: Buffers = pieces.iter().map(|piece| (piece.address.0, piece.len)).collect();
    assert_eq!(&pieces, buffers);
}

/// An independent walk of a chain, as simple as possible. Returns the readable and the writable
/// buffers, or `None` if the chain is malformed.
fn reference(
    memory: &GuestMemoryMmap,
    table: DescriptorTable,
    head: u16,
    indirect: bool,
) -> Option<(Buffers, Buffers)> {
    let (mut readable, mut writable, mut bytes) = (Buffers::new(), Buffers::new(), 0u64);
    let (mut base, mut count, mut index, mut inner, mut steps) =
        (table.address.0, table.count, head, false, 0u32);
    loop {
        if index >= count || steps >= u32::from(count) {
            return None;
        }
        let at = base.checked_add(u64::from(index) * 16)?;
        let descriptor: Descriptor = memory.read_obj(GuestAddress(at)).ok()?;
        let (address, len, flags) = (descriptor.addr().0, descriptor.len(), descriptor.flags());
        if flags & INDIRECT != 0 {
            if !indirect || inner || flags & NEXT != 0 || len == 0 || !len.is_multiple_of(16) {
                return None;
            }
            count = u16::try_from(len / 16).ok().filter(|count| *count <= CHAIN_DESCRIPTORS_MAX)?;
            (base, index, inner, steps) = (address, 0, true, 0);
            continue;
        }
        let end = address.checked_add(u64::from(len))?;
        let inside = REGIONS.iter().any(|(start, region)| address >= *start && end <= start + *region as u64);
        bytes += u64::from(len);
        if len == 0 || !inside || bytes > u64::from(u32::MAX) {
            return None;
        }
        if flags & WRITE != 0 {
            writable.push((address, len));
        } else if writable.is_empty() {
            readable.push((address, len));
        } else {
            return None;
        }
        if flags & NEXT == 0 {
            return Some((readable, writable));
        }
        (index, steps) = (descriptor.next(), steps + 1);
    }
}
