//! An input as traffic about a DAX window: a front-end in three bytes, then records of eight, some with more behind.
//!
//! Numbers are small and count units of the window's alignment, so that most of what a mutation leaves still meets
//! something; records that begin "raw" carry them as 64 bits.

use pinhole_dax_cache::model::{Command, Event, Fault, Interruption, PAGE_LEN};
use pinhole_dax_cache::{Capabilities, Geometry, Overlap, SLOT_LEN, Wanted};

/// Commands of one input: enough to fill the window and come back to all of it.
const COMMANDS_MAX: usize = 128;

/// What is arbitrary before the first command.
#[derive(Debug)]
pub struct Script {
    /// The window.
    pub geometry: Geometry,
    /// The front-end.
    pub capabilities: Capabilities,
    /// The policy's budget.
    pub guest_mappings_max: usize,
    /// What happens.
    pub commands: Vec<Command>,
}

/// Kinds of records, as they are written.
pub const SETUP: u8 = 0;
/// Followed by `foffset`, `moffset` and `len`.
pub const RAW_SETUP: u8 = 1;
/// Followed by as many further entries as the record's length says, of four bytes.
pub const REMOVE: u8 = 2;
/// Followed by `moffset` and `len` of one entry.
pub const RAW_REMOVE: u8 = 3;
/// Takes out a node.
pub const DROP_NODE: u8 = 4;
/// INIT or DESTROY.
pub const CLEAR: u8 = 5;
/// The device.
pub const RESET: u8 = 6;
/// Of a node's file.
pub const RESIZE: u8 = 7;
const KINDS: u8 = 8;

/// Front-ends in the first byte.
pub const READ_ONLY_DESCRIPTORS: u8 = 1;
/// As above.
pub const PAST_END_OF_FILE: u8 = 2;
/// As above.
pub const DROPS_ON_RESET: u8 = 4;
/// As above; neither this nor the next: unknown.
pub const OVERLAP_REFUSED: u8 = 8;
/// As above.
pub const OVERLAP_REPLACED: u8 = 16;
/// In a record's second byte, beside the node.
pub const WRITABLE: u8 = 0x80;

impl Script {
    /// Reads an input; `None` if it is too short to say anything.
    pub fn read(input: &[u8]) -> Option<Self> {
        let (&[abilities, budgets, measures], mut rest) = input.split_first_chunk()?;
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
        let shift = 12 + u32::from(measures & 15) % 10;
        let geometry = Geometry::new(SLOT_LEN << (measures >> 7), shift).ok()?;
        let mut commands = Vec::new();
        while commands.len() < COMMANDS_MAX
            && let Some(command) = command(geometry.alignment(), &mut rest)
        {
            commands.push(command);
        }
        let guest_mappings_max = usize::from(budgets >> 4) + 1;
        Some(Self { geometry, capabilities, guest_mappings_max, commands })
    }
}

/// A record: kind, node and [`WRITABLE`], file offset, place (two bytes), length, faults, interruption.
fn command(unit: u64, rest: &mut &[u8]) -> Option<Command> {
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

fn fault(number: u8) -> Option<Fault> {
    match number {
        12 => Some(Fault::Refuse),
        13 => Some(Fault::RefuseAndEmpty),
        14 => Some(Fault::GoneBefore),
        15 => Some(Fault::GoneAfter),
        _ => None,
    }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}
