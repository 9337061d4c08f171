//! SYMLINK, MKNOD, MKDIR, LINK, UNLINK, RMDIR, RENAME: operations on names. CREATE and TMPFILE are
//! in `open.rs`.

use crate::file_id::DeviceId;
use crate::filesystem::{Answer, Call, Caller};
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::resolve::errno;
use pinhole_protocol::{self as protocol, Attr, Entry, Errno, Name};
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, makedev};
use rustix::path::DecInt;
use std::os::fd::{AsFd, BorrowedFd};

/// An entry to be created.
struct NewEntry<'a> {
    parent: &'a NodeRef,
    name: Name<'a>,
    /// The attributes that are known before the inode is read.
    attr: Attr,
    umask: u32,
}

impl Passthrough {
    pub(super) fn sym_link(&self, parent: &NodeRef, call: &Call<'_, protocol::SymLink<'_>>) -> Answer<Entry> {
        let protocol::SymLink { name, target } = call.operation;
        let size = target.count_bytes() as u64;
        let attr = Attr { size, ..attr_of_new(&call.caller, FileType::Symlink, 0o777) };
        let new = NewEntry { parent, name, attr, umask: 0 };
        self.create_entry(&call.caller, &new, |directory| {
            rustix::fs::symlinkat(target, directory, name.as_c_str())
        })
    }

    pub(super) fn mk_nod(&self, parent: &NodeRef, call: &Call<'_, protocol::MkNod<'_>>) -> Answer<Entry> {
        let protocol::MkNod { name, kind, mode, umask } = call.operation;
        let (kind, rdev) = kind.raw();
        let kind = FileType::from_raw_mode(kind);
        let DeviceId { major, minor } = DeviceId::unpack(rdev);
        let attr = Attr { rdev, ..attr_of_new(&call.caller, kind, mode & !umask) };
        let new = NewEntry { parent, name, attr, umask };
        self.create_entry(&call.caller, &new, |directory| {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::mknodat(directory, name.as_c_str(), kind, mode, makedev(major, minor))
        })
    }

    pub(super) fn mk_dir(&self, parent: &NodeRef, call: &Call<'_, protocol::MkDir<'_>>) -> Answer<Entry> {
        let protocol::MkDir { name, mode, umask } = call.operation;
        let attr = attr_of_new(&call.caller, FileType::Directory, mode & !umask);
        let new = NewEntry { parent, name, attr, umask };
        self.create_entry(&call.caller, &new, |directory| {
            let _locked = self.inodes.lock_names(false);
            rustix::fs::mkdirat(directory, name.as_c_str(), Mode::from_raw_mode(mode))
        })
    }

    /// Creates an entry as the caller and looks it up.
    fn create_entry(
        &self,
        caller: &Caller<'_>,
        new: &NewEntry<'_>,
        create: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Answer<Entry> {
        self.inodes.check_room()?;
        let ticket = self.inodes.descriptor_ticket()?;
        {
            let directory = self.inodes.descriptor(new.parent)?;
            let _assumed = self.assume(caller, new.umask)?;
            create(directory.as_fd()).map_err(errno)?;
        }
        self.inodes.look_up_new(ticket, (new.parent, new.name), new.attr)
    }

    pub(super) fn link(&self, parent: &NodeRef, call: &Call<'_, protocol::Link<'_>>) -> Answer<Entry> {
        let protocol::Link { target, name } = call.operation;
        let target = self.inodes.node(target)?;
        let _held = self.inodes.hold_to_change(parent)?;
        let answer = self.link_node(&target, parent, name);
        self.inodes.stale_if_removed(&[(parent, Some(name)), (&target, None)], &call.caller, answer)
    }

    fn link_node(&self, node: &NodeRef, parent: &NodeRef, name: Name<'_>) -> Answer<Entry> {
        let (target, directory) = (self.inodes.descriptor(node)?, self.inodes.descriptor(parent)?);
        // Through /proc, because linkat of an O_PATH descriptor needs CAP_DAC_READ_SEARCH.
        let number = DecInt::from_fd(&*target);
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(self.inodes.proc_fds(), number, &*directory, name.as_c_str(), flags)
            .map_err(errno)?;
        self.inodes.note_new_name(directory.as_fd(), parent, name);
        self.inodes.look_up_linked(node, target.as_fd(), parent)
    }

    pub(super) fn unlink(&self, parent: &NodeRef, call: &Call<'_, protocol::Unlink<'_>>) -> Answer<()> {
        let directory = self.inodes.descriptor(parent)?;
        self.files.note_removed_name();
        rustix::fs::unlinkat(&*directory, call.operation.name.as_c_str(), AtFlags::empty()).map_err(errno)
    }

    pub(super) fn rm_dir(&self, parent: &NodeRef, call: &Call<'_, protocol::RmDir<'_>>) -> Answer<()> {
        let directory = self.inodes.descriptor(parent)?;
        rustix::fs::unlinkat(&*directory, call.operation.name.as_c_str(), AtFlags::REMOVEDIR).map_err(errno)
    }

    /// Renames an entry. If `only_files` is set, a directory gets EXDEV.
    pub(super) fn rename(
        &self,
        parent: &NodeRef,
        call: &Call<'_, protocol::Rename<'_>>,
        only_files: bool,
    ) -> Answer<()> {
        let rename = &call.operation;
        let new_parent = self.inodes.node(rename.new_directory)?;
        let _held = self.inodes.hold_to_change(parent)?;
        let answer = self.rename_entry((parent, &new_parent), rename, only_files);
        let names = [(parent, Some(rename.name)), (&new_parent, Some(rename.new_name))];
        self.inodes.stale_if_removed(&names, &call.caller, answer)
    }

    fn rename_entry(
        &self,
        (parent, new_parent): (&NodeRef, &NodeRef),
        rename: &protocol::Rename<'_>,
        only_files: bool,
    ) -> Answer<()> {
        let protocol::Rename { name, new_name, flags, .. } = *rename;
        let flags = RenameFlags::from_bits(flags.bits()).ok_or(Errno::EINVAL)?;
        // The kernel accepts no other flag together with RENAME_EXCHANGE, and neither does the
        // seccomp filter.
        if flags.contains(RenameFlags::EXCHANGE) && flags != RenameFlags::EXCHANGE {
            return Err(Errno::EINVAL);
        }
        let (from, to) = (self.inodes.descriptor(parent)?, self.inodes.descriptor(new_parent)?);
        let _locked = self.inodes.lock_names(only_files);
        if only_files {
            self.inodes.check_only_files((from.as_fd(), to.as_fd()), rename)?;
        }
        self.files.note_removed_name();
        rustix::fs::renameat_with(&*from, name.as_c_str(), &*to, new_name.as_c_str(), flags)
            .map_err(errno)?;
        self.inodes.note_new_name(to.as_fd(), new_parent, new_name);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.inodes.note_new_name(from.as_fd(), parent, name);
        }
        Ok(())
    }
}

/// Returns the known attributes of an inode that a caller creates.
fn attr_of_new(caller: &Caller<'_>, kind: FileType, mode: u32) -> Attr {
    let mode = mode & 0o7777 | kind.as_raw_mode();
    Attr { mode, nlink: 1, uid: caller.uid, gid: caller.gid, ..Attr::default() }
}
