//! Makes whole file systems durable (`syncfs(2)`): SYNCFS, and FSYNC of a file that has lost the name by which it was
//! opened.
//!
//! A thread of its own makes these calls, one after another. Requests for the same thing that come before its turn
//! begins share that turn and its outcome; one that comes later waits for the next turn. So whatever a guest sends, the
//! host has one such call at a time, and no thread that serves requests waits for it.
//!
//! The host tells an error once to each open file description, and all of these requests share one. So an error is told
//! to every request that was there when it happened: to those of the turn that failed, whose data it may be, and to those
//! that came during it.

use crate::filesystem::{Answer, Durable, SyncTurn};
use crate::passthrough::Passthrough;
use crate::passthrough::files::handles::FileHandle;
use crate::passthrough::inodes::MountTable;
use crate::passthrough::resolve::{self, sync_errno};
use crate::passthrough::slots::Entry;
use crate::sync::channel::bounded_channel;
use crate::sync::event::EventCounter;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::thread_setup::ThreadSetup;
use pinhole_policy::host_calls::Threads;
use pinhole_protocol::{self as protocol, Errno};
use rustix::io::retry_on_intr;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Memory for the thread's stack: it makes one system call.
const STACK_LEN: usize = 64 << 10;

/// What a turn makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Every mount that the guest has reached.
    Share,
    /// One mount, by its number, through a file on it.
    Mount(u32),
}

/// The turns that have not begun. There are no more than the share has mounts, and one.
#[derive(Debug)]
struct Turns<W> {
    waiting: Mutex<Waiting<W>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Waiting<W> {
    turns: VecDeque<Next<W>>,
    /// Errors of turns whose requests were all given up; each is the next request's.
    unheard: Vec<(Scope, Errno)>,
    /// No turn begins any more.
    over: bool,
}

/// A turn that has not begun.
#[derive(Debug)]
struct Next<W> {
    scope: Scope,
    /// What it is made by.
    with: W,
    turn: Arc<SyncTurn>,
    /// What its requests have heard of the turns during which they came.
    heard: Answer<()>,
}

impl<W> Turns<W> {
    fn new() -> Self {
        let waiting = Waiting { turns: VecDeque::new(), unheard: Vec::new(), over: false };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    /// A turn that begins after this call.
    ///
    /// # Errors
    /// EIO where the thread that would take it is gone.
    fn join(&self, scope: Scope, with: W) -> Answer<Arc<SyncTurn>> {
        let mut waiting = self.lock();
        if waiting.over {
            return Err(Errno::EIO);
        }
        if let Some(next) = waiting.next(scope) {
            next.turn.enter();
            return Ok(Arc::clone(&next.turn));
        }
        let turn = Arc::new(SyncTurn::default());
        turn.enter();
        let heard = waiting.take_unheard(scope);
        waiting.turns.push_back(Next { scope, with, turn: Arc::clone(&turn), heard });
        drop(waiting);
        self.changed.notify_one();
        Ok(turn)
    }

    /// Takes one turn after another until it is over.
    fn take_all(&self, wake: &EventCounter, sync: impl Fn(Scope, &W) -> Answer<()>) {
        // Also after a panic: no request may wait for a turn that no thread takes.
        let _end = End(self, wake);
        while let Some(Next { scope, with, turn, heard }) = self.take() {
            let under_way = UnderWay(&turn);
            let outcome = sync(scope, &with);
            // Those that came during it hear of an error before its own requests do, which may ask again at once.
            self.tell_next(scope, outcome);
            let outcome = heard.and(outcome);
            if !turn.end(outcome) {
                self.keep(scope, outcome);
            }
            drop(under_way);
            wake.notify();
        }
    }

    fn tell_next(&self, scope: Scope, outcome: Answer<()>) {
        if let Some(next) = self.lock().next(scope) {
            next.heard = next.heard.and(outcome);
        }
    }

    /// Keeps an error that no request has heard of for the next one.
    fn keep(&self, scope: Scope, outcome: Answer<()>) {
        let Err(errno) = outcome else { return };
        let mut waiting = self.lock();
        match waiting.next(scope) {
            Some(next) => next.heard = next.heard.and(outcome),
            None => waiting.unheard.push((scope, errno)),
        }
    }

    /// The guest is gone, and errors that it has not heard of are no other's.
    fn forget_errors(&self) {
        self.lock().unheard.clear();
    }

    fn take(&self) -> Option<Next<W>> {
        let mut waiting = self.lock();
        loop {
            if waiting.over {
                return None;
            }
            if let Some(next) = waiting.turns.pop_front() {
                return Some(next);
            }
            waiting = self.changed.wait(waiting);
        }
    }

    fn end(&self) {
        let left = {
            let mut waiting = self.lock();
            waiting.over = true;
            std::mem::take(&mut waiting.turns)
        };
        for next in left {
            next.turn.end(Err(Errno::EIO));
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<W>> {
        // Nothing is left half done under this lock.
        self.waiting.lock()
    }
}

impl<W> Waiting<W> {
    fn next(&mut self, scope: Scope) -> Option<&mut Next<W>> {
        self.turns.iter_mut().find(|next| next.scope == scope)
    }

    fn take_unheard(&mut self, scope: Scope) -> Answer<()> {
        let mut heard = Ok(());
        for (_, errno) in self.unheard.extract_if(.., |(of, _)| *of == scope) {
            heard = heard.and(Err(errno));
        }
        heard
    }
}

/// Ends a turn with EIO if it has no outcome.
struct UnderWay<'t>(&'t SyncTurn);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.end(Err(Errno::EIO));
    }
}

/// Ends all turns when the thread that takes them ends.
struct End<'t, W>(&'t Turns<W>, &'t EventCounter);

impl<W> Drop for End<'_, W> {
    fn drop(&mut self) {
        self.0.end();
        self.1.notify();
    }
}

