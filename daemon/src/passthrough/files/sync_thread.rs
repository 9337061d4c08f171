//! The thread that makes whole file systems durable (`syncfs(2)`): for SYNCFS, and for FSYNC of a
//! file that has lost the name by which it was opened.
//!
//! The thread serves one turn after another. A turn makes the whole share durable, or one mount.
//! Requests for the same file systems that come before a turn begins share that turn and its
//! outcome. A later request waits for the next turn. So the host has one such call at a time,
//! whatever a guest sends. A serving thread waits for a turn only if too many requests are deferred
//! until its end ([`SyncTurn::has_room`]).
//!
//! The host reports an error once to each open file description, and all of these requests share
//! one description. So an error goes to the requests of the turn that failed, because their data
//! may be lost, and to the requests that came during that turn.

use crate::filesystem::{Answer, SyncTurn};
use crate::passthrough::files::FileRef;
use crate::passthrough::inodes::MountTable;
use crate::passthrough::resolve::sync_errno;
use crate::sync::event::EventCounter;
use crate::sync::lock::Mutex;
use crate::threads::{TaskRunner, TaskThread, ThreadSetup};
use pinhole_protocol::Errno;
use rustix::io::retry_on_intr;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The file systems that a turn makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncScope {
    /// Every mount that the guest has reached.
    Share,
    /// One mount, by its number, through a file on it.
    Mount(u32),
}

#[derive(Debug)]
struct PendingTurns<W> {
    /// The turns that have not begun: at most one for each mount, and one for the share.
    turns: VecDeque<PendingTurn<W>>,
    /// Errors of turns whose requests were all given up. The next request of the same scope gets
    /// them.
    unreported: Vec<(SyncScope, Errno)>,
}

/// A turn that has not begun.
#[derive(Debug)]
struct PendingTurn<W> {
    scope: SyncScope,
    /// Object on which the call is made.
    with: W,
    turn: Arc<SyncTurn>,
    /// An error of an earlier turn that the requests of this turn get too: they came during that
    /// turn, or no request has got its error.
    earlier: Answer<()>,
}

/// Makes a scope durable.
type SyncCall<W> = dyn Fn(SyncScope, &W) -> Answer<()> + Send + Sync;

/// Carries out turns.
struct Syncer<W> {
    pending: Arc<Mutex<PendingTurns<W>>>,
    /// Notified after each turn, and when the host has no room for the thread.
    wake: Arc<EventCounter>,
    sync: Box<SyncCall<W>>,
}

impl<W: Send + 'static> TaskRunner for Syncer<W> {
    /// Each task stands for one pending turn.
    type Task = ();

    fn run(&self, (): ()) {
        let next = self.pending.lock().turns.pop_front();
        let Some(PendingTurn { scope, with, turn, earlier }) = next else { return };
        let fail_on_panic = FailOnDrop(&turn, &self.wake);
        let outcome = (self.sync)(scope, &with);
        let mut pending = self.pending.lock();
        // Requests that came during the turn get its error before its own requests do, which may
        // ask again at once.
        if let Some(next) = pending.next(scope) {
            next.earlier = next.earlier.and(outcome);
        }
        drop(pending);
        let outcome = earlier.and(outcome);
        if !turn.end(outcome) {
            self.pending.lock().keep_unreported(scope, outcome);
        }
        drop(fail_on_panic);
    }

    /// Wakes the thread that answers deferred requests. It then carries out the turns
    /// ([`SyncThread::run_stuck`]).
    fn thread_refused(&self) {
        self.wake.notify();
    }
}

impl<W> PendingTurns<W> {
    fn next(&mut self, scope: SyncScope) -> Option<&mut PendingTurn<W>> {
        self.turns.iter_mut().find(|next| next.scope == scope)
    }

    /// Keeps an error that no request has got for the next one.
    fn keep_unreported(&mut self, scope: SyncScope, outcome: Answer<()>) {
        let Err(errno) = outcome else { return };
        match self.next(scope) {
            Some(next) => next.earlier = next.earlier.and(outcome),
            None => self.unreported.push((scope, errno)),
        }
    }

    fn take_unreported(&mut self, scope: SyncScope) -> Answer<()> {
        let mut outcome = Ok(());
        for (_, errno) in self.unreported.extract_if(.., |(of, _)| *of == scope) {
            outcome = outcome.and(Err(errno));
        }
        outcome
    }
}

/// Ends a turn with EIO if it has no outcome, and wakes its requests.
struct FailOnDrop<'t>(&'t SyncTurn, &'t EventCounter);

impl Drop for FailOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(Err(Errno::EIO));
        self.1.notify();
    }
}

