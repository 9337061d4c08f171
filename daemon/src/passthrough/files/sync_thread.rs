//! The thread that makes whole file systems durable (`syncfs(2)`): for SYNCFS, and for FSYNC of a
//! file that has lost the name by which it was opened.
//!
//! The thread makes one call after another. Requests for the same file systems that come before a
//! call begins share that turn and its outcome. A later request waits for the next turn. So the
//! host has one such call at a time, whatever a guest sends, and no serving thread waits for it.
//!
//! The host reports an error once to each open file description, and all of these requests share
//! one. So an error goes to every request that was there when it happened: to the requests of the
//! turn that failed, whose data it may be, and to those that came during it.

use crate::filesystem::{Answer, SyncTurn};
use crate::passthrough::files::FileRef;
use crate::passthrough::inodes::MountTable;
use crate::passthrough::resolve::sync_errno;
use crate::sync::channel::bounded_channel;
use crate::sync::event::EventCounter;
use crate::sync::lock::{Condvar, Mutex};
use crate::thread_setup::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::Errno;
use rustix::io::retry_on_intr;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Stack size of the thread, which makes one system call.
const STACK_LEN: usize = 64 << 10;

/// The file systems that a turn makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncScope {
    /// Every mount that the guest has reached.
    Share,
    /// One mount, by its number, through a file on it.
    Mount(u32),
}

/// The turns that have not begun: at most one for each mount, and one for the share.
#[derive(Debug)]
struct SyncQueue<W> {
    pending: Mutex<PendingTurns<W>>,
    changed: Condvar,
}

#[derive(Debug)]
struct PendingTurns<W> {
    turns: VecDeque<PendingTurn<W>>,
    /// Errors of turns whose requests were all given up. The next request of the same scope gets
    /// them.
    unreported: Vec<(SyncScope, Errno)>,
    /// No turn begins any more.
    closed: bool,
}

/// A turn that has not begun.
#[derive(Debug)]
struct PendingTurn<W> {
    scope: SyncScope,
    /// What the call is made on.
    with: W,
    turn: Arc<SyncTurn>,
    /// The outcome of the turns during which the requests of this turn came.
    earlier: Answer<()>,
}

impl<W> SyncQueue<W> {
    fn new() -> Self {
        let pending = PendingTurns { turns: VecDeque::new(), unreported: Vec::new(), closed: false };
        Self { pending: Mutex::new(pending), changed: Condvar::new() }
    }

    /// Adds a request, and returns its turn, which begins after this call.
    ///
    /// # Errors
    /// EIO if the thread has ended.
    fn join(&self, scope: SyncScope, with: W) -> Answer<Arc<SyncTurn>> {
        let mut pending = self.pending.lock();
        if pending.closed {
            return Err(Errno::EIO);
        }
        if let Some(next) = pending.next(scope) {
            next.turn.enter();
            return Ok(Arc::clone(&next.turn));
        }
        let turn = Arc::new(SyncTurn::default());
        turn.enter();
        let earlier = pending.take_unreported(scope);
        pending.turns.push_back(PendingTurn { scope, with, turn: Arc::clone(&turn), earlier });
        drop(pending);
        self.changed.notify_one();
        Ok(turn)
    }

    /// Carries out one turn after another until the queue is closed. `wake` is notified after each.
    fn run(&self, wake: &EventCounter, sync: impl Fn(SyncScope, &W) -> Answer<()>) {
        // Also after a panic: no request may wait for a turn that never begins.
        let _close = CloseOnDrop(self, wake);
        while let Some(PendingTurn { scope, with, turn, earlier }) = self.take() {
            let fail_on_panic = FailOnDrop(&turn);
            let outcome = sync(scope, &with);
            // Requests that came during the turn get its error before its own requests do, which
            // may ask again at once.
            self.add_to_next(scope, outcome);
            let outcome = earlier.and(outcome);
            if !turn.end(outcome) {
                self.keep_unreported(scope, outcome);
            }
            drop(fail_on_panic);
            wake.notify();
        }
    }

    fn add_to_next(&self, scope: SyncScope, outcome: Answer<()>) {
        if let Some(next) = self.pending.lock().next(scope) {
            next.earlier = next.earlier.and(outcome);
        }
    }

    /// Keeps an error that no request has got for the next one.
    fn keep_unreported(&self, scope: SyncScope, outcome: Answer<()>) {
        let Err(errno) = outcome else { return };
        let mut pending = self.pending.lock();
        match pending.next(scope) {
            Some(next) => next.earlier = next.earlier.and(outcome),
            None => pending.unreported.push((scope, errno)),
        }
    }

