//! Threads of the guest that look a path up once more.
//!
//! A program's open or stat is several requests: LOOKUPs on the way, then OPEN or GETATTR. What was found may be replaced
//! by another guest in between. To ESTALE Linux looks all of the path up again, from the host (`LOOKUP_REVAL`), but only
//! once; then the program gets it. So what such a thread finds is kept open until it has come for it: then it cannot
//! be gone once more.

use super::nodes::NodeRef;
use super::passthrough::Passthrough;
use super::{Answer, Call, Caller};
use crate::limits::{RETRIES_MAX, RETRY_LIMIT};
use pinhole_protocol::{Entry, Errno, Lookup, Name, Open};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Times that a name is looked up anew when what it meant is gone before it could be opened.
const LOOKUP_TRIES: usize = 8;

/// A thread that was answered ESTALE.
#[derive(Debug)]
struct Retry {
    /// The guest's number for it.
    pid: u32,
    since: Instant,
    /// What it was to open, then what it has found since, if it is an OPEN that was refused.
    opens: Option<u64>,
}

/// Threads that were answered ESTALE and have not opened anything since.
#[derive(Debug, Default)]
pub(super) struct Retries {
    threads: Mutex<VecDeque<Retry>>,
    count: AtomicUsize,
}

impl Retries {
    /// This thread is answered ESTALE, to an OPEN of a node or to something else.
    fn expect(&self, pid: u32, opens: Option<u64>) {
        self.change(|threads| {
            threads.retain(|other| other.pid != pid);
            if threads.len() >= RETRIES_MAX {
                threads.pop_front();
            }
            threads.push_back(Retry { pid, since: Instant::now(), opens });
        });
    }

    /// Whether this thread is on its way.
    fn expects(&self, pid: u32) -> bool {
        let is_it = |threads: &mut VecDeque<Retry>| threads.iter().any(|other| other.pid == pid);
        self.count.load(Ordering::Acquire) > 0 && self.change(is_it)
    }

    /// This thread has found a node on its way.
    fn found(&self, pid: u32, node: u64) {
        self.change(|threads| {
            for opens in threads.iter_mut().filter(|other| other.pid == pid).map(|other| &mut other.opens) {
                *opens = opens.map(|_before| node);
            }
        });
    }

    /// This thread is on its way no more. Whether it was, to open this node.
    pub(super) fn settle(&self, pid: u32, node: Option<u64>) -> bool {
        let take = |threads: &mut VecDeque<Retry>| {
            let at = threads.iter().position(|other| other.pid == pid);
            at.and_then(|at| threads.remove(at)).is_some_and(|it| it.opens.is_some() && it.opens == node)
        };
        self.count.load(Ordering::Acquire) > 0 && self.change(take)
    }

    pub(super) fn clear(&self) {
        self.change(VecDeque::clear);
    }

    /// A panic while the lock is held breaks nothing: any list of threads is as good as another.
    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<Retry>) -> T) -> T {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| thread.since.elapsed() < RETRY_LIMIT);
        let changed = change(&mut threads);
        self.count.store(threads.len(), Ordering::Release);
        changed
    }
}

impl Passthrough {
    /// Notes who is answered ESTALE.
    pub(super) fn note_stale<T>(&self, caller: &Caller<'_>, answer: Answer<T>) -> Answer<T> {
        if matches!(answer, Err(Errno::ESTALE)) {
            self.retries.expect(caller.pid, None);
        }
        answer
    }

    /// Notes who is answered ESTALE to an OPEN.
    pub(super) fn note_stale_open<T>(&self, call: &Call<'_, Open>, answer: Answer<T>) -> Answer<T> {
        if matches!(answer, Err(Errno::ESTALE)) {
            self.retries.expect(call.caller.pid, Some(call.node.0));
        }
        answer
    }

    pub(super) fn lookup(&self, parent: &NodeRef, call: &Call<'_, Lookup<'_>>) -> Answer<Entry> {
        if !self.retries.expects(call.caller.pid) {
            return self.look_up(parent, call.operation.name);
        }
        let found = self.look_up_to_stay(parent, call.operation.name);
        match &found {
            Ok(entry) => self.retries.found(call.caller.pid, entry.node.0),
            Err(_) => drop(self.retries.settle(call.caller.pid, None)),
        }
        found
    }

    /// As [`Self::look_up`], but what is found is open then, if there is a descriptor left for it.
    fn look_up_to_stay(&self, parent: &NodeRef, name: Name<'_>) -> Answer<Entry> {
        for _ in 0..LOOKUP_TRIES {
            let entry = self.look_up(parent, name)?;
            match self.reach(&self.nodes.get(entry.node)?) {
                Err(Errno::ESTALE) => drop(self.nodes.forget(entry.node, 1)),
                Ok(_) | Err(_) => return Ok(entry),
            }
        }
        self.look_up(parent, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_expected_until_it_opens_what_it_has_found() {
        let retries = Retries::default();
        assert!(!retries.expects(7) && !retries.settle(7, Some(1)));
        retries.expect(7, Some(1));
        retries.expect(8, None);
        assert!(retries.expects(7) && retries.expects(8) && !retries.expects(9));
        retries.found(7, 2);
        retries.found(8, 2);
        assert!(retries.settle(7, Some(2)) && !retries.settle(7, Some(2)));
        assert!(!retries.settle(8, Some(2)), "it was refused something else");
        assert_eq!(retries.count.load(Ordering::Acquire), 0);
        retries.expect(7, Some(1));
        assert!(!retries.settle(7, Some(3)) && !retries.expects(7), "it has opened something else");
        retries.expect(7, Some(1));
        assert!(retries.settle(7, Some(1)), "there was no path to look up");
    }

    #[test]
    fn threads_that_never_arrive_are_forgotten() {
        let retries = Retries::default();
        let count = u32::try_from(RETRIES_MAX).unwrap();
        for pid in 0..=count {
            retries.expect(pid, None);
        }
        assert!(!retries.expects(0) && retries.expects(1) && retries.expects(count));
        let long_ago = Instant::now().checked_sub(RETRY_LIMIT).unwrap();
        retries.change(|threads| threads.iter_mut().for_each(|thread| thread.since = long_ago));
        assert!(!retries.expects(1));
        assert_eq!(retries.count.load(Ordering::Acquire), 0);
    }
}
