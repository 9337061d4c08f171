//! Threads of the guest that look up a path again because they got ESTALE.
//!
//! An open or stat of a program is several requests: LOOKUPs along the path, then OPEN or GETATTR.
//! Another guest may replace an inode between them. When Linux gets ESTALE, it looks up the whole
//! path again, but only once; a second ESTALE goes to the program. So an inode that such a thread
//! finds stays open until the thread uses it: an open inode cannot be gone again.

use crate::limits::{RETRIES_MAX, RETRY_LIMIT, REWALK_NODES_MAX};
use crate::sync::clock;
use crate::sync::lock::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A thread that got ESTALE and looks up its path again.
#[derive(Debug)]
struct PathRetry {
    /// The guest's number for the thread.
    pid: u32,
    since: Instant,
    /// The node that the thread wants to open, then the last node that it has found. It is set if
    /// the thread got ESTALE for an OPEN, or in a removed directory.
    opens: Option<u64>,
    /// Hash of the name of the LOOKUP that got ESTALE, or 0 for another request. The path of the
    /// thread ends where it finds that name.
    looks_for: u64,
    /// Last nodes that it has found, at most [`REWALK_NODES_MAX`].
    found: VecDeque<u64>,
}

/// A request of a thread that got ESTALE because its node was removed.
#[derive(Debug)]
struct Refusal {
    pid: u32,
    request: RefusedRequest,
    /// The thread has looked up the same name again.
    is_repeated: bool,
    since: Instant,
}

/// A request on a node, or on a name in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefusedRequest {
    pub(super) node: u64,
    /// Hash of the name in the node, or 0 if the request is about the node itself.
    pub(super) name: u64,
    pub(super) is_lookup: bool,
}

impl RefusedRequest {
    const fn is_same_target(self, other: Self) -> bool {
        self.node == other.node && self.name == other.name
    }
}

/// Threads that got ESTALE and have not reached the end of their path since.
///
/// A panic under a lock breaks nothing: any list of threads is valid.
#[derive(Debug, Default)]
pub(crate) struct PathRetries {
    threads: Mutex<VecDeque<PathRetry>>,
    /// Length of `threads`. It is 0 most of the time.
    count: AtomicUsize,
    refusals: Mutex<VecDeque<Refusal>>,
}

impl PathRetries {
    /// Adds a thread that gets ESTALE. `opens` is the node, if the request was an OPEN.
    pub(super) fn add(&self, pid: u32, opens: Option<u64>) {
        self.change(|threads| {
            let since = clock::now();
            let known = threads.iter().position(|other| other.pid == pid).and_then(|at| threads.remove(at));
            if threads.len() >= RETRIES_MAX {
                threads.pop_front();
            }
            threads.push_back(match known {
                // `refuses` has just added the thread, with more fields.
                Some(known) if opens.is_none() => PathRetry { since, ..known },
                Some(_) | None => PathRetry { pid, since, opens, looks_for: 0, found: VecDeque::new() },
            });
        });
    }

    /// Returns whether a thread looks up its path again.
    pub(super) fn contains(&self, pid: u32) -> bool {
        let contains = |threads: &mut VecDeque<PathRetry>| threads.iter().any(|other| other.pid == pid);
        !self.is_empty() && self.change(contains)
    }

    /// Notes that a thread has found a node by a name (by its hash), or that the name does not
    /// exist. This need not be the end of the path: Linux looks up a name twice if it had another
    /// inode before.
    pub(super) fn note_found(&self, pid: u32, name: u64, node: Option<u64>) {
        self.change(|threads| {
            for thread in threads.iter_mut().filter(|other| other.pid == pid) {
                thread.opens = thread.opens.and(Some(node.unwrap_or(0)));
                if node.is_some() && thread.looks_for == name {
                    thread.found.clear();
                    continue;
                }
                if thread.found.len() >= REWALK_NODES_MAX {
                    thread.found.pop_front();
                }
                thread.found.extend(node);
            }
        });
    }

