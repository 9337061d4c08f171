//! Do table and front-end always agree under random requests of a hostile guest?
//!
//! The front-ends have any abilities, steps fail, and resets interrupt requests. The invariants are
//! at the top of `dax-cache/src/model/trial.rs`.
#![cfg(test)]

use pinhole_dax_cache::model::{Command, Event, Fault, Interruption, PAGE_LEN, Trial};
use pinhole_dax_cache::{Capabilities, Geometry, Overlap, SLOT_LEN, Wanted};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

/// Number of places in the window that are used. It is small, so that requests overlap.
const PLACES: u64 = 8;
/// Number of nodes, from 0.
const NODES: u64 = 3;

fn any_capabilities() -> impl Strategy<Value = Capabilities> {
    let overlap = select(&[Overlap::Refused, Overlap::Replaced, Overlap::Unknown]);
    let any = (any::<bool>(), any::<bool>(), overlap, 1usize..8, any::<bool>()).prop_map(
        |(read_only_descriptors, past_end_of_file, overlap, mappings_max, drops_on_reset)| Capabilities {
            read_only_descriptors,
            past_end_of_file,
            overlap,
            mappings_max,
            drops_on_reset,
        },
    );
    prop_oneof![Just(Capabilities::qemu()), Just(Capabilities::replacing()), any]
}

/// Returns a number of bytes: mostly 0 to `max` times `unit`, rarely any number of 64 bits.
fn any_bytes(unit: u64, max: u64) -> impl Strategy<Value = u64> {
    prop_oneof![30 => (0..=max).prop_map(move |count| count * unit), 1 => any::<u64>()]
}

/// Returns an event. Most of its numbers are multiples of `unit` bytes.
fn any_event(unit: u64) -> impl Strategy<Value = Event> {
    let wanted = (0..NODES, any_bytes(unit, 3), any_bytes(unit, PLACES), any_bytes(unit, 3), any::<bool>());
    let setup = wanted.prop_map(|(node, file_offset, window_offset, len, writable)| {
        Event::Setup(Wanted { node, file_offset, window_offset, len, writable })
    });
    // As Linux does: slots of one length, always at the same offsets.
    let slot =
        (0..NODES, 0..3u64, 0..PLACES, any::<bool>()).prop_map(move |(node, file, place, writable)| {
            let (file_offset, window_offset) = (file * unit, place * unit);
            Event::Setup(Wanted { node, file_offset, window_offset, len: unit, writable })
        });
    let entry = (any_bytes(unit, PLACES), any_bytes(unit, 4));
    prop_oneof![
        6 => slot,
        4 => setup,
        4 => vec(entry, 0..4).prop_map(Event::Remove),
        1 => (0..NODES).prop_map(Event::DropNode),
        1 => Just(Event::Clear),
        1 => Just(Event::Reset),
        2 => (0..NODES, any_bytes(unit, 6)).prop_map(|(node, len)| Event::Resize { node, len }),
    ]
}

fn any_command(unit: u64) -> impl Strategy<Value = Command> {
    let fault =
        select(&[Fault::Refuse, Fault::Refuse, Fault::RefuseAndEmpty, Fault::GoneBefore, Fault::GoneAfter]);
    let faults = prop_oneof![4 => Just(Vec::new()), 1 => vec(weighted(0.5, fault), 0..5)];
    let interruption = (0usize..3, any::<bool>()).prop_map(|(steps, late)| Interruption { steps, late });
    (any_event(unit), faults, weighted(0.05, interruption))
        .prop_map(|(event, faults, interruption)| Command { event, faults, interruption })
}

/// Plays the commands in a window that is aligned to `1 << shift` bytes.
fn play(shift: u32, capabilities: Capabilities, guest_max: usize, commands: &[Command]) {
    let geometry = Geometry::new(SLOT_LEN.max(PLACES << shift), shift).unwrap();
    let mut trial = Trial::new(geometry, capabilities, guest_max);
    for node in 0..NODES {
        let event = Event::Resize { node, len: 5 << shift };
        trial.play(&Command { event, faults: Vec::new(), interruption: None }).unwrap().unwrap();
    }
    for (at, command) in commands.iter().enumerate() {
        if let Err(violation) = trial.play(command) {
            panic!("{violation}\nafter {:#?}\n{trial:?}", &commands[..=at]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_match_a_plain_array(
        capabilities in any_capabilities(),
        guest_max in 1usize..10,
        commands in vec(any_command(PAGE_LEN), 1..60),
    ) {
        play(12, capabilities, guest_max, &commands);
    }

    #[test]
    fn pages_match_with_a_coarser_alignment(
        capabilities in any_capabilities(),
        guest_max in 1usize..10,
        commands in vec(any_command(PAGE_LEN << 4), 1..60),
    ) {
        play(16, capabilities, guest_max, &commands);
    }
}
