//! Invariants for any sequence of SETUPMAPPING and REMOVEMAPPING with any numbers, on any kind of
//! front-end. Steps may be refused or never answered, files may change their length, and the device
//! may be reset between or during requests.
//!
//! 1. Nothing panics. Every request ends, after a number of steps that is bounded by the number of
//!    mappings.
//! 2. The front-end has exactly the pages of the table's mappings. In a range that the table calls
//!    doubtful, the front-end may have any pages.
//! 3. A page is writable only if the guest requested that part of the file writable at that place
//!    of the window.
//! 4. Neither the table nor the front-end has more mappings than the budget.
//! 5. After a success, the request is carried out. After EINVAL or ENOSPC, no step was sent to the
//!    front-end.
//! 6. After a successful clear, nothing is mapped.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole_dax_cache::model::{Command, Event, Trial};
use pinhole_fuzz::window::Script;

fuzz_target!(|input: &[u8]| {
    let Some(script) = Script::read(input) else { return };
    let mut trial = Trial::new(script.geometry, script.capabilities, script.guest_mappings_max);
    for command in &script.commands {
        let steps_before = trial.front_end().steps;
        let taken = trial.mappings().taken();
        if let Err(disagreement) = trial.play(command) {
            panic!("{disagreement}\nafter {command:#?}\n{trial:?}");
        }
        // At most, a request removes each mapping, makes the new mapping, restores the old mapping,
        // and removes it. A clear that interrupts the request can double this.
        let steps = trial.front_end().steps - steps_before;
        assert!(steps <= 2 * (taken + 3), "{steps} steps for {taken} mappings");
    }
    let clear = Command { event: Event::Clear, faults: Vec::new(), interruption: None };
    let cleared = trial.play(&clear);
    // A clear may fail because of a doubtful mapping that does not exist: a strict front-end
    // refuses to remove it.
    if cleared == Ok(Ok(())) {
        assert!(trial.front_end().pages().iter().all(Option::is_none));
    } else {
        assert!(trial.mappings().iter().next().is_none(), "{cleared:?}");
    }
});