    /// Returns whether a thread has found a node while it looked up its path again.
    fn has_found(&self, pid: u32, node: u64) -> bool {
        let has_found = |thread: &PathRetry| thread.pid == pid && thread.found.contains(&node);
        !self.is_empty() && self.change(|threads| threads.iter().any(has_found))
    }

    /// Removes a thread, whose path ends at `node`. Returns whether the thread wants to open this
    /// node.
    pub(super) fn finish(&self, pid: u32, node: Option<u64>) -> bool {
        let take = |threads: &mut VecDeque<PathRetry>| {
            let at = threads.iter().position(|other| other.pid == pid);
            let thread = at.and_then(|at| threads.remove(at));
            thread.is_some_and(|thread| thread.opens.is_some() && thread.opens == node)
        };
        !self.is_empty() && self.change(take)
    }

    /// Returns whether a thread gets ESTALE for a removed node. It does if its path may lead to
    /// another inode, unless it has found the node while it looked up its path again, or repeats
    /// the request.
    pub(super) fn refuses(
        &self,
        pid: u32,
        request: RefusedRequest,
        leads_elsewhere: impl FnOnce() -> bool,
    ) -> bool {
        if self.has_found(pid, request.node) {
            return false;
        }
        let mut refusals = self.refusals.lock();
        refusals.retain(|refusal| clock::elapsed(refusal.since) < RETRY_LIMIT);
        let known = refusals.iter().position(|it| it.pid == pid && it.request.is_same_target(request));
        if let Some(mut known) = known.and_then(|at| refusals.remove(at)) {
            // The repetition may be a LOOKUP and then the operation on that name.
            if !request.is_lookup {
                drop(refusals);
                self.finish(pid, None);
                return false;
            }
            if !known.is_repeated {
                known.is_repeated = true;
                refusals.push_back(known);
                return false;
            }
        }
        drop(refusals);
        // Not under the lock, because this calls the host.
        if !leads_elsewhere() {
            return false;
        }
        let mut refusals = self.refusals.lock();
        if refusals.len() >= RETRIES_MAX {
            refusals.pop_front();
        }
        refusals.push_back(Refusal { pid, request, is_repeated: false, since: clock::now() });
        drop(refusals);
        self.add(pid, Some(request.node));
        self.change(|threads| {
            if let Some(thread) = threads.iter_mut().find(|thread| thread.pid == pid) {
                thread.looks_for = if request.is_lookup { request.name } else { 0 };
            }
        });
        true
    }

    /// Forgets that a thread got ESTALE at a node, once it has repeated the request. Its next
    /// request there can get ESTALE again.
    pub(super) fn forget_refusal(&self, pid: u32, node: u64) {
        let mut refusals = self.refusals.lock();
        refusals.retain(|it| it.pid != pid || it.request.node != node || it.request.name != 0);
    }

