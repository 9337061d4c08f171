//! A thread that exists only while it has tasks.

use super::{OnDemand, ThreadSetup};
use crate::limits::THREAD_IDLE;
use crate::log_budget::Source;
use crate::sync::clock;
use crate::sync::lock::{Condvar, Mutex};
use pinhole_policy::host_calls::Threads;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// The work of a [`TaskThread`].
pub(crate) trait TaskRunner: Send + Sync + 'static {
    /// One piece of work.
    type Task: Send;

    /// Carries out a task.
    fn run(&self, task: Self::Task);

    /// Does the work that is due at the time given to [`TaskThread::call_at`]. Returns the time at
    /// which it is due again.
    fn run_due(&self) -> Option<Instant> {
        None
    }

    /// Called when the host has no room for the thread, to make another thread call
    /// [`TaskThread::run_stuck`]. Called again after each later attempt that fails.
    fn thread_refused(&self) {}
}

/// Carries out tasks in order, on a thread that is started for the first one. The thread ends when
/// there was no task for [`THREAD_IDLE`].
///
/// If the host has no room for the thread, the start is tried again. Meanwhile the tasks wait,
/// unless another thread calls [`TaskThread::run_stuck`].
pub(crate) struct TaskThread<R: TaskRunner>(Arc<TaskThreadShared<R>>);

struct TaskThreadShared<R: TaskRunner> {
    name: &'static str,
    setup: ThreadSetup,
    runner: R,
    state: Mutex<TaskState<R::Task>>,
    changed: Condvar,
    log: Source,
}

struct TaskState<T> {
    tasks: VecDeque<T>,
    /// Time at which to call [`TaskRunner::run_due`].
    due: Option<Instant>,
    has_thread: bool,
    /// Whether the host had no room for the thread at the last attempt to start it.
    is_host_full: bool,
    /// The [`TaskThread`] was dropped. The thread ends after the remaining tasks.
    is_over: bool,
}

impl<T> TaskState<T> {
    /// Takes the next work, if there is any now.
    fn take(&mut self) -> Option<NextTask<T>> {
        if self.due.take_if(|due| *due <= clock::now()).is_some() {
            return Some(NextTask::Due);
        }
        self.tasks.pop_front().map(NextTask::Task)
    }

    /// Schedules a call of [`TaskRunner::run_due`] at `due`, unless an earlier one is scheduled.
    fn set_due(&mut self, due: Instant) {
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn has_work(&self) -> bool {
        self.due.is_some() || !self.tasks.is_empty()
    }
}

/// Next work of the thread.
enum NextTask<T> {
    Task(T),
    Due,
}

impl<R: TaskRunner> fmt::Debug for TaskThread<R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TaskThread").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl<R: TaskRunner> TaskThread<R> {
    /// Makes a thread that is started with its first task.
    pub(crate) fn new(name: &'static str, setup: ThreadSetup, runner: R) -> Self {
        let state = TaskState {
            tasks: VecDeque::new(),
            due: None,
            has_thread: false,
            is_host_full: false,
            is_over: false,
        };
        let (state, changed, log) = (Mutex::new(state), Condvar::new(), Source::new());
        Self(Arc::new(TaskThreadShared { name, setup, runner, state, changed, log }))
    }

    /// Adds a task to be carried out after the others.
    ///
    /// # Errors
    /// The task, if `len_max` tasks already wait.
    pub(crate) fn submit(&self, task: R::Task, len_max: usize) -> Result<(), R::Task> {
        let mut state = self.0.state.lock();
        if state.tasks.len() >= len_max {
            return Err(task);
        }
        state.tasks.push_back(task);
        let has_thread = state.has_thread;
        drop(state);
        self.wake(has_thread);
        Ok(())
    }

    /// Calls [`TaskRunner::run_due`] at `due`, or earlier if an earlier call is due.
    pub(crate) fn call_at(&self, due: Instant) {
        let mut state = self.0.state.lock();
        state.set_due(due);
        let has_thread = state.has_thread;
        drop(state);
        self.wake(has_thread);
    }

    /// Carries out one task if the host has no room for the thread. Returns whether there was one.
    pub(crate) fn run_stuck(&self) -> bool {
        let task = {
            let mut state = self.0.state.lock();
            if state.is_host_full && !state.has_thread { state.take() } else { None }
        };
        task.map(|task| self.0.run(task)).is_some()
    }

    /// Wakes the thread, or makes the spawner start it.
    fn wake(&self, has_thread: bool) {
        if has_thread {
            self.0.changed.notify_one();
        } else {
            let shared: Arc<dyn OnDemand> = Arc::<TaskThreadShared<R>>::clone(&self.0);
            self.0.setup.spawner().ask(Arc::downgrade(&shared));
        }
    }
}

impl<R: TaskRunner> Drop for TaskThread<R> {
    fn drop(&mut self) {
        self.0.state.lock().is_over = true;
        self.0.changed.notify_one();
    }
}

impl<R: TaskRunner> TaskThreadShared<R> {
    fn serve(&self) {
        while let Some(work) = self.next() {
            self.run(work);
        }
    }

