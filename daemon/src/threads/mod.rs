//! Preparation of threads before they serve, and start of threads on demand.

mod spawner;
mod task_thread;

pub(crate) use spawner::{OnDemand, Spawner};
pub(crate) use task_thread::{TaskRunner, TaskThread};

use crate::sync::channel::bounded_channel;
use crate::sync::relay;
use crate::sys::thread::enter_thread;
use pinhole_policy::host_calls::Threads;
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Prepares threads: each gives up rights that its kind does not need. If the daemon serves a
/// directory, each also gets its own umask and working directory.
///
/// The sandbox decides what a kind of thread gives up; see [`Threads`].
#[derive(Clone)]
pub struct ThreadSetup {
    /// `/proc/self/fd`, the working directory of threads that serve files of a directory.
    proc_fds: Option<Arc<OwnedFd>>,
    confine: Arc<dyn Fn(Threads) -> io::Result<()> + Send + Sync>,
    spawner: Arc<Spawner>,
}

impl ThreadSetup {
    /// Makes a setup from a descriptor of `/proc/self/fd`, if threads need it, and the function
    /// that confines a thread. Threads are started on demand once a thread runs
    /// [`Spawner::serve_until`].
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new(
        proc_fds: Option<OwnedFd>,
        confine: impl Fn(Threads) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let spawner = Arc::new(Spawner::new()?);
        Ok(Self { proc_fds: proc_fds.map(Arc::new), confine: Arc::new(confine), spawner })
    }

    /// Makes a setup that confines no thread. Each thread may start others.
    ///
    /// # Errors
    /// The host's error if `/proc/self/fd` cannot be opened.
    pub fn unconfined() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc_fds = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
        let spawner = Arc::new(Spawner::direct());
        Ok(Self { proc_fds: Some(Arc::new(proc_fds)), confine: Arc::new(|_kind| Ok(())), spawner })
    }

    /// Returns the service that starts threads for threads that may not start any.
    pub(crate) const fn spawner(&self) -> &Arc<Spawner> {
        &self.spawner
    }

    /// Starts a thread and waits until it is prepared; see [`ThreadSetup::enter`].
    ///
    /// # Errors
    /// The host has no room for a thread, or the thread cannot be prepared. Then `run` is not
    /// called.
    pub(crate) fn spawn(
        &self,
        name: &str,
        kind: Threads,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let (sender, is_prepared) = bounded_channel(1);
        let setup = self.clone();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let prepared = setup.enter(kind);
            drop(setup);
            let failed = prepared.is_err();
            if sender.try_send(prepared).is_ok() && !failed {
                run();
            }
        })?;
        is_prepared.receive().ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(thread)
    }

    /// Prepares the calling thread to serve requests. Each thread calls this once.
    ///
    /// # Errors
    /// The host's error. Then the thread must not serve.
    pub fn enter(&self, kind: Threads) -> io::Result<()> {
        self.separate()?;
        // The standard library asks the host for random keys when a thread makes its first hash
        // table. The filter of the thread may forbid that call.
        drop(std::hash::RandomState::new());
        if kind == Threads::QUEUE {
            relay::use_here();
        }
        self.confine(kind)
    }

    /// Gives the calling thread its own umask and working directory, if it needs them.
    fn separate(&self) -> io::Result<()> {
        self.proc_fds.as_ref().map_or(Ok(()), enter_thread)
    }

    /// Gives up the rights that a thread of this kind does not need. Umask and working directory
    /// stay the same.
    ///
    /// # Errors
    /// The host's error. Then the thread must not serve.
    pub fn confine(&self, kind: Threads) -> io::Result<()> {
        (self.confine)(kind)
    }

    /// Checks that threads can have their own umask and working directory, with a thread that ends
    /// at once. Without this check, the failure of a serving thread would stop the queues of a
    /// guest that has already mounted the share.
    ///
    /// # Errors
    /// The host's error.
    pub(crate) fn check(&self) -> io::Result<()> {
        std::thread::scope(|scope| {
            let trial = Builder::new().name("thread-trial".to_owned());
            let trial = trial.spawn_scoped(scope, || self.separate())?;
            trial.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
        })
    }
}

impl fmt::Debug for ThreadSetup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ThreadSetup").finish_non_exhaustive()
    }
}
