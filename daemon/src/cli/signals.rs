//! The control thread: it reacts to the signals that end a daemon, and starts threads for threads
//! that may not start any.

use crate::prepared::ImageChanges;
use crate::sys::process::end;
use crate::sys::signals::{SignalDescriptor, block_signals};
use crate::threads::{Spawner, ThreadSetup};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The signals that end a daemon. SIGPIPE is ignored in every Rust program, and `sys::signals`
/// ignores SIGXFSZ.
const ENDING: [i32; 2] = [SIGTERM, SIGINT];

/// The signals, blocked for every thread. One thread reads them from a descriptor, so there is no
/// signal handler, whose calls the filter of every thread would have to allow.
#[derive(Debug)]
pub(super) struct HeldSignals {
    signals: SignalDescriptor,
    image: Option<WatchedImage>,
}

/// Reports of changes of an image.
#[derive(Debug)]
struct WatchedImage {
    changes: ImageChanges,
    /// Readable after a change or a signal.
    either: OwnedFd,
}

/// Blocks the signals for the calling thread and all that it starts from now on.
pub(super) fn hold() -> io::Result<HeldSignals> {
    block_signals(&ENDING)?;
    Ok(HeldSignals { signals: SignalDescriptor::new(&ENDING)?, image: None })
}

impl HeldSignals {
    /// Makes the control thread look at changes of an image, too.
    pub(super) fn watch(&mut self, changes: Option<ImageChanges>) -> io::Result<()> {
        let Some(changes) = changes else { return Ok(()) };
        let either = epoll::create(CreateFlags::CLOEXEC)?;
        for descriptor in [self.signals.as_fd(), changes.descriptor()] {
            epoll::add(&either, descriptor, EventData::new_u64(0), EventFlags::IN)?;
        }
        self.image = Some(WatchedImage { changes, either });
        Ok(())
    }

    /// Returns the descriptor that is readable when there is something to do.
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.image.as_ref().map_or_else(|| self.signals.as_fd(), |image| image.either.as_fd())
    }

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
            spawner.serve_until(self.descriptor())?;
            if let Some(image) = &self.image {
                image.changes.look();
            }
            if let Some(signal) = self.signals.take()? {
                return Ok(signal);
            }
        }
    }
}