/// The file through which the mount of a turn is reached.
type Through = Option<Arc<Entry<FileHandle>>>;

/// The thread that takes the turns; it ends when this is dropped.
#[derive(Debug)]
pub(in crate::passthrough) struct Syncs(Arc<Turns<Through>>);

impl Syncs {
    /// Starts the thread: now, because threads that serve requests may not start any. `wake` is notified after each turn.
    pub(in crate::passthrough) fn start(
        threads: ThreadSetup,
        mounts: Arc<MountTable>,
        wake: Arc<EventCounter>,
    ) -> io::Result<Self> {
        let turns = Arc::new(Turns::new());
        let own = Arc::clone(&turns);
        let (fit, is_fit) = bounded_channel(1);
        let sync = move |_: Scope, through: &Through| match through {
            None => mounts.sync(),
            // By this descriptor, not the mount's: the host tells an error of the mount once to each description, and
            // SYNCFS is to hear it too.
            Some(file) => retry_on_intr(|| rustix::fs::syncfs(file.as_fd())).map_err(sync_errno),
        };
        std::thread::Builder::new().name("syncs".to_owned()).stack_size(STACK_LEN).spawn(move || {
            let sealed = threads.confine(Threads::OFFLOAD);
            let failed = sealed.is_err();
            if fit.try_send(sealed).is_ok() && !failed {
                own.take_all(&wake, sync);
            }
        })?;
        is_fit.receive().ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(Self(turns))
    }

