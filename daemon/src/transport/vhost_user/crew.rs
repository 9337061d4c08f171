//! The threads that serve queues, one for each queue that was ever in use. Between two guests, or while its queue is
//! stopped, a thread waits for the next piece of work instead of ending: so the calls that a thread makes when it
//! ends need not be among those that a worker may make.

use crate::log_budget::Source;
use crate::sync::channel::{Receiver, Sender, bounded_channel};
use crate::sync::lock::Mutex;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

/// What a thread does first, once.
type Prepare = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;
type Task = Box<dyn FnOnce() + Send>;

/// All of them.
#[derive(Debug)]
pub(super) struct Crew(Vec<Arc<Member>>);

/// One thread, started when there is first something to do.
pub(super) struct Member {
    name: String,
    prepare: Prepare,
    tasks: Mutex<Option<Sender<Work>>>,
    /// By [`Complaint`]. They outlive the guests: a guest that restarts its queue, or its VM, gets no more lines than one
    /// that does not.
    logs: [Source; 2],
}

/// What the log hears of one queue, for which the guest is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// A request could not be taken.
    Request,
    /// The ring could not be used any longer.
    Ring,
}

impl fmt::Debug for Member {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Member").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Work {
    task: Task,
    over: Sender<()>,
}

/// A piece of work under way.
#[derive(Debug)]
pub(super) struct Shift(Receiver<()>);

impl Shift {
    /// Waits for its end. False: it ended by a panic.
    pub(super) fn wait(self) -> bool {
        self.0.receive().is_some()
    }
}

impl Crew {
    /// For so many queues, the first of which is hiprio. Each thread calls `prepare` before anything else.
    pub(super) fn new(queues: usize, prepare: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        let prepare: Prepare = Arc::new(prepare);
        let member = |index| Member {
            name: if index == 0 { "hiprio".to_owned() } else { format!("request-{index}") },
            prepare: Arc::clone(&prepare),
            tasks: Mutex::new(None),
            logs: [const { Source::new() }; 2],
        };
        Self((0..queues).map(|index| Arc::new(member(index))).collect())
    }

    /// The members, by queue.
    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.0
    }
}

impl Member {
    /// The name of its thread.
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

    /// Does `task` on the thread, after what that is doing.
    ///
    /// # Errors
    /// Where the host has no thread left, or what it was prepared with failed; then nothing is done.
    pub(super) fn start(&self, task: impl FnOnce() + Send + 'static) -> io::Result<Shift> {
        let (over, ended) = bounded_channel(1);
        let mut tasks = self.tasks.lock();
        let known = match tasks.take() {
            Some(known) => known,
            None => self.hire()?,
        };
        // It waits for work as long as this sender is there.
        known.send(Work { task: Box::new(task), over }).map_err(|_gone| io::ErrorKind::BrokenPipe)?;
        *tasks = Some(known);
        Ok(Shift(ended))
    }

    fn hire(&self) -> io::Result<Sender<Work>> {
        let (tasks, work) = bounded_channel::<Work>(1);
        let (fit, is_fit) = bounded_channel(1);
        let prepare = Arc::clone(&self.prepare);
        thread::Builder::new().name(self.name.clone()).spawn(move || {
            let prepared = prepare();
            let failed = prepared.is_err();
            if fit.try_send(prepared).is_err() || failed {
                return;
            }
            drop(prepare);
            while let Some(Work { task, over }) = work.receive() {
                if catch_unwind(AssertUnwindSafe(task)).is_ok() {
                    // Nobody is left to hear of it where the shift was given up.
                    over.try_send(()).unwrap_or_default();
                }
            }
            // The daemon ends, and takes this thread along: by itself it may not.
            loop {
                thread::park();
            }
        })?;
        is_fit.receive().ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    fn thread_of(member: &Member) -> thread::ThreadId {
        let (tell, told) = sync_channel(1);
        let shift = member.start(move || tell.send(thread::current().id()).unwrap()).unwrap();
        assert!(shift.wait());
        told.recv().unwrap()
    }

    #[test]
    fn one_thread_does_what_comes_for_a_queue_and_is_prepared_once() {
        let prepared = Arc::new(Mutex::new(0));
        let count = Arc::clone(&prepared);
        let crew = Crew::new(2, move || {
            *count.lock() += 1;
            Ok(())
        });
        let [hiprio, request] = crew.members() else { panic!() };
        assert_eq!(thread_of(hiprio), thread_of(hiprio));
        assert_eq!(*prepared.lock(), 1);
        assert_ne!(thread_of(hiprio), thread_of(request));
        assert_eq!((hiprio.name(), request.name()), ("hiprio", "request-1"));
    }

    #[test]
    fn a_panic_ends_its_work_and_not_the_thread() {
        let crew = Crew::new(1, || Ok(()));
        let [member] = crew.members() else { panic!() };
        let before = thread_of(member);
        assert!(!member.start(|| panic!("on purpose")).unwrap().wait());
        assert_eq!(thread_of(member), before);
    }

    #[test]
    fn a_thread_that_cannot_be_prepared_does_nothing_and_is_tried_again() {
        let fails = Arc::new(Mutex::new(true));
        let now = Arc::clone(&fails);
        let crew =
            Crew::new(
                1,
                move || {
                    if *now.lock() { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
                },
            );
        let [member] = crew.members() else { panic!() };
        assert_eq!(member.start(|| ()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        *fails.lock() = false;
        assert!(member.start(|| ()).unwrap().wait());
    }
}
