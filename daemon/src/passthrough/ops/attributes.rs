//! GETATTR, SETATTR, STATX, ACCESS, STATFS, READLINK.

use crate::filesystem::{Answer, Call, Caller, Pace, Paced, permits};
use crate::passthrough::Passthrough;
use crate::passthrough::files::FileRef;
use crate::passthrough::identity::checked_id;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::ops::open::{lease_flags, or_leased};
use crate::passthrough::resolve::{self, Stat, errno};
use pinhole_protocol::{self as protocol, AccessMask, Attr, Errno, Handle, SetAttr, SetTime, Statfs, Statx};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, StatVfsMountFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::path::DecInt;
use std::os::fd::{AsFd, BorrowedFd};

/// The inode of a descriptor of any kind, also of a symbolic link.
const BY_DESCRIPTOR: AtFlags = AtFlags::EMPTY_PATH.union(AtFlags::SYMLINK_NOFOLLOW);

impl Passthrough {
    pub(super) fn get_attr(&self, node: &NodeRef, get: protocol::GetAttr) -> Answer<Attr> {
        Ok(self.inodes.attr(&node.mount, &self.stat_either(node, get.handle)?))
    }

    pub(super) fn get_statx(&self, node: &NodeRef, get: protocol::GetStatx) -> Answer<Statx> {
        let stat = self.stat_either(node, get.handle)?;
        Ok(Statx { ino: self.inodes.inode_number(&node.mount, stat.inode()), ..stat.statx() })
    }

    /// Reads the attributes by the guest's handle if it is an open file of this node, else by the
    /// node. The handle of a directory, or an invented handle, is not an error.
    fn stat_either(&self, node: &NodeRef, handle: Option<Handle>) -> Answer<Stat> {
        let stat = match self.open_file(node, handle) {
            Some(file) => resolve::stat(file.as_fd()),
            None => self.inodes.stat(node),
        }?;
        node.guest_cache.sent_attributes(&stat);
        self.inodes.note_blocks(node, &stat);
        Ok(stat)
    }

    /// Returns the open file of a handle, if it is a file of this node.
    fn open_file(&self, node: &NodeRef, handle: Option<Handle>) -> Option<FileRef> {
        self.files.file(handle?).ok().filter(|file| file.key == node.key())
    }

