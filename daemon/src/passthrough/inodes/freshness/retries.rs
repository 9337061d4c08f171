//! Threads of the guest that look a path up once more.
//!
//! A program's open or stat is several requests: LOOKUPs on the way, then OPEN or GETATTR. What was found may be replaced
//! by another guest in between. To ESTALE Linux looks all of the path up again, from the host (`LOOKUP_REVAL`), but only
//! once; then the program gets it. So what such a thread finds is kept open until it has come for it: then it cannot
//! be gone once more.

use crate::limits::{RETRIES_MAX, RETRY_LIMIT, REWALK_NODES_MAX};
use crate::sync::clock;
use crate::sync::lock::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A thread that was answered ESTALE.
#[derive(Debug)]
struct Retry {
    /// The guest's number for it.
    pid: u32,
    since: Instant,
    /// What it was to open, then what it has found since, if an OPEN or an operation in a removed directory was refused.
    opens: Option<u64>,
    /// The name that it looked up when it was refused, by its hash; 0: none. Its walk ends where it finds that name.
    looks_for: u64,
    /// The last nodes that it has found on its walk, at most [`REWALK_NODES_MAX`].
    way: VecDeque<u64>,
}

/// A thread that was sent back from a node because that was removed ([`crate::passthrough::inodes::freshness::removed`]).
#[derive(Debug)]
struct Refusal {
    pid: u32,
    asked: Asked,
    /// It has looked the same name up since.
    is_back: bool,
    since: Instant,
}

/// What a thread asked of a node.
#[derive(Clone, Copy, Debug)]
pub(in crate::passthrough) struct Asked {
    pub(in crate::passthrough) node: u64,
    /// A hash of the name in the node; 0: the node itself.
    pub(in crate::passthrough) name: u64,
    pub(in crate::passthrough) is_lookup: bool,
}

impl Asked {
    const fn is_of(self, other: Self) -> bool {
        self.node == other.node && self.name == other.name
    }
}

/// Threads that were answered ESTALE and have not opened anything since.
#[derive(Debug, Default)]
pub(in crate::passthrough) struct Retries {
    threads: Mutex<VecDeque<Retry>>,
    count: AtomicUsize,
    refusals: Mutex<VecDeque<Refusal>>,
}

impl Retries {
    /// This thread is answered ESTALE, to an OPEN of a node or to something else.
    pub(super) fn expect(&self, pid: u32, opens: Option<u64>) {
        self.change(|threads| {
            let since = clock::now();
            let known = threads.iter().position(|other| other.pid == pid).and_then(|at| threads.remove(at));
            if threads.len() >= RETRIES_MAX {
                threads.pop_front();
            }
            threads.push_back(match known {
                // It was refused more than that just now.
                Some(known) if opens.is_none() => Retry { since, ..known },
                Some(_) | None => Retry { pid, since, opens, looks_for: 0, way: VecDeque::new() },
            });
        });
    }

    /// Whether this thread is on its way.
    pub(super) fn expects(&self, pid: u32) -> bool {
        let is_it = |threads: &mut VecDeque<Retry>| threads.iter().any(|other| other.pid == pid);
        self.count.load(Ordering::Acquire) > 0 && self.change(is_it)
    }

    /// This thread has found a node by a name (a hash of it), or that the name is not there. That need not be the end:
    /// Linux looks a name up twice where it meant something else before.
    pub(super) fn found(&self, pid: u32, name: u64, node: Option<u64>) {
        self.change(|threads| {
            for thread in threads.iter_mut().filter(|other| other.pid == pid) {
                thread.opens = thread.opens.and(Some(node.unwrap_or(0)));
                if node.is_some() && thread.looks_for == name {
                    thread.way.clear();
                    continue;
                }
                if thread.way.len() >= REWALK_NODES_MAX {
                    thread.way.pop_front();
                }
                thread.way.extend(node);
            }
        });
    }

    /// Whether this thread has found a node on its way.
    fn has_found(&self, pid: u32, node: u64) -> bool {
        let is_it = |thread: &Retry| thread.pid == pid && thread.way.contains(&node);
        self.count.load(Ordering::Acquire) > 0 && self.change(|threads| threads.iter().any(is_it))
    }

    /// This thread is on its way no more. Whether it was, to open this node.
    pub(in crate::passthrough) fn settle(&self, pid: u32, node: Option<u64>) -> bool {
        let take = |threads: &mut VecDeque<Retry>| {
            let at = threads.iter().position(|other| other.pid == pid);
            at.and_then(|at| threads.remove(at)).is_some_and(|it| it.opens.is_some() && it.opens == node)
        };
        self.count.load(Ordering::Acquire) > 0 && self.change(take)
    }

    /// Whether a thread that is answered for a removed node is sent back to look its path up, if that may lead elsewhere.
    /// Not where it found the node on the way that it was sent, nor where it comes back by the same name.
    pub(in crate::passthrough) fn sends_back(
        &self,
        pid: u32,
        asked: Asked,
        leads_elsewhere: impl FnOnce() -> bool,
    ) -> bool {
        if self.has_found(pid, asked.node) {
            return false;
        }
        let mut refusals = self.refusals.lock();
        refusals.retain(|refusal| clock::elapsed(refusal.since) < RETRY_LIMIT);
        let known = refusals.iter().position(|it| it.pid == pid && it.asked.is_of(asked));
        if let Some(mut known) = known.and_then(|at| refusals.remove(at)) {
            // A LOOKUP may be the first half of what comes back, and what is done to the name the second.
            if !asked.is_lookup {
                drop(refusals);
                self.settle(pid, None);
                return false;
            }
            if !known.is_back {
                known.is_back = true;
                refusals.push_back(known);
                return false;
            }
        }
        drop(refusals);
        // Not under the lock: it asks the host.
        if !leads_elsewhere() {
            return false;
        }
        let mut refusals = self.refusals.lock();
        if refusals.len() >= RETRIES_MAX {
            refusals.pop_front();
        }
        refusals.push_back(Refusal { pid, asked, is_back: false, since: clock::now() });
        drop(refusals);
        self.expect(pid, Some(asked.node));
        self.change(|threads| {
            if let Some(thread) = threads.iter_mut().find(|thread| thread.pid == pid) {
                thread.looks_for = if asked.is_lookup { asked.name } else { 0 };
            }
        });
        true
    }

