//! Answers requests about directories and symbolic links that another guest or the host has removed
//! while the guest still caches their names.
//!
//! Linux caches a name for the entry timeout. In that time, another process may remove the inode
//! and give its name to another inode. A removed directory is empty and nothing can be created in
//! it, so the guest would see an empty directory instead of the new one. When Linux gets ESTALE, it
//! looks up the whole path again and asks the daemon for each name.
//!
//! So the first request of a thread on a removed directory or link gets ESTALE. If the thread then
//! sends a request on the same inode again, no path led it to another inode: the thread works in
//! the directory or has it open. This second request gets the reply of a local file system. READDIR
//! never gets ESTALE, because Linux has no path to look up again for an open directory. Its OPENDIR
//! has already been checked.
//!
//! LOOKUP is an exception. If Linux looks up a name to create it (mkdir, mknod, symlink, link), it
//! passes ESTALE to the program at once. It repeats only if the creating request itself gets
//! ESTALE. A LOOKUP does not carry its purpose. So it gets ESTALE only if the name exists in the
//! directory that has the same path now ([`Inodes::may_exist_in_successor`]).

use crate::filesystem::{Answer, Caller};
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::freshness::path_retries::RefusedRequest;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve::{self, DELETED};
use pinhole_protocol::{Errno, Name, NodeId};
use std::os::fd::{AsFd, BorrowedFd};

/// An inode, or a name in a directory.
type Target<'p> = (&'p NodeRef, Option<Name<'p>>);

impl Inodes {
    /// Returns whether the guest may use names that have changed on the host.
    fn guest_caches_names(&self) -> bool {
        !self.entry_timeout.is_zero()
    }

    /// Returns the reply to an operation on `targets`. If the operation failed with ENOENT and one
    /// of the inodes was removed, returns ESTALE instead, once for each thread.
    pub(crate) fn stale_if_removed<T>(
        &self,
        targets: &[Target<'_>],
        caller: &Caller<'_>,
        answer: Answer<T>,
    ) -> Answer<T> {
        match answer {
            Ok(done) => {
                // The thread has reached the end of its path.
                self.retries.finish(caller.pid, None);
                Ok(done)
            }
            Err(Errno::ENOENT) if self.guest_caches_names() => {
                for (node, name) in targets {
                    if self.descriptor(node).is_ok_and(|fd| self.is_removed(node, fd.as_fd())) {
                        self.refuse_once((node, *name), caller)?;
                    }
                }
                Err(Errno::ENOENT)
            }
            Err(Errno::ESTALE) => {
                let is_gone = |target: &&Target<'_>| matches!(self.descriptor(target.0), Err(Errno::ESTALE));
                let Some(gone) = targets.iter().find(is_gone) else { return Err(Errno::ESTALE) };
                // A thread that comes back to an inode that cannot be opened gets ENOENT.
                self.refuse_once(*gone, caller).and(Err(Errno::ENOENT))
            }
            answer => answer,
        }
    }

    /// Returns the reply to a LOOKUP. If the LOOKUP failed with ENOENT and the directory was
    /// removed, returns ESTALE instead, once for each thread and name.
    pub(super) fn stale_lookup_if_removed<T>(
        &self,
        (directory, name): (&NodeRef, Name<'_>),
        caller: &Caller<'_>,
        answer: Answer<T>,
    ) -> Answer<T> {
        let refuse = |leads_elsewhere: &dyn Fn() -> bool| {
            let request = self.refused_request((directory, Some(name)), true);
            let refused = self.retries.refuses(caller.pid, request, leads_elsewhere);
            Err(if refused { Errno::ESTALE } else { Errno::ENOENT })
        };
        match answer {
            Err(Errno::ENOENT)
                if self.guest_caches_names()
                    && let Ok(fd) = self.descriptor(directory)
                    && self.is_removed(directory, fd.as_fd()) =>
            {
                refuse(&|| self.may_exist_in_successor(fd.as_fd(), name))
            }
            Err(Errno::ESTALE) if matches!(self.descriptor(directory), Err(Errno::ESTALE)) => {
                refuse(&|| true)
            }
            answer => answer,
        }
    }

    /// Checks that an inode was not removed.
    ///
    /// # Errors
    /// ESTALE if it was removed. A thread gets the error only once for the same inode.
    pub(crate) fn check_not_removed(
        &self,
        (node, fd): (&NodeRef, BorrowedFd<'_>),
        caller: &Caller<'_>,
    ) -> Answer<()> {
        let removed = self.guest_caches_names() && self.is_removed(node, fd);
        if removed { self.refuse_once((node, None), caller) } else { Ok(()) }
    }

    /// Makes a thread look up its path again, unless it has just done so.
    ///
    /// # Errors
    /// ESTALE.
    fn refuse_once(&self, target: Target<'_>, caller: &Caller<'_>) -> Answer<()> {
        let request = self.refused_request(target, false);
        if self.retries.refuses(caller.pid, request, || true) { Err(Errno::ESTALE) } else { Ok(()) }
    }

    fn refused_request(&self, (node, name): Target<'_>, is_lookup: bool) -> RefusedRequest {
        let name = name.map_or(0, |name| self.table.hash_of_name(name));
        RefusedRequest { node: node.id(), name, is_lookup }
    }

    /// Returns whether an inode has lost its last name.
    ///
    /// On overlayfs, a directory that was merged from several layers always has one link, and a
    /// directory of a lower layer keeps its links. There the name in /proc decides: a directory has
    /// only one.
    fn is_removed(&self, node: &NodeRef, fd: BorrowedFd<'_>) -> bool {
        let has_lost_name = || self.proc_fds.path_of(fd).is_some_and(|path| path.ends_with(DELETED));
        resolve::stat(fd).is_ok_and(|stat| stat.is_deleted())
            || !node.mount.traits.counts_links && has_lost_name()
    }

    /// Returns whether a name exists, or may exist, in the directory that has the path of a removed
    /// directory now.
    ///
    /// Under path rules the daemon does not check, and returns true: a path does not show which
    /// rules applied to its directory.
    fn may_exist_in_successor(&self, removed: BorrowedFd<'_>, name: Name<'_>) -> bool {
        let look = || {
            let _ticket = self.descriptor_ticket()?;
            let root = self.descriptor(&self.table.get(NodeId::ROOT)?)?;
            let directory = resolve::successor_of(&self.proc_fds, root.as_fd(), removed)?;
            resolve::stat_beneath(directory.as_fd(), name)
        };
        self.rules().is_some() || !matches!(look(), Err(Errno::ENOENT))
    }
}
