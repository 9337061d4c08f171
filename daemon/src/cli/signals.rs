//! The control thread: it reacts to the signals that end a daemon, and starts threads for threads
//! that may not start any.

use crate::sys::process::end;
use crate::sys::signals::{SignalDescriptor, block_signals};
use crate::threads::{Spawner, ThreadSetup};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

/// The signals that end a daemon. SIGPIPE is ignored in every Rust program, and `sys::signals`
/// ignores SIGXFSZ.
const ENDING: [i32; 2] = [SIGTERM, SIGINT];

/// The signals, blocked for every thread. One thread reads them from a descriptor, so there is no
/// signal handler, whose calls the filter of every thread would have to allow.
#[derive(Debug)]
pub(super) struct HeldSignals(SignalDescriptor);

/// Blocks the signals for the calling thread and all that it starts from now on.
pub(super) fn hold() -> io::Result<HeldSignals> {
    block_signals(&ENDING)?;
    SignalDescriptor::new(&ENDING).map(HeldSignals)
}

impl HeldSignals {
    /// Starts the control thread. It serves the spawner of `threads`, and calls `stop` at the first
    /// signal. A second signal ends the process at once, because the first may wait for a request
    /// that the host does not finish. The exit status is then 128 plus the signal's number, as in a
    /// shell: the process may not send itself signals.
    ///
    /// The thread has the filter of the thread that starts it.
    pub(super) fn start_control(
        self,
        threads: &ThreadSetup,
        stop: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        let spawner = Arc::clone(threads.spawner());
        let run = move || {
            let first = self.next(&spawner);
            stop();
            match first.and_then(|_signal| self.next(&spawner)) {
                Ok(signal) => end(u8::try_from(signal).unwrap_or_default().saturating_add(128)),
                Err(error) => tracing::error!(%error, "the control thread cannot wait for signals"),
            }
        };
        std::thread::Builder::new().name("control".to_owned()).spawn(run).map(drop)
    }

    /// Starts threads until a signal comes, and returns its number.
    fn next(&self, spawner: &Spawner) -> io::Result<i32> {
        loop {
            spawner.serve_until(self.0.as_fd())?;
            if let Some(signal) = self.0.take()? {
                return Ok(signal);
            }
        }
    }
}