    /// See [`Turns::forget_errors`].
    pub(in crate::passthrough) fn forget_errors(&self) {
        self.0.forget_errors();
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Passthrough {
    /// Every mount that the guest has reached, not only the one asked about: a writer on a submount relies on it.
    pub(in crate::passthrough) fn sync_fs(&self, _: protocol::SyncFs) -> Answer<Durable> {
        self.syncs.0.join(Scope::Share, None).map(Durable::With)
    }

    /// After a file was made durable: its name too, where the host may have left that out.
    ///
    /// btrfs logs an inode with the name by which it was opened. Here that is the name that the guest came by first; where it
    /// has been taken from the file since, in the transaction in which the directory was made, a loss of power takes the
    /// file along with it, whatever other name it has. Such a file is known by its descriptor, and its whole mount is
    /// made durable: another fsync by a name that lives does nothing, the inode is in the log. What has no name at all has
    /// none to lose.
    ///
    /// Asked afterwards, so that a name that is taken away meanwhile counts as well.
    pub(in crate::passthrough) fn sync_names(&self, file: &Arc<Entry<FileHandle>>) -> Answer<Durable> {
        if file.traits.fsync_keeps_names
            || !self.inodes.proc_fds().may_have_lost_its_name(file.as_fd())
            || resolve::stat(file.as_fd())?.is_deleted()
        {
            return Ok(Durable::Done);
        }
        let turn = self.syncs.0.join(Scope::Mount(file.key.mount), Some(Arc::clone(file)));
        turn.map(Durable::With)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SYNC_WAITERS_MAX;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A disk that takes each call when it is told to, with this outcome.
    struct Disk {
        turns: Arc<Turns<()>>,
        wake: Arc<EventCounter>,
        begun: Receiver<Scope>,
        end: Sender<Answer<()>>,
        calls: Arc<AtomicUsize>,
    }

    impl Disk {
        fn new() -> Self {
            let (turns, wake) = (Arc::new(Turns::new()), Arc::new(EventCounter::default()));
            let calls = Arc::new(AtomicUsize::new(0));
            let ((tell, begun), (end, told)) = (channel(), channel());
            let (own, event, count) = (Arc::clone(&turns), Arc::clone(&wake), Arc::clone(&calls));
            std::thread::spawn(move || {
                own.take_all(&event, |scope, ()| {
                    count.fetch_add(1, Ordering::Relaxed);
                    tell.send(scope).unwrap();
                    told.recv().expect("a panic where the test has ended")
                });
            });
            Self { turns, wake, begun, end, calls }
        }

        fn join(&self) -> Arc<SyncTurn> {
            self.turns.join(Scope::Share, ()).unwrap()
        }

        fn join_many(&self, count: usize) -> Vec<Arc<SyncTurn>> {
            (0..count).map(|_| self.join()).collect()
        }

        fn has_begun(&self) {
            assert_eq!(self.begun.recv(), Ok(Scope::Share));
        }

        fn ends(&self, outcome: Answer<()>) {
            self.end.send(outcome).unwrap();
        }
    }

    #[test]
    fn requests_that_come_during_a_turn_share_the_next_one() {
        let disk = Disk::new();
        let first = disk.join();
        disk.has_begun();
        // The call has begun, so it may miss what these have written before.
        let others = disk.join_many(1000);
        assert!(others.iter().all(|turn| *turn != first && *turn == others[0]));
        let before = disk.wake.count();
        disk.ends(Ok(()));
        assert_eq!(first.wait(), Ok(()));
        disk.has_begun();
        assert!(disk.wake.count() > before, "nobody is told");
        assert!(others.iter().all(|turn| turn.outcome().is_none()));
        disk.ends(Ok(()));
        assert!(others.iter().all(|turn| turn.wait() == Ok(())));
        assert_eq!(disk.calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn every_request_that_was_there_when_a_turn_failed_hears_of_it_and_no_other() {
        let disk = Disk::new();
        let before = disk.join_many(1);
        disk.has_begun();
        let failed = disk.join_many(100);
        disk.ends(Ok(()));
        disk.has_begun();
        let (during, other) = (disk.join_many(100), disk.turns.join(Scope::Mount(1), ()).unwrap());
        disk.ends(Err(Errno::EIO));
        disk.has_begun();
        let after = disk.join_many(100);
        disk.ends(Ok(()));
        assert_eq!(disk.begun.recv(), Ok(Scope::Mount(1)));
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
    fn an_error_that_no_request_has_heard_of_is_the_next_ones() {
        let disk = Disk::new();
        let given_up = disk.join();
        disk.has_begun();
        assert!(!given_up.leave(|| false));
        assert!(given_up.leave(|| true));
        disk.ends(Err(Errno::EIO));
        assert_eq!(given_up.wait(), Err(Errno::EIO));
        assert!(!given_up.leave(|| true), "it is over");
        // Until the thread has noted that, this may be during the turn, which comes to the same.
        for outcome in [Err(Errno::EIO), Ok(())] {
            let next = disk.join();
            disk.has_begun();
            disk.ends(Ok(()));
            assert_eq!(next.wait(), outcome);
        }
        let given_up = disk.join();
        disk.has_begun();
        assert!(given_up.leave(|| true));
        let other = disk.turns.join(Scope::Mount(1), ()).unwrap();
        disk.ends(Err(Errno::EIO));
        assert_eq!(disk.begun.recv(), Ok(Scope::Mount(1)));
        disk.turns.forget_errors();
        disk.ends(Ok(()));
        assert_eq!(other.wait(), Ok(()));
        let next = disk.join();
        disk.has_begun();
        disk.ends(Ok(()));
        assert_eq!(next.wait(), Ok(()), "it was another guest's");
    }

    #[test]
    fn turns_for_different_things_are_taken_in_their_order() {
        let disk = Disk::new();
        let scopes = [Scope::Share, Scope::Mount(1), Scope::Mount(2)];
        let asked = [0, 1, 2, 1, 2, 1].map(|number: usize| disk.turns.join(scopes[number], ()).unwrap());
        for scope in scopes {
            assert_eq!(disk.begun.recv(), Ok(scope));
            disk.ends(Ok(()));
        }
        assert!(asked.iter().all(|turn| turn.wait() == Ok(())));
        assert_eq!(disk.calls.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_thread_that_ends_leaves_nothing_waiting() {
        let disk = Disk::new();
        let under_way = disk.join();
        disk.has_begun();
        let waiting = disk.join();
        // Its next call panics.
        drop(disk.end);
        assert_eq!((under_way.wait(), waiting.wait()), (Err(Errno::EIO), Err(Errno::EIO)));
        assert_eq!(disk.turns.join(Scope::Share, ()), Err(Errno::EIO));
    }

    #[test]
    fn so_many_wait_for_a_turn_without_a_thread() {
        let disk = Disk::new();
        disk.join();
        disk.has_begun();
        let without_room = std::iter::repeat_with(|| disk.join()).position(|turn| !turn.has_room());
        assert_eq!(without_room, Some(SYNC_WAITERS_MAX));
        disk.ends(Ok(()));
    }
}