    /// Forgets the errors that a guest which is gone has not got.
    fn forget_errors(&self) {
        self.pending.lock().unreported.clear();
    }

    fn take(&self) -> Option<PendingTurn<W>> {
        let mut pending = self.pending.lock();
        loop {
            if pending.closed {
                return None;
            }
            if let Some(next) = pending.turns.pop_front() {
                return Some(next);
            }
            pending = self.changed.wait(pending);
        }
    }

    fn close(&self) {
        let left = {
            let mut pending = self.pending.lock();
            pending.closed = true;
            std::mem::take(&mut pending.turns)
        };
        for next in left {
            next.turn.end(Err(Errno::EIO));
        }
        self.changed.notify_one();
    }
}

impl<W> PendingTurns<W> {
    fn next(&mut self, scope: SyncScope) -> Option<&mut PendingTurn<W>> {
        self.turns.iter_mut().find(|next| next.scope == scope)
    }

    fn take_unreported(&mut self, scope: SyncScope) -> Answer<()> {
        let mut outcome = Ok(());
        for (_, errno) in self.unreported.extract_if(.., |(of, _)| *of == scope) {
            outcome = outcome.and(Err(errno));
        }
        outcome
    }
}

/// Ends a turn with EIO if it has no outcome.
struct FailOnDrop<'t>(&'t SyncTurn);

impl Drop for FailOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(Err(Errno::EIO));
    }
}

/// Closes the queue when its thread ends.
struct CloseOnDrop<'t, W>(&'t SyncQueue<W>, &'t EventCounter);

impl<W> Drop for CloseOnDrop<'_, W> {
    fn drop(&mut self) {
        self.0.close();
        self.1.notify();
    }
}

/// The handle to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(in crate::passthrough) struct SyncThread(Arc<SyncQueue<Option<FileRef>>>);

impl SyncThread {
    /// Starts the thread. It cannot start later, because threads that serve may not start threads.
    /// `wake` is notified after each turn.
    pub(in crate::passthrough) fn start(
        threads: ThreadSetup,
        mounts: Arc<MountTable>,
        wake: Arc<EventCounter>,
    ) -> io::Result<Self> {
        let queue = Arc::new(SyncQueue::new());
        let own = Arc::clone(&queue);
        let (confined, is_confined) = bounded_channel(1);
        let sync = move |_: SyncScope, through: &Option<FileRef>| match through {
            None => mounts.sync(),
            // Not through the descriptor of the mount: the host reports an error of the mount once
            // to each description, and SYNCFS has to get it too.
            Some(file) => retry_on_intr(|| rustix::fs::syncfs(file.as_fd())).map_err(sync_errno),
        };
        std::thread::Builder::new().name("syncs".to_owned()).stack_size(STACK_LEN).spawn(move || {
            let result = threads.confine(Threads::OFFLOAD);
            let failed = result.is_err();
            if confined.try_send(result).is_ok() && !failed {
                own.run(&wake, sync);
            }
        })?;
        is_confined.receive().ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(Self(queue))
    }

    /// Makes every mount durable that the guest has reached.
    ///
    /// # Errors
    /// EIO if the thread has ended.
    pub(in crate::passthrough) fn sync_share(&self) -> Answer<Arc<SyncTurn>> {
        self.0.join(SyncScope::Share, None)
    }

    /// Makes the mount of a file durable.
    ///
    /// # Errors
    /// EIO if the thread has ended.
    pub(in crate::passthrough) fn sync_mount_of(&self, file: &FileRef) -> Answer<Arc<SyncTurn>> {
        self.0.join(SyncScope::Mount(file.key.mount), Some(Arc::clone(file)))
    }

    /// Forgets the errors that a guest which is gone has not got.
    pub(in crate::passthrough) fn forget_errors(&self) {
        self.0.forget_errors();
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.0.close();
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
        queue: Arc<SyncQueue<()>>,
        wake: Arc<EventCounter>,
        begun: Receiver<SyncScope>,
        end: Sender<Answer<()>>,
        calls: Arc<AtomicUsize>,
    }

    impl Disk {
        fn new() -> Self {
            let (queue, wake) = (Arc::new(SyncQueue::new()), Arc::new(EventCounter::default()));
            let calls = Arc::new(AtomicUsize::new(0));
            let ((begins, begun), (end, outcomes)) = (channel(), channel());
            let (own, event, count) = (Arc::clone(&queue), Arc::clone(&wake), Arc::clone(&calls));
            std::thread::spawn(move || {
                own.run(&event, |scope, ()| {
                    count.fetch_add(1, Ordering::Relaxed);
                    begins.send(scope).unwrap();
                    outcomes.recv().expect("the test has ended")
                });
            });
            Self { queue, wake, begun, end, calls }
        }

