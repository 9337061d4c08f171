//! Directories and links that another process removed while the guest still goes by their names.
//!
//! Linux trusts a name for the entry timeout. Meanwhile another process may remove what had the name and put something
//! else there. A removed directory is empty and nothing can be made in it, so the guest would take the new directory
//! for an empty one. To ESTALE Linux looks the whole path up once more, asking the host for each name.
//!
//! So ESTALE is the first answer of a removed directory or link. A thread that comes back to the same inode has no path
//! that leads elsewhere: it works in the directory or holds it open. It gets what a local file system answers. READDIR is
//! never answered so, because Linux has no path to look up for an open stream: OPENDIR was asked before.
//!
//! LOOKUP is special. Where Linux looks a name up to make it (mkdir, mknod, symlink, link) it gives ESTALE to the
//! program at once, and tries again only if the making itself is answered so. LOOKUP does not say what it is for. So it
//! is answered ESTALE only where the name exists by now in what took the directory's place ([`Inodes::is_found_anew`]).

use crate::filesystem::{Answer, Caller};
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::freshness::retries::Asked;
use crate::passthrough::inodes::node::NodeRef;
use crate::passthrough::resolve::{self, DELETED};
use pinhole_protocol::{Errno, Name};
use std::os::fd::{AsFd, BorrowedFd};

/// An inode, or a name in a directory.
pub(in crate::passthrough) type Place<'p> = (&'p NodeRef, Option<Name<'p>>);

impl Inodes {
    /// Whether the guest may go by names that have changed on the host.
    pub(in crate::passthrough) fn trusts_names(&self) -> bool {
        !self.entry_timeout.is_zero()
    }

    /// The answer to an operation on names in these directories, or on these inodes themselves: ESTALE once to a thread
    /// instead of ENOENT where one of them was removed.
    pub(in crate::passthrough) fn answer_at<T>(
        &self,
        places: &[Place<'_>],
        caller: &Caller<'_>,
        answer: Answer<T>,
    ) -> Answer<T> {
        match answer {
            Ok(done) => {
                // Its walk ended here.
                self.retries.settle(caller.pid, None);
                Ok(done)
            }
            Err(Errno::ENOENT) if self.trusts_names() => {
                for (node, name) in places {
                    if self.reach(node).is_ok_and(|fd| self.is_removed(node, fd.as_fd())) {
                        self.send_back((node, *name), caller)?;
                    }
                }
                Err(Errno::ENOENT)
            }
            Err(Errno::ESTALE) => self.answer_unreached(places, caller).and(Err(Errno::ESTALE)),
            answer => answer,
        }
    }

    /// ENOENT to a thread that comes back to what cannot even be opened any more.
    fn answer_unreached(&self, places: &[Place<'_>], caller: &Caller<'_>) -> Answer<()> {
        let is_gone = |place: &&Place<'_>| matches!(self.reach(place.0), Err(Errno::ESTALE));
        match places.iter().find(is_gone) {
            Some(gone) => self.send_back(*gone, caller).and(Err(Errno::ENOENT)),
            None => Ok(()),
        }
    }

    /// The same for LOOKUP.
    pub(in crate::passthrough) fn answer_lookup<T>(
        &self,
        (directory, name): (&NodeRef, Name<'_>),
        caller: &Caller<'_>,
        answer: Answer<T>,
    ) -> Answer<T> {
        let asked = self.asked((directory, Some(name)), true);
        match answer {
            Err(Errno::ENOENT)
                if self.trusts_names()
                    && let Ok(fd) = self.reach(directory)
                    && self.is_removed(directory, fd.as_fd()) =>
            {
                let sent_back =
                    self.retries.sends_back(caller.pid, asked, || self.is_found_anew(fd.as_fd(), name));
                Err(if sent_back { Errno::ESTALE } else { Errno::ENOENT })
            }
            Err(Errno::ESTALE) if matches!(self.reach(directory), Err(Errno::ESTALE)) => {
                let sent_back = self.retries.sends_back(caller.pid, asked, || true);
                Err(if sent_back { Errno::ESTALE } else { Errno::ENOENT })
            }
            answer => answer,
        }
    }

    /// What a descriptor leads to is still there, or the thread was told that it is not.
    ///
    /// # Errors
    /// ESTALE.
    pub(in crate::passthrough) fn check_not_removed(
        &self,
        (node, fd): (&NodeRef, BorrowedFd<'_>),
        caller: &Caller<'_>,
    ) -> Answer<()> {
        let removed = self.trusts_names() && self.is_removed(node, fd);
        if removed { self.send_back((node, None), caller) } else { Ok(()) }
    }

    /// Sends a thread back to look its path up, unless it comes from there.
    ///
    /// # Errors
    /// ESTALE.
    fn send_back(&self, place: Place<'_>, caller: &Caller<'_>) -> Answer<()> {
        let sent_back = self.retries.sends_back(caller.pid, self.asked(place, false), || true);
        if sent_back { Err(Errno::ESTALE) } else { Ok(()) }
    }

    fn asked(&self, (node, name): Place<'_>, is_lookup: bool) -> Asked {
        let name = name.map_or(0, |name| self.table.hash_of_name(name));
        Asked { node: node.id(), name, is_lookup }
    }

    /// Whether an inode has no name any more.
    ///
    /// On overlayfs a directory that was merged from several layers always has one link, and one of a lower layer keeps
    /// its links. There the name in /proc tells: a directory has only one.
    fn is_removed(&self, node: &NodeRef, fd: BorrowedFd<'_>) -> bool {
        let named_removed = || self.proc_fds.path_of(fd).is_some_and(|path| path.ends_with(DELETED));
        resolve::stat(fd).is_ok_and(|stat| stat.is_deleted())
            || !node.mount.traits.counts_links && named_removed()
    }

    /// Whether the path of a removed directory leads to something that has a name, or may have it.
    ///
    /// Under rules by path that is not looked for: a path tells nothing of the rules that decided on its directory.
    fn is_found_anew(&self, removed: BorrowedFd<'_>, name: Name<'_>) -> bool {
        let look = || {
            let _ticket = self.ticket()?;
            let root = self.reach(&self.table.get(pinhole_protocol::NodeId::ROOT)?)?;
            let directory = resolve::successor_of(&self.proc_fds, root.as_fd(), removed)?;
            resolve::stat_beneath(directory.as_fd(), name)
        };
        self.rules().is_some() || !matches!(look(), Err(Errno::ENOENT))
    }
}
