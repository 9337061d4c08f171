//! SYNCFS, and the part of FSYNC that makes the name of a file durable.

use crate::filesystem::{Answer, Durable};
use crate::passthrough::Passthrough;
use crate::passthrough::files::FileRef;
use crate::passthrough::resolve;
use std::os::fd::AsFd;

impl Passthrough {
    /// Makes every mount durable that the guest has reached, not only the mount of the node: a
    /// program that writes on a submount relies on it.
    pub(super) fn sync_fs(&self) -> Durable {
        Durable::With(self.sync_thread.sync_share())
    }

    /// Makes the name of a file durable after the file itself, if the host may have left it out.
    ///
    /// btrfs logs an inode with the name by which it was opened. Here that is the first name by
    /// which the guest reached it. If that name was removed in the transaction in which the
    /// directory was made, a loss of power removes the file, whatever other names it has. The path
    /// of the descriptor shows this. Then the whole mount is made durable, because an fsync by
    /// another name does nothing: the inode is in the log already. A file without any name has none
    /// to lose.
    ///
    /// This comes after the fsync, so that it sees a name that is removed meanwhile.
    pub(super) fn sync_names(&self, file: &FileRef) -> Answer<Durable> {
        if file.traits.fsync_keeps_names
            || !self.inodes.proc_fds().may_have_lost_its_name(file.as_fd())
            || resolve::stat(file.as_fd())?.is_deleted()
        {
            return Ok(Durable::Done);
        }
        Ok(Durable::With(self.sync_thread.sync_mount_of(file)))
    }
}
