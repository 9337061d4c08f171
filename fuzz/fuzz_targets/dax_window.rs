//! Invariants, for any sequence of SETUPMAPPING and REMOVEMAPPING with any numbers, on a front-end of any ability, with
//! steps that are refused or never answered, files that change their length, and resets in between or in the middle:
//!
//! 1. nothing panics, and every request ends after a number of steps that what was mapped bounds;
//! 2. what the table says is mapped, the front-end has, page by page, and nothing where it says that there is nothing;
//! 3. nothing is writable that was not asked for writable, at that place, of that file;
//! 4. neither table nor front-end has more mappings than the budget;
//! 5. success means that it is so, EINVAL and ENOSPC that the front-end was not bothered;
//! 6. after a clear that succeeds nothing is left.
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
        // Each taken out, one mapped, one put back, one taken out after it; a clear in the middle goes through them again.
        let steps = trial.front_end().steps - steps_before;
        assert!(steps <= 2 * (taken + 3), "{steps} steps for {taken} mappings");
    }
    let clear = Command { event: Event::Clear, faults: Vec::new(), interruption: None };
    let cleared = trial.play(&clear);
    // A refusal has a reason: a mapping in doubt that was never there, which a strict front-end does not take out.
    if cleared == Ok(Ok(())) {
        assert!(trial.front_end().pages().iter().all(Option::is_none));
    } else {
        assert!(trial.mappings().iter().next().is_none(), "{cleared:?}");
    }
});