    /// Sets the size first and the times last, because a step may change attributes that a later
    /// step sets: a truncation changes the times, a new owner drops set-user-id.
    pub(super) fn set_attr(
        &self,
        node: &NodeRef,
        call: &Call<'_, SetAttr>,
        pace: Pace,
    ) -> Answer<Paced<Attr>> {
        let wanted = &call.operation;
        node.guest_cache.note_own_change();
        let fd = self.inodes.descriptor(node)?;
        if let Some(size) = wanted.size {
            match self.truncate(node, size, (wanted, pace))? {
                Paced::Ready(()) => {}
                Paced::WouldBlock => return Ok(Paced::WouldBlock),
                Paced::Leased => return Ok(Paced::Leased),
                Paced::Stopped => return Ok(Paced::Stopped),
            }
        }
        if wanted.uid.is_some() || wanted.gid.is_some() {
            let uid = wanted.uid.map(checked_id).transpose()?.map(Uid::from_raw);
            let gid = wanted.gid.map(checked_id).transpose()?.map(Gid::from_raw);
            let drops = self.drops_plain_set_group_id(fd.as_fd(), &call.caller)?;
            self.identity.kill_suidgid(drops)?;
            rustix::fs::chownat(&*fd, c"", uid, gid, BY_DESCRIPTOR).map_err(errno)?;
        } else if wanted.kill_suidgid && wanted.size.is_none() {
            self.drop_privileged_bits(fd.as_fd(), &call.caller)?;
        }
        if let Some(mode) = wanted.mode {
            // The guest's kernel has decided whether the caller may set set-group-id.
            self.identity.kill_suidgid(false)?;
            let mode = Mode::from_raw_mode(mode);
            let number = DecInt::from_fd(&*fd);
            rustix::fs::chmodat(self.inodes.proc_fds(), number, mode, AtFlags::empty()).map_err(errno)?;
        }
        if wanted.atime.is_some() || wanted.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(wanted.atime)?,
                last_modification: timespec(wanted.mtime)?,
            };
            rustix::fs::utimensat(&*fd, c"", &times, BY_DESCRIPTOR).map_err(errno)?;
        }
        let stat = resolve::stat(fd.as_fd())?;
        node.guest_cache.sent_attributes(&stat);
        node.guest_cache.settle_own_change(&stat);
        self.inodes.note_blocks(node, &stat);
        Ok(Paced::Ready(self.inodes.attr(&node.mount, &stat)))
    }

    /// Returns whether a change of owner must also drop set-group-id from a file that its group may
    /// not execute. It must, unless the caller has CAP_FSETID or the caller's group is the file's
    /// group. A SETATTR carries only the main group of the caller, so the other groups do not
    /// count.
    ///
    /// At a change of owner of anything but a directory, the host itself drops set-user-id. It also
    /// drops set-group-id then, if the group may execute the file.
    fn drops_plain_set_group_id(&self, fd: BorrowedFd<'_>, caller: &Caller<'_>) -> Answer<bool> {
        Ok(!caller.may_have_fsetid() && caller.known_gid() != Some(resolve::stat(fd)?.attr().gid))
    }

    /// Drops set-user-id and set-group-id by a `chown(2)` that keeps owner and group. Does nothing
    /// for a caller that is neither root nor the owner.
    ///
    /// Linux sends this SETATTR for `chown(-1, -1)`, and before a write of a caller without
    /// CAP_FSETID. It must not fail for another user, which may be allowed to write the file: then
    /// the write drops the bits.
    fn drop_privileged_bits(&self, fd: BorrowedFd<'_>, caller: &Caller<'_>) -> Answer<()> {
        let owner = resolve::stat(fd)?.attr().uid;
        if !caller.known_uid().is_some_and(|uid| uid == 0 || uid == owner) {
            return Ok(());
        }
        self.identity.kill_suidgid(self.drops_plain_set_group_id(fd, caller)?)?;
        match rustix::fs::chownat(fd, c"", None, None, BY_DESCRIPTOR) {
            // A daemon that is not root cannot change files of others.
            Ok(()) | Err(rustix::io::Errno::PERM) => Ok(()),
            Err(error) => Err(errno(error)),
        }
    }

    fn truncate(&self, node: &NodeRef, size: u64, (wanted, pace): (&SetAttr, Pace)) -> Answer<Paced<()>> {
        if i64::try_from(size).is_err() {
            return Err(Errno::EFBIG);
        }
        self.check_size(Some(size))?;
        self.identity.kill_suidgid(wanted.kill_suidgid)?;
        // The offload pool may change the size and the times, but not the mode or the owner.
        let only_cuts = wanted.mode.is_none() && wanted.uid.is_none() && wanted.gid.is_none();
        let later = pace == Pace::Now && only_cuts && self.inodes.frees_much(node, size);
        if let Some(file) = self.open_file(node, wanted.handle).filter(|file| file.writable) {
            if later {
                return Ok(Paced::WouldBlock);
            }
            return rustix::fs::ftruncate(file.as_fd(), size).map_err(errno).map(Paced::Ready);
        }
        let _ticket = self.inodes.descriptor_ticket()?;
        let opened = self.inodes.open_content(node, OFlags::WRONLY | lease_flags(pace));
        let Paced::Ready(file) = or_leased(opened, pace)? else { return Ok(Paced::Leased) };
        if later {
            return Ok(Paced::WouldBlock);
        }
        rustix::fs::ftruncate(file, size).map_err(errno).map(Paced::Ready)
    }

    pub(super) fn access(&self, node: &NodeRef, call: &Call<'_, protocol::Access>) -> Answer<()> {
        let wanted = call.operation.mask;
        let fd = self.inodes.descriptor(node)?;
        let attr = resolve::stat(fd.as_fd())?.attr();
        if wanted.contains(AccessMask::WRITE)
            && rustix::fs::fstatvfs(&*fd).map_err(errno)?.f_flag.contains(StatVfsMountFlags::RDONLY)
        {
            return Err(Errno::EROFS);
        }
        if permits(&attr, &call.caller, wanted) { Ok(()) } else { Err(Errno::EACCES) }
    }

    pub(super) fn stat_fs(&self, node: &NodeRef) -> Answer<Statfs> {
        let figures = rustix::fs::fstatvfs(&*self.inodes.descriptor(node)?).map_err(errno)?;
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Statfs {
            blocks: figures.f_blocks,
            bfree: figures.f_bfree,
            bavail: figures.f_bavail,
            files: figures.f_files,
            ffree: figures.f_ffree,
            bsize: narrow(figures.f_bsize),
            namelen: narrow(figures.f_namemax),
            frsize: narrow(figures.f_frsize),
        })
    }

    pub(super) fn read_link(&self, node: &NodeRef, caller: &Caller<'_>, out: &mut Vec<u8>) -> Answer<()> {
        let link = self.inodes.descriptor(node)?;
        let target = rustix::fs::readlinkat(&*link, c"", Vec::new()).map_err(|error| match error {
            // The host returns ENOENT for an empty path if the inode is not a link.
            rustix::io::Errno::NOENT => Errno::EINVAL,
            other => errno(other),
        })?;
        self.inodes.check_not_removed((node, link.as_fd()), caller)?;
        out.extend_from_slice(target.as_bytes());
        Ok(())
    }
}

/// Returns a time for `utimensat(2)`.
fn timespec(time: Option<SetTime>) -> Answer<Timespec> {
    Ok(match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        // The two special values of tv_nsec are above a billion. A guest must not be able to set
        // them.
        Some(SetTime::At(time)) if time.nanoseconds > 999_999_999 => return Err(Errno::EINVAL),
        Some(SetTime::At(time)) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
    })
}
