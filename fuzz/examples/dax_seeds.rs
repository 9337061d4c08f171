//! Writes the seed corpus of `dax_window`: `cargo run --example dax_seeds`.
//!
//! These seeds are invented and not recorded, because a client of `/dev/fuse` has no DAX window.
//! They contain requests that Linux's driver sends (`fs/fuse/dax.c`), slot by slot, and requests
//! that it never sends. There is one set for each kind of front-end.

use pinhole_fuzz::window::{
    CLEAR, DROP_NODE, DROPS_ON_RESET, OVERLAP_REFUSED, OVERLAP_REPLACED, PAST_END_OF_FILE, RAW_REMOVE,
    RAW_SETUP, READ_ONLY_DESCRIPTORS, REMOVE, RESET, RESIZE, SETUP, WRITABLE,
};
use std::path::Path;

// Numbers of faults, as `Script::read` decodes them.
const REFUSE: u8 = 12;
const REFUSE_AND_EMPTY: u8 = 13;
const GONE_AFTER: u8 = 15;

/// Returns a record that maps the slot `file` of a node's file at the slot `place` of the window.
fn setup(node: u8, file: u8, place: u8) -> Vec<u8> {
    vec![SETUP, node, file, place, 0, 1, 0, 0]
}

/// Adds the faults of the first two steps to a record.
fn with_faults(mut record: Vec<u8>, first: u8, second: u8) -> Vec<u8> {
    record[6] = first | second << 4;
    record
}

/// Adds a reset after `steps` steps to a record.
fn interrupted(mut record: Vec<u8>, steps: u8, late: bool) -> Vec<u8> {
    record[7] = 0x81 | steps << 1 | if late { 0x40 } else { 0 };
    record
}

/// Returns a record that removes several ranges. Each has a slot of the window and a number of
/// slots.
fn remove(entries: &[(u8, u8)]) -> Vec<u8> {
    let further = u8::try_from(entries.len() - 1).expect("there are few entries");
    let mut record = vec![REMOVE, 0, entries[0].1, entries[0].0, 0, further, 0, 0];
    for (place, count) in &entries[1..] {
        record.extend([*place, 0, *count, 0]);
    }
    record
}

/// Returns a record that has only a kind and a node.
fn bare_record(kind: u8, node: u8) -> Vec<u8> {
    vec![kind, node, 0, 0, 0, 0, 0, 0]
}

/// Returns a record with numbers of 64 bits.
fn raw(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut record = bare_record(kind, WRITABLE);
    record.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    record
}

/// Returns sequences of records, with their names.
fn sequences() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let grow = |node: u8| vec![RESIZE, node, 4, 0, 0, 0, 0, 0];
    let files = || vec![grow(0), grow(1), grow(2)];
    let read = |node| (0..4).map(move |at| setup(node, at, at)).collect::<Vec<_>>();
    let upgrade = || vec![setup(1, 0, 0), setup(1 | WRITABLE, 0, 0), setup(1, 0, 0)];
    let failing = vec![
        with_faults(setup(1 | WRITABLE, 0, 0), REFUSE_AND_EMPTY, 0),
        with_faults(setup(1 | WRITABLE, 0, 0), 0, REFUSE),
        with_faults(remove(&[(0, 1), (1, 1)]), REFUSE, 0),
        setup(2, 1, 1),
        with_faults(setup(2, 2, 2), GONE_AFTER, 0),
        bare_record(CLEAR, 0),
    ];
    let resets = vec![
        interrupted(setup(2 | WRITABLE, 0, 0), 0, true),
        setup(1, 0, 0),
        interrupted(setup(1 | WRITABLE, 0, 0), 1, false),
        bare_record(RESET, 0),
    ];
    let odd = vec![
        setup(1, 0, 1),
        vec![SETUP, 2, 0, 0, 0, 4, 0, 0],
        vec![SETUP, 2, 1, 2, 0, 1, 0, 0],
        remove(&[(2, 1)]),
        remove(&[(0, 8)]),
        raw(RAW_SETUP, &[1 << 63, 0, 4096]),
        raw(RAW_REMOVE, &[0, u64::MAX]),
        raw(RAW_REMOVE, &[u64::MAX - 4095, 4096]),
    ];
    vec![
        ("reads-and-evicts", [files(), read(1), vec![remove(&[(0, 1), (1, 1), (2, 1), (3, 1)])]].concat()),
        ("reclaims", [files(), read(1), read(2), vec![remove(&[(3, 1)]), setup(1, 9, 3)]].concat()),
        ("upgrades", [files(), upgrade(), vec![bare_record(DROP_NODE, 1)]].concat()),
        ("fails", [files(), upgrade(), failing].concat()),
        ("is-reset", [files(), read(1), resets].concat()),
        ("overlaps", [files(), odd].concat()),
    ]
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/dax_window");
    std::fs::create_dir_all(&folder).expect("a corpus folder");
    let qemu = OVERLAP_REFUSED | DROPS_ON_RESET;
    let front_ends = [
        ("qemu", qemu),
        ("strict", qemu | READ_ONLY_DESCRIPTORS | PAST_END_OF_FILE),
        ("replacing", OVERLAP_REPLACED | READ_ONLY_DESCRIPTORS | PAST_END_OF_FILE),
        ("unknown", READ_ONLY_DESCRIPTORS),
    ];
    for (name, abilities) in front_ends {
        for (sequence, records) in sequences() {
            // Pages of 4 KiB, and at most eight mappings.
            let seed = [vec![abilities, 0x77, 0x00], records.concat()].concat();
            std::fs::write(folder.join(format!("{name}-{sequence}")), seed).expect("a seed");
        }
    }
}
