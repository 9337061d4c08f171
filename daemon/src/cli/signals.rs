//! The signals that end a daemon, and the one that must not.

use crate::sys::signals::{block_signals, unblock_signals};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// SIGPIPE is already ignored, as in every Rust program, and so is SIGXFSZ (`sys`).
const ENDING: [i32; 2] = [SIGTERM, SIGINT];

/// The signals, kept from every thread until one waits for them.
#[derive(Debug)]
pub(super) struct Held(Signals);

/// Keeps them from the calling thread and all that it starts from now on, until [`Held::watch`] waits for them: the
/// filter of a thread that serves a guest has no room for what is done when a signal comes.
pub(super) fn hold() -> io::Result<Held> {
    block_signals(&ENDING)?;
    Signals::new(ENDING).map(Held)
}

impl Held {
    /// Starts a thread that calls `stop` at the first of them; a second one ends the process at once, where the first waits
    /// for a request that the host does not finish. It ends with 128 and the signal's number, as a shell would say it: to
    /// send itself the signal anew, the process would have to be able to send signals.
    ///
    /// The thread has the filter of the one that starts it.
    pub(super) fn watch(self, stop: impl Fn() + Send + 'static) -> io::Result<()> {
        let Self(mut signals) = self;
        let watch = move || {
            if let Err(error) = unblock_signals(&ENDING) {
                tracing::error!(%error, "the thread for signals cannot be prepared");
                stop();
                return;
            }
            let mut signals = signals.forever();
            if signals.next().is_some() {
                stop();
            }
            if let Some(signal) = signals.next() {
                signal_hook::low_level::exit(128_i32.saturating_add(signal));
            }
        };
        std::thread::Builder::new().name("pinhole-signals".to_owned()).spawn(watch).map(drop)
    }
}
