//! The queue threads, one for each queue that was ever in use.
//!
//! While its queue is stopped, and between two guests, a thread waits for its next task instead of
//! ending. So the filter of a queue thread lacks the calls that a thread makes when it ends.

use crate::log_budget::Source;
use crate::sync::channel::{Receiver, Sender, bounded_channel};
use crate::sync::lock::Mutex;
use crate::threads::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

/// The thread of one queue. It is started with its first task.
pub(super) struct QueueThread {
    name: String,
    setup: ThreadSetup,
    tasks: Mutex<Option<Sender<QueueTask>>>,
    /// Limits of log lines, by [`Complaint`]. They outlive the guests, so a guest gets no more
    /// lines if it restarts its queue or its VM.
    logs: [Source; 2],
}

/// The log lines about one queue that its guest can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// A request could not be read.
    Request,
    /// The ring can no longer be used.
    Ring,
}

impl fmt::Debug for QueueThread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("QueueThread").field("name", &self.name).finish_non_exhaustive()
    }
}

struct QueueTask {
    run: Box<dyn FnOnce() + Send>,
    done: Sender<()>,
}

/// A task that was started.
#[derive(Debug)]
pub(super) struct TaskHandle(Receiver<()>);

impl TaskHandle {
    /// Waits for the end of the task. Returns false if it ended by a panic.
    pub(super) fn wait(self) -> bool {
        self.0.receive().is_some()
    }
}

impl QueueThread {
    /// Makes the threads of `queues` queues. The first queue is hiprio.
    pub(super) fn for_queues(queues: usize, setup: &ThreadSetup) -> Vec<Arc<Self>> {
        let thread = |index| Self {
            name: if index == 0 { "hiprio".to_owned() } else { format!("request-{index}") },
            setup: setup.clone(),
            tasks: Mutex::new(None),
            logs: [const { Source::new() }; 2],
        };
        (0..queues).map(|index| Arc::new(thread(index))).collect()
    }

    /// Returns the name of the thread.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Asks for one line of the log; see [`Source::pass`].
    pub(super) fn may_log(&self, complaint: Complaint) -> Option<u64> {
        let [request, ring] = &self.logs;
        match complaint {
            Complaint::Request => request.pass(),
            Complaint::Ring => ring.pass(),
        }
    }

    /// Runs a task on the thread, after its present task.
    ///
    /// # Errors
    /// The host has no room for a thread, or the thread cannot be prepared. Then the task does not
    /// run.
    pub(super) fn start(&self, run: impl FnOnce() + Send + 'static) -> io::Result<TaskHandle> {
        let (done, ended) = bounded_channel(1);
        let mut tasks = self.tasks.lock();
        let sender = match tasks.take() {
            Some(sender) => sender,
            None => self.spawn()?,
        };
        // The thread waits for tasks as long as this sender exists.
        sender.send(QueueTask { run: Box::new(run), done }).map_err(|_gone| io::ErrorKind::BrokenPipe)?;
        *tasks = Some(sender);
        Ok(TaskHandle(ended))
    }

    fn spawn(&self) -> io::Result<Sender<QueueTask>> {
        let (sender, tasks) = bounded_channel::<QueueTask>(1);
        self.setup.spawn(&self.name, Threads::QUEUE, move || {
            while let Some(QueueTask { run, done }) = tasks.receive() {
                if catch_unwind(AssertUnwindSafe(run)).is_ok() {
                    // Ignore the result: perhaps no thread waits for the end of the task.
                    done.try_send(()).unwrap_or_default();
                }
            }
            // The daemon is about to end, and the thread ends with it. Its filter does not allow it
            // to end by itself.
            loop {
                thread::park();
            }
        })?;
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::sync::mpsc::sync_channel;

    /// Makes the threads of queues whose preparation ends with `confine`.
    fn threads(
        queues: usize,
        confine: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> Vec<Arc<QueueThread>> {
        let proc_fds = rustix::fs::open(c"/proc/self/fd", OFlags::PATH, Mode::empty()).unwrap();
        QueueThread::for_queues(queues, &ThreadSetup::new(Some(proc_fds), move |_kind| confine()).unwrap())
    }

    fn id_of(thread: &QueueThread) -> thread::ThreadId {
        let (sender, id) = sync_channel(1);
        let task = thread.start(move || sender.send(thread::current().id()).unwrap()).unwrap();
        assert!(task.wait());
        id.recv().unwrap()
    }

    #[test]
    fn one_thread_serves_a_queue_and_is_prepared_once() {
        let prepared = Arc::new(Mutex::new(0));
        let count = Arc::clone(&prepared);
        let threads = threads(2, move || {
            *count.lock() += 1;
            Ok(())
        });
        let [hiprio, request] = &threads[..] else { panic!() };
        assert_eq!(id_of(hiprio), id_of(hiprio));
        assert_eq!(*prepared.lock(), 1);
        assert_ne!(id_of(hiprio), id_of(request));
        assert_eq!((hiprio.name(), request.name()), ("hiprio", "request-1"));
    }

    #[test]
    fn a_panic_ends_its_task_and_not_the_thread() {
        let threads = threads(1, || Ok(()));
        let before = id_of(&threads[0]);
        assert!(!threads[0].start(|| panic!("on purpose")).unwrap().wait());
        assert_eq!(id_of(&threads[0]), before);
    }

    #[test]
    fn a_thread_that_cannot_be_prepared_is_tried_again() {
        let fails = Arc::new(Mutex::new(true));
        let now = Arc::clone(&fails);
        let threads =
            threads(
                1,
                move || {
                    if *now.lock() { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
                },
            );
        assert_eq!(threads[0].start(|| ()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        *fails.lock() = false;
        assert!(threads[0].start(|| ()).unwrap().wait());
    }
}
