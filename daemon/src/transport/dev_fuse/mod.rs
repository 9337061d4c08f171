//! The second, small transport: a session served on `/dev/fuse` of this machine, for `pinhole mount`.
//!
//! The kernel hands over one whole request with each read and takes one whole answer with each write, so that there
//! is nothing here of queues, guest memory or device configuration; the caller is this machine's own kernel and is
//! trusted to frame its messages. Cannot be shown here: DAX, SYNCFS, several queues, reconnection.
//! Source: the kernel's `fs/fuse/dev.c` and `Documentation/filesystems/fuse/fuse.rst`.

mod device;
mod mount;
mod own_mount;
mod parking;
mod worker;

pub use mount::{MOUNT_OPTIONS, MountError, MountRequest, Mounted};

use crate::filesystem::FileSystem;
use crate::session::Session;
use crate::sync::channel::{Receiver, Sender, bounded_channel};
use crate::sync::clock;
use crate::thread_setup::ThreadSetup;
use parking::Parking;
use std::io;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use worker::Worker;

/// What ends serving early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// `/dev/fuse` could not be read.
    #[error("cannot read requests from /dev/fuse: {source}")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// The kernel was told that the two sides do not fit.
    #[error("the kernel and pinhole could not agree on INIT: its FUSE is older than 7.27 (Linux 5.0)")]
    Init,
    /// A bug of ours; the panic's message stands above.
    #[error("a serving thread panicked")]
    Panicked,
    /// A thread could not be made or made fit for serving.
    #[error("cannot prepare a serving thread: {source}")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

/// What the serving thread waits for.
#[derive(Debug)]
enum Event {
    WorkerEnded(Result<(), ServeError>),
    Stop,
}

/// Ends [`Service::run`] from another thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Sender<Event>>);

impl Stop {
    /// Unmounts, lazily where the mount is busy, and lets [`Service::run`] return. Later calls do nothing.
    pub fn stop(&self) {
        // Nobody takes it once the service has ended, which is what is wanted.
        drop(self.0.try_send(Event::Stop));
    }
}

/// A mounted share that is yet to be served.
#[derive(Debug)]
pub struct Service<F> {
    mounted: Mounted,
    session: Arc<Session<F>>,
    threads: ThreadSetup,
    events: (Arc<Sender<Event>>, Receiver<Event>),
}

/// Events that nobody has heard of yet: who has one more waits.
const EVENTS_MAX: usize = 64;

/// How long threads may take to see that the mount is gone.
const END_LIMIT: Duration = Duration::from_secs(5);

impl<F: FileSystem + 'static> Service<F> {
    /// Serves `mounted` from `session`, with threads that `threads` prepares.
    pub fn new(mounted: Mounted, session: Arc<Session<F>>, threads: ThreadSetup) -> Self {
        let (tell, told) = bounded_channel(EVENTS_MAX);
        Self { mounted, session, threads, events: (Arc::new(tell), told) }
    }

    /// The handle that ends it.
    pub fn stop_handle(&self) -> Stop {
        Stop(Arc::clone(&self.events.0))
    }

    /// Serves with so many threads until the mount is gone. `ready` is called once INIT has been answered: from then
    /// on the mount answers everybody.
    ///
    /// # Errors
    /// What kept it from serving; the mount is then gone too.
    pub fn run(self, threads: NonZero<u16>, ready: impl FnOnce()) -> Result<(), ServeError> {
        // The kernel sends INIT first and nothing else before its answer, so one thread is enough until then.
        let session = Arc::clone(&self.session);
        let device = Arc::clone(self.mounted.device());
        let setup = self.threads.clone();
        let first = self.spawn_worker(move || Worker::new(&setup, &session, &device, None)?.serve_init())?;
        drop(first);
        match self.events.1.receive() {
            Some(Event::WorkerEnded(outcome)) => outcome?,
            Some(Event::Stop) | None => {
                self.finish(0);
                return Ok(());
            }
        }
        let parking = if self.session.may_park() {
            let parking = Parking::start(&self.session, self.threads.clone());
            Some(Arc::new(parking.map_err(|source| ServeError::Thread { source })?))
        } else {
            None
        };
        for _thread in 0..threads.get() {
            let (session, parking) = (Arc::clone(&self.session), parking.clone());
            let device = Arc::clone(self.mounted.device());
            let setup = self.threads.clone();
            let serve = move || Worker::new(&setup, &session, &device, parking.as_deref())?.serve();
            drop(self.spawn_worker(serve)?);
        }
        ready();
        let mut running = threads.get();
        while running > 0 {
            match self.events.1.receive() {
                Some(Event::WorkerEnded(outcome)) => {
                    outcome?;
                    running = running.saturating_sub(1);
                }
                Some(Event::Stop) | None => {
                    self.finish(running);
                    return Ok(());
                }
            }
        }
        self.mounted.forget();
        self.session.end();
        Ok(())
    }

    /// Unmounts and gives the threads a moment to see it. Those of a busy mount never do: they end with the process.
    fn finish(self, mut running: u16) {
        let Self { mounted, session, events: (_, ended), .. } = self;
        let busy = mounted.unmount();
        while running > 0 && !busy {
            match ended.receive_until(clock::now().checked_add(END_LIMIT)) {
                Some(Event::WorkerEnded(_)) => running = running.saturating_sub(1),
                Some(Event::Stop) => {}
                None => break,
            }
        }
        session.end();
    }

    fn spawn_worker(
        &self,
        work: impl FnOnce() -> Result<(), ServeError> + Send + 'static,
    ) -> Result<thread::JoinHandle<()>, ServeError> {
        let events = Arc::clone(&self.events.0);
        let report = move || {
            // A worker that is lost would leave its share of the callers waiting: better no mount than half a one.
            let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(ServeError::Panicked));
            // Nobody is left to take it when the whole service is ending anyhow.
            drop(events.send(Event::WorkerEnded(outcome)));
        };
        let named = thread::Builder::new().name("pinhole-fuse".to_owned());
        named.spawn(report).map_err(|source| ServeError::Thread { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::failing::Broken;
    use crate::session::Options;
    use pinhole_policy::Policy;
    use std::sync::mpsc::sync_channel;

    /// Mounts for real: as root, or by `fusermount3`.
    #[test]
    fn a_panic_in_a_request_is_eio_and_the_mount_works_on() {
        const THREADS: u16 = 2;
        let (directory, mountpoint) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let request = MountRequest {
            directory: directory.path().to_owned(),
            mountpoint: mountpoint.path().to_owned(),
            options: Vec::new(),
        };
        let session = Session::new(Arc::new(Broken), Arc::default(), Policy::full(), Options::default());
        let threads = ThreadSetup::unconfined().unwrap();
        let service = Service::new(Mounted::new(request).unwrap(), Arc::new(session), threads);
        let stop = service.stop_handle();
        let (tell, told) = sync_channel(1);
        let serving = thread::spawn(move || {
            service.run(NonZero::new(THREADS).unwrap(), move || tell.send(()).unwrap())
        });
        told.recv().unwrap();
        for _ in 0..5 * THREADS {
            let error = std::fs::metadata(mountpoint.path()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(pinhole_protocol::Errno::EIO.raw()));
        }
        stop.stop();
        serving.join().unwrap().unwrap();
        // Only what was mounted over was broken.
        std::fs::metadata(mountpoint.path()).unwrap();
    }
}
