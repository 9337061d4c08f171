//! Inputs of `dax_window`: three bytes for the front-end and the window, then records of eight
//! bytes. Some kinds of records have more bytes after these eight.
//!
//! Most numbers are small and count units of the window's alignment, so that most mutated inputs
//! still concern the same places. "Raw" records have numbers of 64 bits, in bytes.

use pinhole_dax_cache::model::{Command, Event, Fault, Interruption, PAGE_LEN};
use pinhole_dax_cache::{Capabilities, Geometry, Overlap, SLOT_LEN, Wanted};

/// Maximum number of commands of one input: enough to spend the budget several times.
const COMMANDS_MAX: usize = 128;

/// A decoded input.
#[derive(Debug)]
pub struct Script {
    /// Length and alignment of the window.
    pub geometry: Geometry,
    /// Abilities of the front-end.
    pub capabilities: Capabilities,
    /// Maximum number of mappings of the guest.
    pub guest_mappings_max: usize,
    /// Commands in their order.
    pub commands: Vec<Command>,
}

/// Record kind: SETUPMAPPING with small numbers.
pub const SETUP: u8 = 0;
/// Record kind: SETUPMAPPING. `foffset`, `moffset` and `len` follow.
pub const RAW_SETUP: u8 = 1;
/// Record kind: REMOVEMAPPING with small numbers. The record has the first entry: its window
/// offset, and its length in the byte for the file offset. Further entries follow, as many as the
/// length byte modulo 8. Each has four bytes: window offset (two bytes), length, and one unused
/// byte.
pub const REMOVE: u8 = 2;
/// Record kind: REMOVEMAPPING. `moffset` and `len` of one entry follow.
pub const RAW_REMOVE: u8 = 3;
/// Record kind: removes the mappings of a node.
pub const DROP_NODE: u8 = 4;
/// Record kind: removes all mappings, as INIT and DESTROY do.
pub const CLEAR: u8 = 5;
/// Record kind: resets the device.
pub const RESET: u8 = 6;
/// Record kind: sets the length of a node's file. The new length is the sum of three numbers: 16
/// times the file offset, the length, and the low byte of the window offset as a number of bytes.
pub const RESIZE: u8 = 7;
/// Number of record kinds.
const KINDS: u8 = 8;

/// Flag of the first byte: [`Capabilities::read_only_descriptors`].
pub const READ_ONLY_DESCRIPTORS: u8 = 1;
/// Flag of the first byte: [`Capabilities::past_end_of_file`].
pub const PAST_END_OF_FILE: u8 = 2;
/// Flag of the first byte: [`Capabilities::drops_on_reset`].
pub const DROPS_ON_RESET: u8 = 4;
/// Flag of the first byte: [`Overlap::Refused`]. With none or both of the overlap flags, the
/// overlap is [`Overlap::Unknown`].
pub const OVERLAP_REFUSED: u8 = 8;
/// Flag of the first byte: [`Overlap::Replaced`].
pub const OVERLAP_REPLACED: u8 = 16;
/// Flag of a record's second byte, beside the node: the mapping is writable.
pub const WRITABLE: u8 = 0x80;

impl Script {
    /// Decodes an input. Returns `None` if the input is shorter than three bytes.
    pub fn read(input: &[u8]) -> Option<Self> {
        let (&[abilities, budgets, shape], mut rest) = input.split_first_chunk()?;
        let overlap = match abilities & (OVERLAP_REFUSED | OVERLAP_REPLACED) {
            OVERLAP_REFUSED => Overlap::Refused,
            OVERLAP_REPLACED => Overlap::Replaced,
            _ => Overlap::Unknown,
        };
        let capabilities = Capabilities {
            read_only_descriptors: abilities & READ_ONLY_DESCRIPTORS != 0,
            past_end_of_file: abilities & PAST_END_OF_FILE != 0,
            overlap,
            mappings_max: usize::from(budgets & 15) + 1,
            drops_on_reset: abilities & DROPS_ON_RESET != 0,
        };
        let shift = 12 + u32::from(shape & 15) % 10;
        let geometry = Geometry::new(SLOT_LEN << (shape >> 7), shift).ok()?;
        let mut commands = Vec::new();
        while commands.len() < COMMANDS_MAX
            && let Some(command) = decode_command(geometry.alignment(), &mut rest)
        {
            commands.push(command);
        }
        let guest_mappings_max = usize::from(budgets >> 4) + 1;
        Some(Self { geometry, capabilities, guest_mappings_max, commands })
    }
}

/// Decodes a record. Its bytes are: kind, node and [`WRITABLE`], file offset, window offset (two
/// bytes), length, faults, interruption. Offsets and length count units of `unit` bytes.
///
/// A reset interrupts the command if the lowest and the highest bit of the interruption byte are
/// set. Bits 1 and 2 are then [`Interruption::steps`], and bit 6 is [`Interruption::late`].
fn decode_command(unit: u64, rest: &mut &[u8]) -> Option<Command> {
    let [kind, node, file, low, high, len, faults, interruption] = take(rest)?;
    let writable = node & WRITABLE != 0;
    let node = u64::from(node & 3);
    let place = u64::from(u16::from_le_bytes([low, high])) * unit;
    let (file, len_bytes) = (u64::from(file) * unit, u64::from(len) * unit);
    let event = match kind % KINDS {
        SETUP => {
            Event::Setup(Wanted { node, file_offset: file, window_offset: place, len: len_bytes, writable })
        }
        RAW_SETUP => {
            let [file_offset, window_offset, len] = [number(rest)?, number(rest)?, number(rest)?];
            Event::Setup(Wanted { node, file_offset, window_offset, len, writable })
        }
        REMOVE => {
            let mut entries = vec![(place, file)];
            for _ in 0..len % 8 {
                let [low, high, count, _] = take(rest)?;
                let place = u64::from(u16::from_le_bytes([low, high])) * unit;
                entries.push((place, u64::from(count) * unit));
            }
            Event::Remove(entries)
        }
        RAW_REMOVE => Event::Remove(vec![(number(rest)?, number(rest)?)]),
        DROP_NODE => Event::DropNode(node),
        CLEAR => Event::Clear,
        RESET => Event::Reset,
        _ => Event::Resize { node, len: file * 16 + len_bytes + u64::from(low) % PAGE_LEN },
    };
    let faults = [fault(faults & 15), fault(faults >> 4)].into();
    let interruption = (interruption & 0x81 == 0x81)
        .then(|| Interruption { steps: usize::from(interruption >> 1 & 3), late: interruption & 0x40 != 0 });
    Some(Command { event, faults, interruption })
}

/// Decodes a fault, in four bits. Most values mean no fault.
fn fault(number: u8) -> Option<Fault> {
    match number {
        12 => Some(Fault::Refuse),
        13 => Some(Fault::RefuseAndEmpty),
        14 => Some(Fault::GoneBefore),
        15 => Some(Fault::GoneAfter),
        _ => None,
    }
}

/// Takes a number of 64 bits.
fn number(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

/// Takes the next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}