/// The handle to the thread, which ends when this is dropped. `W` is what a call is made on.
pub(in crate::passthrough) struct SyncThread<W: Send + 'static = Option<FileRef>> {
    pending: Arc<Mutex<PendingTurns<W>>>,
    thread: TaskThread<Syncer<W>>,
}

impl<W: Send> fmt::Debug for SyncThread<W> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SyncThread").finish_non_exhaustive()
    }
}

impl SyncThread {
    /// Makes the thread, which is started for the first turn. `wake` is notified after each turn,
    /// and when the host has no room for the thread.
    pub(in crate::passthrough) fn new(
        threads: ThreadSetup,
        mounts: Arc<MountTable>,
        wake: Arc<EventCounter>,
    ) -> Self {
        Self::with(threads, wake, move |_, through| match through {
            None => mounts.sync(),
            // Not through the descriptor of the mount: the host reports an error of the mount once
            // to each description, and SYNCFS has to get it too.
            Some(file) => retry_on_intr(|| rustix::fs::syncfs(file.as_fd())).map_err(sync_errno),
        })
    }

    /// Makes every mount durable that the guest has reached.
    pub(in crate::passthrough) fn sync_share(&self) -> Arc<SyncTurn> {
        self.join(SyncScope::Share, None)
    }

    /// Makes the mount of a file durable.
    pub(in crate::passthrough) fn sync_mount_of(&self, file: &FileRef) -> Arc<SyncTurn> {
        self.join(SyncScope::Mount(file.key.mount), Some(Arc::clone(file)))
    }
}

impl<W: Send> SyncThread<W> {
    fn with(
        threads: ThreadSetup,
        wake: Arc<EventCounter>,
        sync: impl Fn(SyncScope, &W) -> Answer<()> + Send + Sync + 'static,
    ) -> Self {
        let pending = PendingTurns { turns: VecDeque::new(), unreported: Vec::new() };
        let pending = Arc::new(Mutex::new(pending));
        let syncer = Syncer { pending: Arc::clone(&pending), wake, sync: Box::new(sync) };
        Self { pending, thread: TaskThread::new("syncs", threads, syncer) }
    }

    /// Adds a request, and returns its turn, which begins after this call.
    fn join(&self, scope: SyncScope, with: W) -> Arc<SyncTurn> {
        let mut pending = self.pending.lock();
        if let Some(next) = pending.next(scope) {
            next.turn.enter();
            return Arc::clone(&next.turn);
        }
        let turn = Arc::new(SyncTurn::default());
        turn.enter();
        let earlier = pending.take_unreported(scope);
        pending.turns.push_back(PendingTurn { scope, with, turn: Arc::clone(&turn), earlier });
        drop(pending);
        // The number of tasks has no limit here, so the task is always accepted.
        self.thread.submit((), usize::MAX).unwrap_or_default();
        turn
    }

    /// Carries out one turn if the host has no room for the thread. Returns whether there was one.
    pub(in crate::passthrough) fn run_stuck(&self) -> bool {
        self.thread.run_stuck()
    }