        fn join(&self) -> Arc<SyncTurn> {
            self.queue.join(SyncScope::Share, ()).unwrap()
        }

        fn join_many(&self, count: usize) -> Vec<Arc<SyncTurn>> {
            (0..count).map(|_| self.join()).collect()
        }

        fn has_begun(&self) {
            assert_eq!(self.begun.recv(), Ok(SyncScope::Share));
        }

        fn ends(&self, outcome: Answer<()>) {
            self.end.send(outcome).unwrap();
        }
    }

    #[test]
    fn requests_during_a_turn_share_the_next_one() {
        let disk = Disk::new();
        let first = disk.join();
        disk.has_begun();
        // The call has begun, so it may miss data that these requests wrote before.
        let others = disk.join_many(1000);
        assert!(others.iter().all(|turn| *turn != first && *turn == others[0]));
        let before = disk.wake.count();
        disk.ends(Ok(()));
        assert_eq!(first.wait(), Ok(()));
        disk.has_begun();
        assert!(disk.wake.count() > before, "no notification");
        assert!(others.iter().all(|turn| turn.outcome().is_none()));
        disk.ends(Ok(()));
        assert!(others.iter().all(|turn| turn.wait() == Ok(())));
        assert_eq!(disk.calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn error_goes_to_every_request_before_the_end_of_its_turn() {
        let disk = Disk::new();
        let before = disk.join_many(1);
        disk.has_begun();
        let failed = disk.join_many(100);
        disk.ends(Ok(()));
        disk.has_begun();
        let (during, other) = (disk.join_many(100), disk.queue.join(SyncScope::Mount(1), ()).unwrap());
        disk.ends(Err(Errno::EIO));
        disk.has_begun();
        let after = disk.join_many(100);
        disk.ends(Ok(()));
        assert_eq!(disk.begun.recv(), Ok(SyncScope::Mount(1)));
        disk.ends(Ok(()));
        disk.has_begun();
        disk.ends(Ok(()));
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
        let given_up = disk.join();
        disk.has_begun();
        assert!(!given_up.leave(|| false));
        assert!(given_up.leave(|| true));
        disk.ends(Err(Errno::EIO));
        assert_eq!(given_up.wait(), Err(Errno::EIO));
        assert!(!given_up.leave(|| true), "it is over");
        // This may still be during the failed turn, with the same result.
        for outcome in [Err(Errno::EIO), Ok(())] {
            let next = disk.join();
            disk.has_begun();
            disk.ends(Ok(()));
            assert_eq!(next.wait(), outcome);
        }
        let given_up = disk.join();
        disk.has_begun();
        assert!(given_up.leave(|| true));
        let other = disk.queue.join(SyncScope::Mount(1), ()).unwrap();
        disk.ends(Err(Errno::EIO));
        assert_eq!(disk.begun.recv(), Ok(SyncScope::Mount(1)));
        disk.queue.forget_errors();
        disk.ends(Ok(()));
        assert_eq!(other.wait(), Ok(()));
        let next = disk.join();
        disk.has_begun();
        disk.ends(Ok(()));
        assert_eq!(next.wait(), Ok(()), "it was another guest's");
    }

    #[test]
    fn turns_of_different_scopes_run_in_order() {
        let disk = Disk::new();
        let scopes = [SyncScope::Share, SyncScope::Mount(1), SyncScope::Mount(2)];
        let asked = [0, 1, 2, 1, 2, 1].map(|number: usize| disk.queue.join(scopes[number], ()).unwrap());
        for scope in scopes {
            assert_eq!(disk.begun.recv(), Ok(scope));
            disk.ends(Ok(()));
        }
        assert!(asked.iter().all(|turn| turn.wait() == Ok(())));
        assert_eq!(disk.calls.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn ended_thread_leaves_no_request_waiting() {
        let disk = Disk::new();
        let under_way = disk.join();
        disk.has_begun();
        let waiting = disk.join();
        // Its next call panics.
        drop(disk.end);
        assert_eq!((under_way.wait(), waiting.wait()), (Err(Errno::EIO), Err(Errno::EIO)));
        assert_eq!(disk.queue.join(SyncScope::Share, ()), Err(Errno::EIO));
    }

    #[test]
    fn requests_without_a_thread_are_limited() {
        let disk = Disk::new();
        disk.join();
        disk.has_begun();
        let without_room = std::iter::repeat_with(|| disk.join()).position(|turn| !turn.has_room());
        assert_eq!(without_room, Some(SYNC_WAITERS_MAX));
        disk.ends(Ok(()));
    }
}
