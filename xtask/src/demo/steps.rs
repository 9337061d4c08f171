//! What every demo does: builds pinhole, fetches the guest, and prints numbered steps.

use std::thread;

use crate::console::say;
use crate::guest::{Part, ensure};
use crate::step::{Failure, Outcome, run};
use crate::workspace;

/// Builds pinhole, and fetches the parts of the guest at the same time.
pub(super) fn build_and_fetch(parts: &[Part]) -> Outcome {
    thread::scope(|scope| {
        let fetching = scope.spawn(|| ensure(parts));
        let built = build();
        let fetched =
            fetching.join().unwrap_or_else(|_panic| Err(Failure::new("fetching the guest panicked")));
        built.and(fetched)
    })
}

/// Builds pinhole with the profile `demo`.
fn build() -> Outcome {
    run(workspace::cargo().args([
        "build",
        "--profile",
        "demo",
        "--quiet",
        "--package",
        "pinhole",
        "--bin",
        "pinhole",
    ]))
}

/// Prints the last step: commands to try, each with what it does.
pub(super) fn try_next(commands: &[(String, &str)]) {
    step(5, "Try next");
    let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    for (command, what) in commands {
        say(format!("   {command:width$}  {what}"));
    }
}

/// Prints the heading of a step.
pub(super) fn step(number: u8, what: &str) {
    say(format!("{number}. {what}"));
}
