//! The life of a mount: mount, serve with several threads, unmount.

use super::device::DeviceDeferredRequests;
use super::fuse_thread::{FuseError, FuseThread};
use super::mount::Mounted;
use crate::filesystem::FileSystem;
use crate::session::Session;
use crate::sync::channel::{Receiver, Sender, bounded_channel};
use crate::sync::clock;
use crate::threads::ThreadSetup;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// An event for which [`Service::run`] waits.
#[derive(Debug)]
enum Event {
    ThreadEnded(Result<(), FuseError>),
    Stop,
}

/// Ends [`Service::run`] from another thread.
#[derive(Clone, Debug)]
pub struct StopMount(Arc<Sender<Event>>);

impl StopMount {
    /// Unmounts, lazily if the mount is busy, and lets [`Service::run`] return. Later calls do
    /// nothing.
    pub fn stop(&self) {
        // No thread receives the event once the service has ended.
        drop(self.0.try_send(Event::Stop));
    }
}

/// A mounted share that is not served yet.
#[derive(Debug)]
pub struct Service<F> {
    mounted: Mounted,
    session: Arc<Session<F>>,
    threads: ThreadSetup,
    events: (Arc<Sender<Event>>, Receiver<Event>),
}

/// Largest number of events that wait. A thread that sends one more waits.
const EVENTS_MAX: usize = 64;

/// Longest wait for a thread to notice that the mount is gone.
const END_LIMIT: Duration = Duration::from_secs(5);

impl<F: FileSystem + 'static> Service<F> {
    /// Makes the service of `mounted`. `session` serves its requests, on threads that `threads`
    /// prepares.
    pub fn new(mounted: Mounted, session: Arc<Session<F>>, threads: ThreadSetup) -> Self {
        let (tell, told) = bounded_channel(EVENTS_MAX);
        Self { mounted, session, threads, events: (Arc::new(tell), told) }
    }

    /// Returns a handle that ends the service.
    pub fn stop_handle(&self) -> StopMount {
        StopMount(Arc::clone(&self.events.0))
    }

    /// Serves with `threads` threads until the mount is gone. Calls `ready` when INIT was answered:
    /// from then on programs can use the mount.
    ///
    /// # Errors
    /// The reason why it does not serve. The mount is then gone too.
    pub fn run(self, threads: NonZero<u16>, ready: impl FnOnce()) -> Result<(), FuseError> {
        // The kernel sends INIT first and nothing else before its reply, so one thread is enough
        // until then.
        let session = Arc::clone(&self.session);
        let device = Arc::clone(self.mounted.device());
        let setup = self.threads.clone();
        let first =
            self.spawn_thread(move || FuseThread::new(&setup, &session, &device, None)?.serve_init())?;
        drop(first);
        match self.events.1.receive() {
            Some(Event::ThreadEnded(outcome)) => outcome?,
            Some(Event::Stop) | None => {
                self.finish(0);
                return Ok(());
            }
        }
        let deferred = if self.session.may_defer() {
            let deferred = DeviceDeferredRequests::new(&self.session);
            let answers = deferred.start_thread(&self.session, &self.threads, |_scratch| false);
            drop(answers.map_err(|source| FuseError::Thread { source })?);
            Some(Arc::new(deferred))
        } else {
            None
        };
        for _thread in 0..threads.get() {
            let (session, deferred) = (Arc::clone(&self.session), deferred.clone());
            let device = Arc::clone(self.mounted.device());
            let setup = self.threads.clone();
            let serve = move || FuseThread::new(&setup, &session, &device, deferred.as_deref())?.serve();
            drop(self.spawn_thread(serve)?);
        }
        ready();
        let mut running = threads.get();
        while running > 0 {
            match self.events.1.receive() {
                Some(Event::ThreadEnded(outcome)) => {
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

    /// Unmounts and waits for the threads to end, [`END_LIMIT`] for each. The threads of a busy
    /// mount end with the process.
    fn finish(self, mut running: u16) {
        let Self { mounted, session, events: (_, ended), .. } = self;
        let busy = mounted.unmount();
        while running > 0 && !busy {
            match ended.receive_until(clock::now().checked_add(END_LIMIT)) {
                Some(Event::ThreadEnded(_)) => running = running.saturating_sub(1),
                Some(Event::Stop) => {}
                None => break,
            }
        }
        session.end();
    }

    fn spawn_thread(
        &self,
        work: impl FnOnce() -> Result<(), FuseError> + Send + 'static,
    ) -> Result<thread::JoinHandle<()>, FuseError> {
        let events = Arc::clone(&self.events.0);
        let report = move || {
            // If a panic ended only the thread, programs would wait forever for its reply. So a
            // panic ends the mount.
            let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(FuseError::Panicked));
            // Ignore the result: the service may be ending already.
            drop(events.send(Event::ThreadEnded(outcome)));
        };
        let named = thread::Builder::new().name("pinhole-fuse".to_owned());
        named.spawn(report).map_err(|source| FuseError::Thread { source })
    }
}

#[cfg(test)]
mod tests {
    use super::super::mount::MountRequest;
    use super::*;
    use crate::filesystem::failing::Broken;
    use crate::session::Options;
    use pinhole_policy::Policy;
    use std::sync::mpsc::sync_channel;

    /// Makes a real mount: as root, or with `fusermount3`.
    #[test]
    fn panic_in_a_request_is_eio_and_the_mount_works() {
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
        // The directory under the mount was never broken.
        std::fs::metadata(mountpoint.path()).unwrap();
    }
}