    /// Forgets all threads.
    pub(crate) fn clear(&self) {
        self.change(VecDeque::clear);
        self.refusals.lock().clear();
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<PathRetry>) -> T) -> T {
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
    fn thread_is_known_until_it_opens_its_last_node() {
        let retries = PathRetries::default();
        assert!(!retries.contains(7) && !retries.finish(7, Some(1)));
        retries.add(7, Some(1));
        retries.add(8, None);
        assert!(retries.contains(7) && retries.contains(8) && !retries.contains(9));
        retries.note_found(7, 5, Some(2));
        retries.note_found(8, 5, Some(2));
        assert!(retries.finish(7, Some(2)) && !retries.finish(7, Some(2)));
        assert!(!retries.finish(8, Some(2)), "ESTALE was for another request");
        assert_eq!(retries.count.load(Ordering::Acquire), 0);
        retries.add(7, Some(1));
        assert!(!retries.finish(7, Some(3)) && !retries.contains(7), "it has opened another node");
        retries.add(7, Some(1));
        assert!(retries.finish(7, Some(1)), "there was no path to look up");
    }

    #[test]
    fn thread_is_refused_once_at_a_removed_node() {
        let retries = PathRetries::default();
        let refuses = |pid, asked| retries.refuses(pid, asked, || true);
        let done = |node, name| RefusedRequest { node, name, is_lookup: false };
        let looked = |node, name| RefusedRequest { node, name, is_lookup: true };
        assert!(refuses(7, done(1, 5)) && !refuses(7, done(1, 5)));
        assert!(refuses(7, done(1, 5)), "this is a new request");
        assert!(refuses(8, done(1, 5)), "another thread");
        assert!(refuses(7, done(2, 5)) && refuses(7, done(1, 6)), "node, name");
        // CREATE looks its name up first, both times.
        assert!(refuses(9, looked(1, 5)) && !refuses(9, looked(1, 5)));
        assert!(!refuses(9, done(1, 5)));
        assert!(refuses(9, looked(1, 5)) && !refuses(9, looked(1, 5)));
        assert!(refuses(9, looked(1, 5)), "only looked up");
        assert!(!retries.refuses(10, looked(1, 5), || false), "the path leads to no other inode");
    }

    #[test]
    fn thread_is_not_refused_at_a_node_found_while_retrying() {
        let retries = PathRetries::default();
        let refuses = |pid, asked| retries.refuses(pid, asked, || true);
        let at = |node| RefusedRequest { node, name: 0, is_lookup: false };
        assert!(refuses(7, at(1)));
        retries.add(7, None);
        retries.note_found(7, 5, Some(3));
        retries.note_found(7, 5, None);
        assert!(!retries.has_found(7, 2) && !refuses(7, at(3)), "the retry led there");
        retries.note_found(7, 5, Some(4));
        assert!(retries.finish(7, Some(4)), "the last node that it found");
        assert!(refuses(7, at(3)), "this is a new request");
        (0..100).for_each(|node| retries.note_found(7, 5, Some(node)));
        assert!(retries.has_found(7, 99) && !retries.has_found(7, 0));
    }

    #[test]
    fn path_ends_where_the_name_is_found() {
        let retries = PathRetries::default();
        let looked = |node| RefusedRequest { node, name: 5, is_lookup: true };
        let refuses = |node| retries.refuses(7, looked(node), || true);
        assert!(refuses(1));
        retries.note_found(7, 3, Some(2));
        assert!(retries.has_found(7, 2), "the path has not ended");
        retries.note_found(7, 5, None);
        assert!(retries.has_found(7, 2), "the name does not exist");
        retries.note_found(7, 5, Some(9));
        assert!(refuses(2), "this is a new request, at an inode that was removed since");
    }

    #[test]
    fn number_of_threads_is_limited() {
        let retries = PathRetries::default();
        let count = u32::try_from(RETRIES_MAX).unwrap();
        let asked = RefusedRequest { node: 1, name: 0, is_lookup: false };
        assert!((0..2 * count).all(|pid| retries.refuses(pid, asked, || true)));
        assert_eq!(retries.refusals.lock().len(), RETRIES_MAX);
        assert_eq!(retries.count.load(Ordering::Acquire), RETRIES_MAX);
    }

    #[test]
    fn threads_are_forgotten_after_the_limit() {
        let retries = PathRetries::default();
        let count = u32::try_from(RETRIES_MAX).unwrap();
        for pid in 0..=count {
            retries.add(pid, None);
        }
        assert!(!retries.contains(0) && retries.contains(1) && retries.contains(count));
        let long_ago = clock::now().checked_sub(RETRY_LIMIT).unwrap();
        retries.change(|threads| threads.iter_mut().for_each(|thread| thread.since = long_ago));
        assert!(!retries.contains(1));
        assert_eq!(retries.count.load(Ordering::Acquire), 0);
    }
}
