//! What a thread does before it serves requests.

use crate::sys::thread::enter_thread;
use pinhole_policy::host_calls::Threads;
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Prepares threads: each gets its own umask and working directory, and gives up rights that its
/// kind does not need.
///
/// The sandbox decides what a kind of thread gives up; see [`Threads`].
#[derive(Clone)]
pub struct ThreadSetup {
    /// `/proc/self/fd`, the working directory of threads that serve.
    proc_fds: Arc<OwnedFd>,
    confine: Arc<dyn Fn(Threads) -> io::Result<()> + Send + Sync>,
}

impl ThreadSetup {
    /// Makes a setup from a descriptor of `/proc/self/fd` and the function that confines a thread.
    pub fn new(
        proc_fds: OwnedFd,
        confine: impl Fn(Threads) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { proc_fds: Arc::new(proc_fds), confine: Arc::new(confine) }
    }

    /// Makes a setup that confines no thread.
    ///
    /// # Errors
    /// The host's error if `/proc/self/fd` cannot be opened.
    pub fn unconfined() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::new(rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?, |_kind| Ok(())))
    }

    /// Prepares the calling thread to serve requests. Each thread calls this once.
    ///
    /// # Errors
    /// The host's error; the thread must then serve nothing.
    pub fn enter(&self, kind: Threads) -> io::Result<()> {
        enter_thread(&self.proc_fds)?;
        // The standard library asks the host for random keys when a thread makes its first hash
        // table. The filter of the thread may forbid that call.
        drop(std::hash::RandomState::new());
        self.confine(kind)
    }

    /// Takes away the rights that a thread of this kind does not need, and nothing else.
    ///
    /// # Errors
    /// The host's error; the thread must then serve nothing.
    pub fn confine(&self, kind: Threads) -> io::Result<()> {
        (self.confine)(kind)
    }

    /// Checks that threads can have their own umask and working directory, with a thread that ends
    /// at once. A failure in a serving thread would stop every queue of a guest that has mounted.
    ///
    /// # Errors
    /// The host's error.
    pub(crate) fn check(&self) -> io::Result<()> {
        std::thread::scope(|scope| {
            let trial = std::thread::Builder::new().name("thread-trial".to_owned());
            let trial = trial.spawn_scoped(scope, || enter_thread(&self.proc_fds))?;
            trial.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
        })
    }
}

impl fmt::Debug for ThreadSetup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ThreadSetup").finish_non_exhaustive()
    }
}