    /// Waits for work. Returns `None` if the thread must end. Then it is no longer counted.
    fn next(&self) -> Option<NextTask<R::Task>> {
        let mut state = self.state.lock();
        let idle_end = clock::now().checked_add(THREAD_IDLE);
        loop {
            if let Some(work) = state.take() {
                return Some(work);
            }
            let until = state.due.or(idle_end);
            let is_late = if state.is_over {
                true
            } else {
                let (after, is_late) = self.changed.wait_until(state, until);
                state = after;
                is_late && !state.has_work()
            };
            if is_late {
                state.has_thread = false;
                return None;
            }
        }
    }

    fn run(&self, work: NextTask<R::Task>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| match work {
            NextTask::Task(task) => {
                self.runner.run(task);
                None
            }
            NextTask::Due => self.runner.run_due(),
        }));
        match outcome {
            Ok(None) => {}
            Ok(Some(again)) => self.state.lock().set_due(again),
            Err(_panic) => tracing::error!(thread = self.name, "a task ended by a panic"),
        }
    }
}

impl<R: TaskRunner> OnDemand for TaskThreadShared<R> {
    fn start_missing(self: Arc<Self>) -> bool {
        {
            let mut state = self.state.lock();
            if state.has_thread || state.is_over || !state.has_work() {
                return true;
            }
            state.has_thread = true;
        }
        let own = Arc::clone(&self);
        let started = self.setup.spawn(self.name, Threads::OFFLOAD, move || own.serve());
        let Err(error) = started else {
            self.state.lock().is_host_full = false;
            return true;
        };
        {
            let mut state = self.state.lock();
            (state.has_thread, state.is_host_full) = (false, true);
        }
        if let Some(suppressed) = self.log.pass() {
            tracing::error!(%error, suppressed, "cannot start the thread {}", self.name);
        }
        self.runner.thread_refused();
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::event::EventCounter;
    use rustix::fs::{Mode, OFlags};
    use std::io;
    use std::thread::ThreadId;
    use std::time::Duration;

    type Ran = (Option<u32>, ThreadId);

    /// Records each task and the thread that runs it. Panics at task 0. Is due twice.
    #[derive(Default)]
    struct Notes {
        ran: Arc<Mutex<Vec<Ran>>>,
        changed: Arc<EventCounter>,
    }

    impl Notes {
        fn note(&self, task: Option<u32>) -> usize {
            let mut ran = self.ran.lock();
            ran.push((task, std::thread::current().id()));
            self.changed.notify();
            ran.len()
        }
    }

    impl TaskRunner for Notes {
        type Task = u32;

        fn run(&self, task: u32) {
            self.note(Some(task));
            assert_ne!(task, 0, "on purpose");
        }

        fn run_due(&self) -> Option<Instant> {
            (self.note(None) < 2).then(clock::now)
        }
    }

    /// Waits until `count` tasks have run, and returns them.
    fn wait(ran: &Mutex<Vec<Ran>>, changed: &EventCounter, count: usize) -> Vec<Ran> {
        loop {
            let seen = changed.count();
            let now = ran.lock().clone();
            if now.len() >= count {
                return now;
            }
            changed.wait(seen, None);
        }
    }

    #[test]
    fn tasks_run_in_order_on_one_thread_despite_panics() {
        let notes = Notes::default();
        let (ran, changed) = (Arc::clone(&notes.ran), Arc::clone(&notes.changed));
        let thread = TaskThread::new("tasks", ThreadSetup::unconfined().unwrap(), notes);
        for task in [1, 0, 2] {
            thread.submit(task, 3).unwrap();
        }
        let all = wait(&ran, &changed, 3);
        assert_eq!(all.iter().map(|(task, _)| *task).collect::<Vec<_>>(), [Some(1), Some(0), Some(2)]);
        assert!(all.iter().all(|(_, id)| *id == all[0].1 && *id != std::thread::current().id()));
    }

    #[test]
    fn due_call_is_repeated_as_the_runner_says() {
        let notes = Notes::default();
        let (ran, changed) = (Arc::clone(&notes.ran), Arc::clone(&notes.changed));
        let thread = TaskThread::new("tasks", ThreadSetup::unconfined().unwrap(), notes);
        thread.call_at(clock::now().checked_add(Duration::from_millis(1)).unwrap());
        thread.call_at(clock::now().checked_add(Duration::from_mins(1)).unwrap());
        assert!(wait(&ran, &changed, 2).iter().all(|(task, _)| task.is_none()));
    }

    #[test]
    fn without_room_for_a_thread_another_thread_runs_tasks() {
        let notes = Notes::default();
        let ran = Arc::clone(&notes.ran);
        let proc_fds = rustix::fs::open(c"/proc/self/fd", OFlags::PATH, Mode::empty()).unwrap();
        let setup =
            ThreadSetup::new(Some(proc_fds), |_kind| Err(io::ErrorKind::PermissionDenied.into())).unwrap();
        let thread = TaskThread::new("tasks", setup.clone(), notes);
        for task in [1, 2] {
            thread.submit(task, 2).unwrap();
        }
        assert_eq!(thread.submit(3, 2), Err(3));
        assert!(!thread.run_stuck(), "a thread may still start");
        let start = || Arc::clone(&thread.0).start_missing();
        assert!(!start());
        assert!(thread.run_stuck() && thread.run_stuck() && !thread.run_stuck());
        assert!(start(), "nothing is left to do");
        let own = std::thread::current().id();
        assert_eq!(*ran.lock(), [(Some(1), own), (Some(2), own)]);
    }
}
