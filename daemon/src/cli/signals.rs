//! The signals that end a daemon.

use crate::sys::signals::{block_signals, unblock_signals};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// The signals that end a daemon. SIGPIPE is ignored in every Rust program, and `sys::signals`
/// ignores SIGXFSZ.
const ENDING: [i32; 2] = [SIGTERM, SIGINT];

/// The signals, blocked for every thread until one waits for them.
#[derive(Debug)]
pub(super) struct HeldSignals(Signals);

/// Blocks the signals for the calling thread and all that it starts from now on, until
/// [`HeldSignals::watch`] waits for them. The filter of a serving thread does not allow the calls
/// of a signal handler.
pub(super) fn hold() -> io::Result<HeldSignals> {
    block_signals(&ENDING)?;
    Signals::new(ENDING).map(HeldSignals)
}

impl HeldSignals {
    /// Starts a thread that calls `stop` at the first signal. A second signal ends the process at
    /// once, because the first may wait for a request that the host does not finish. The exit
    /// status is then 128 plus the signal's number, as in a shell: the process may not send itself
    /// signals.
    ///
    /// The thread has the filter of the thread that starts it.
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