    /// This thread has come back to a removed node itself. It is sent back anew if it comes again.
    pub(in crate::passthrough) fn forget_refusal(&self, pid: u32, node: u64) {
        let mut refusals = self.refusals.lock();
        refusals.retain(|it| it.pid != pid || it.asked.node != node || it.asked.name != 0);
    }

    pub(in crate::passthrough) fn clear(&self) {
        self.change(VecDeque::clear);
        self.refusals.lock().clear();
    }

    /// A panic while the lock is held breaks nothing: any list of threads is as good as another.
    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<Retry>) -> T) -> T {
        let mut threads = self.threads.lock();
        threads.retain(|thread| clock::elapsed(thread.since) < RETRY_LIMIT);
        let changed = change(&mut threads);
        self.count.store(threads.len(), Ordering::Release);
        changed
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
        retries.found(7, 5, Some(2));
        retries.found(8, 5, Some(2));
        assert!(retries.settle(7, Some(2)) && !retries.settle(7, Some(2)));
        assert!(!retries.settle(8, Some(2)), "it was refused something else");
        assert_eq!(retries.count.load(Ordering::Acquire), 0);
        retries.expect(7, Some(1));
        assert!(!retries.settle(7, Some(3)) && !retries.expects(7), "it has opened something else");
        retries.expect(7, Some(1));
        assert!(retries.settle(7, Some(1)), "there was no path to look up");
    }

    #[test]
    fn a_thread_is_sent_back_from_a_removed_node_once() {
        let retries = Retries::default();
        let sends_back = |pid, asked| retries.sends_back(pid, asked, || true);
        let done = |node, name| Asked { node, name, is_lookup: false };
        let looked = |node, name| Asked { node, name, is_lookup: true };
        assert!(sends_back(7, done(1, 5)) && !sends_back(7, done(1, 5)));
        assert!(sends_back(7, done(1, 5)), "it came of itself");
        assert!(sends_back(8, done(1, 5)), "another thread");
        assert!(sends_back(7, done(2, 5)) && sends_back(7, done(1, 6)), "node, name");
        // CREATE looks its name up first, both times.
        assert!(sends_back(9, looked(1, 5)) && !sends_back(9, looked(1, 5)));
        assert!(!sends_back(9, done(1, 5)));
        assert!(sends_back(9, looked(1, 5)) && !sends_back(9, looked(1, 5)));
        assert!(sends_back(9, looked(1, 5)), "only looked up");
        assert!(!retries.sends_back(10, looked(1, 5), || false), "another way leads nowhere");
    }

    #[test]
    fn a_thread_takes_a_removed_node_that_it_was_sent_to() {
        let retries = Retries::default();
        let sends_back = |pid, asked| retries.sends_back(pid, asked, || true);
        let at = |node| Asked { node, name: 0, is_lookup: false };
        assert!(sends_back(7, at(1)));
        retries.expect(7, None);
        retries.found(7, 5, Some(3));
        retries.found(7, 5, None);
        assert!(!retries.has_found(7, 2) && !sends_back(7, at(3)), "it was sent there");
        retries.found(7, 5, Some(4));
        assert!(retries.settle(7, Some(4)), "what it found last is opened as it is");
        assert!(sends_back(7, at(3)), "it came of itself");
        (0..100).for_each(|node| retries.found(7, 5, Some(node)));
        assert!(retries.has_found(7, 99) && !retries.has_found(7, 0));
    }

    #[test]
    fn a_walk_ends_where_the_name_is_found() {
        let retries = Retries::default();
        let looked = |node| Asked { node, name: 5, is_lookup: true };
        let sends_back = |node| retries.sends_back(7, looked(node), || true);
        assert!(sends_back(1));
        retries.found(7, 3, Some(2));
        assert!(retries.has_found(7, 2), "it is on its way");
        retries.found(7, 5, None);
        assert!(retries.has_found(7, 2), "it found nothing by the name");
        retries.found(7, 5, Some(9));
        assert!(sends_back(2), "it comes of itself to what was removed since");
    }

    #[test]
    fn no_more_threads_are_remembered_than_the_limit() {
        let retries = Retries::default();
        let count = u32::try_from(RETRIES_MAX).unwrap();
        let asked = Asked { node: 1, name: 0, is_lookup: false };
        assert!((0..2 * count).all(|pid| retries.sends_back(pid, asked, || true)));
        assert_eq!(retries.refusals.lock().len(), RETRIES_MAX);
        assert_eq!(retries.count.load(Ordering::Acquire), RETRIES_MAX);
    }

    #[test]
    fn threads_that_never_arrive_are_forgotten() {
        let retries = Retries::default();
        let count = u32::try_from(RETRIES_MAX).unwrap();
        for pid in 0..=count {
            retries.expect(pid, None);
        }
        assert!(!retries.expects(0) && retries.expects(1) && retries.expects(count));
        let long_ago = clock::now().checked_sub(RETRY_LIMIT).unwrap();
        retries.change(|threads| threads.iter_mut().for_each(|thread| thread.since = long_ago));
        assert!(!retries.expects(1));
        assert_eq!(retries.count.load(Ordering::Acquire), 0);
    }
}
