//! The signals that end a daemon, and the one that must not.

use crate::host::Seal;
use pinhole_policy::host_calls::Threads;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use vmm_sys_util::signal::{self, block_signal, unblock_signal};

/// SIGPIPE is already ignored, as in every Rust program, and so is SIGXFSZ (`unshare.rs`).
const ENDING: [i32; 2] = [SIGTERM, SIGINT];

/// Keeps them from the calling thread and all that it starts from now on, until [`watch`] waits for them: the filter of
/// a thread that serves a guest has no room for what is done when a signal comes.
pub(super) fn hold() -> io::Result<()> {
    ENDING.into_iter().try_for_each(|signal| match block_signal(signal) {
        // Whoever started this process did it.
        Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => Ok(()),
        Err(error) => Err(io::Error::other(error.to_string())),
    })
}

/// Calls `stop` at the first of them; a second one ends the process at once, where the first waits for a request that
/// the host does not finish. It ends with 128 and the signal's number, as a shell would say it: to send itself the signal
/// anew, the process would have to be able to send signals.
pub(super) fn watch(seal: Seal, stop: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(ENDING)?;
    let watch = move || {
        let come = ENDING
            .into_iter()
            .try_for_each(unblock_signal)
            .map_err(|error| io::Error::other(error.to_string()));
        if let Err(error) = come.and_then(|()| seal.close(Threads::CONTROL)) {
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