    /// Forgets the errors that no request has got. Called when a session begins or ends,
    /// because another guest must not get them.
    pub(in crate::passthrough) fn forget_errors(&self) {
        self.pending.lock().unreported.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SYNC_WAITERS_MAX;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A disk that ends each call when the test says so, with the given outcome.
    struct Disk {
        thread: SyncThread<()>,
        wake: Arc<EventCounter>,
        begun: Receiver<SyncScope>,
        end: Sender<Answer<()>>,
        calls: Arc<AtomicUsize>,
    }

    impl Disk {
        fn new() -> Self {
            let (wake, calls) = (Arc::<EventCounter>::default(), Arc::<AtomicUsize>::default());
            let ((begins, begun), (end, outcomes)) = (channel(), channel());
            let (count, outcomes) = (Arc::clone(&calls), Mutex::new(outcomes));
            let sync = move |scope, (): &()| {
                count.fetch_add(1, Ordering::Relaxed);
                begins.send(scope).unwrap();
                outcomes.lock().recv().expect("the test has ended")
            };
            let threads = ThreadSetup::unconfined().unwrap();
            Self { thread: SyncThread::with(threads, Arc::clone(&wake), sync), wake, begun, end, calls }
        }

        fn join_share(&self) -> Arc<SyncTurn> {
            self.join(SyncScope::Share)
        }

        fn join(&self, scope: SyncScope) -> Arc<SyncTurn> {
            self.thread.join(scope, ())
        }

        fn join_many(&self, count: usize) -> Vec<Arc<SyncTurn>> {
            (0..count).map(|_| self.join_share()).collect()
        }

        fn wait_for_call(&self) {
            assert_eq!(self.begun.recv(), Ok(SyncScope::Share));
        }

        fn end_call(&self, outcome: Answer<()>) {
            self.end.send(outcome).unwrap();
        }
    }

    #[test]
    fn requests_during_a_turn_share_the_next_one() {
        let disk = Disk::new();
        let first = disk.join_share();
        disk.wait_for_call();
        // The call has begun, so it may miss data that these requests wrote before.
        let others = disk.join_many(1000);
        assert!(others.iter().all(|turn| *turn != first && *turn == others[0]));
        let before = disk.wake.count();
        disk.end_call(Ok(()));
        assert_eq!(first.wait(), Ok(()));
        disk.wait_for_call();
        assert!(disk.wake.count() > before, "no notification");
        assert!(others.iter().all(|turn| turn.outcome().is_none()));
        disk.end_call(Ok(()));
        assert!(others.iter().all(|turn| turn.wait() == Ok(())));
        assert_eq!(disk.calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn error_goes_to_requests_of_the_turn_and_during_it() {
        let disk = Disk::new();
        let before = disk.join_many(1);
        disk.wait_for_call();
        let failed = disk.join_many(100);
        disk.end_call(Ok(()));
        disk.wait_for_call();
        let (during, other) = (disk.join_many(100), disk.join(SyncScope::Mount(1)));
        disk.end_call(Err(Errno::EIO));
        disk.wait_for_call();
        let after = disk.join_many(100);
        disk.end_call(Ok(()));
        assert_eq!(disk.begun.recv(), Ok(SyncScope::Mount(1)));
        disk.end_call(Ok(()));
        disk.wait_for_call();
        disk.end_call(Ok(()));
        let expected =
            [(before, Ok(())), (failed, Err(Errno::EIO)), (during, Err(Errno::EIO)), (after, Ok(()))];
        for (number, (turns, outcome)) in expected.into_iter().enumerate() {
            assert!(turns.iter().all(|turn| turn.wait() == outcome), "{number}: {outcome:?}");
        }
        assert_eq!(other.wait(), Ok(()), "another mount");
    }

    #[test]
    fn unreported_error_goes_to_the_next_request() {
        let disk = Disk::new();
        let given_up = disk.join_share();
        disk.wait_for_call();
        assert!(!given_up.leave(|| false));
        assert!(given_up.leave(|| true));
        disk.end_call(Err(Errno::EIO));
        assert_eq!(given_up.wait(), Err(Errno::EIO));
        assert!(!given_up.leave(|| true), "the turn is over");
        // The first of these requests may come before the thread has kept the error. It gets the
        // error in any case.
        for outcome in [Err(Errno::EIO), Ok(())] {
            let next = disk.join_share();
            disk.wait_for_call();
            disk.end_call(Ok(()));
            assert_eq!(next.wait(), outcome);
        }
        let given_up = disk.join_share();
        disk.wait_for_call();
        assert!(given_up.leave(|| true));
        let other = disk.join(SyncScope::Mount(1));
        disk.end_call(Err(Errno::EIO));
        assert_eq!(disk.begun.recv(), Ok(SyncScope::Mount(1)));
        disk.thread.forget_errors();
        disk.end_call(Ok(()));
        assert_eq!(other.wait(), Ok(()));
        let next = disk.join_share();
        disk.wait_for_call();
        disk.end_call(Ok(()));
        assert_eq!(next.wait(), Ok(()), "the error was another guest's");
    }

    #[test]
    fn turns_of_different_scopes_run_in_order() {
        let disk = Disk::new();
        let scopes = [SyncScope::Share, SyncScope::Mount(1), SyncScope::Mount(2)];
        let asked = [0, 1, 2, 1, 2, 1].map(|number: usize| disk.join(scopes[number]));
        for scope in scopes {
            assert_eq!(disk.begun.recv(), Ok(scope));
            disk.end_call(Ok(()));
        }
        assert!(asked.iter().all(|turn| turn.wait() == Ok(())));
        assert_eq!(disk.calls.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn panic_in_a_turn_leaves_no_request_waiting() {
        let disk = Disk::new();
        let under_way = disk.join_share();
        disk.wait_for_call();
        let waiting = disk.join_share();
        // Every call of the disk panics from now on, because the test sends no outcome.
        let Disk { thread, end, begun, .. } = disk;
        drop(end);
        assert_eq!((under_way.wait(), waiting.wait()), (Err(Errno::EIO), Err(Errno::EIO)));
        assert_eq!(thread.join(SyncScope::Share, ()).wait(), Err(Errno::EIO));
        drop(begun);
    }

    #[test]
    fn deferred_requests_of_a_turn_are_limited() {
        let disk = Disk::new();
        disk.join_share();
        disk.wait_for_call();
        let without_room = std::iter::repeat_with(|| disk.join_share()).position(|turn| !turn.has_room());
        assert_eq!(without_room, Some(SYNC_WAITERS_MAX));
        disk.end_call(Ok(()));
    }
}
