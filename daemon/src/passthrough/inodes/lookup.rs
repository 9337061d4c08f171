//! Looks a name up, and makes a node of the inode that it leads to.

use crate::filesystem::Answer;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::large::is_large;
use crate::passthrough::inodes::mount_fd::{MountPoint, MountState};
use crate::passthrough::inodes::mounts::{FoundMount, Mount};
use crate::passthrough::inodes::node::{
    Descriptor, FoundInode, Inserted, LastName, NameRecord, NodeKey, NodeRef, Reopen,
};
use crate::passthrough::resolve::{self, Stat};
use crate::sync::budget::Ticket;
use crate::sys::inode_handle::InodeHandle;
use pinhole_protocol::{Attr, Entry, Errno, InitFlags, Name, NodeId};
use rustix::fs::FileType;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The attributes of an inode that was found, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) stat: &'a Stat,
    pub(crate) directory: &'a NodeRef,
    /// `None` if it has no name.
    pub(crate) name: Option<Name<'a>>,
}

impl Inodes {
    /// Looks up a name in a directory. The node that it leads to gets one more look-up. `ticket` is
    /// the right to a descriptor for the inode, if the caller has one.
    pub(crate) fn look_up(&self, parent: &NodeRef, name: Name<'_>, ticket: Option<Ticket>) -> Answer<Entry> {
        self.look_up_in(self.descriptor(parent)?.as_fd(), parent, name, ticket)
    }

    /// Looks up a name as [`Self::look_up`] does, by an open descriptor of the directory.
    ///
    /// If the node is open, this costs one system call: no other inode has its number. Otherwise
    /// the node is known by its inode handle, which costs a second call.
    pub(crate) fn look_up_in(
        &self,
        fd: BorrowedFd<'_>,
        directory: &NodeRef,
        name: Name<'_>,
        ticket: Option<Ticket>,
    ) -> Answer<Entry> {
        let then = self.table.now();
        let stat = resolve::stat_beneath(fd, name)?;
        let found = Found { stat: &stat, directory, name: Some(name) };
        let mount = if directory.mount.key == stat.mount() {
            Some(Arc::clone(&directory.mount))
        } else {
            let mount = self.mounts.find(stat.mount());
            mount.inspect(|mount| mount.access.seen_at(NodeId(directory.id()), name))
        };
        if let Some(mount) = mount {
            let key = NodeKey { mount: mount.number, inode: stat.inode() };
            if let Some(node) = self.table.reference_open((key, then), |node| {
                self.note_looked_up(node, found);
                // A large file needs an open descriptor, and has one.
                node.set_large(is_large(node.kind, &stat));
                self.narrow(node, found);
            }) {
                return Ok(self.entry((node, &mount), &stat, directory));
            }
            if mount.has_handles()
                && let Some(entry) = self.look_up_by_handle(fd, found, mount)?
            {
                return Ok(entry);
            }
        }
        let ticket = ticket.map_or_else(|| self.descriptor_ticket(), Ok)?;
        let opened = resolve::find_beneath(fd, name)?;
        let found = Found { stat: &resolve::stat(opened.as_fd())?, ..found };
        let reopen = self.mount_and_reopen(opened.as_fd(), found)?;
        self.insert_open(ticket, reopen, || Ok(opened), found).map(|(_, entry)| entry)
    }

    /// Returns a node for an inode that was just created, even if its name leads to another inode
    /// by now.
    ///
    /// An error would mean that nothing was created, so the caller has a `ticket` already. Linux
    /// would fail with EIO if the inode that has the name now is of another kind.
    pub(crate) fn look_up_new(
        &self,
        ticket: Ticket,
        (parent, name): (&NodeRef, Name<'_>),
        made: Attr,
    ) -> Answer<Entry> {
        let kind = FileType::from_raw_mode(made.mode);
        match self.look_up(parent, name, Some(ticket)) {
            Ok(entry) if FileType::from_raw_mode(entry.attr.mode) == kind => return Ok(entry),
            Ok(other) => drop(self.table.forget(other.node, 1)),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let rule = self.rule_of(parent, Some(name));
        let node = NodeId(self.table.insert_removed(kind, Arc::clone(&parent.mount), rule)?.id());
        Ok(Entry { node, generation: 0, attr: Attr { ino: node.0, ..made } })
    }

    /// Adds a look-up to a node that was just linked, even if the new name leads to another inode
    /// by now.
    pub(crate) fn look_up_linked(
        &self,
        node: &NodeRef,
        fd: BorrowedFd<'_>,
        directory: &NodeRef,
    ) -> Answer<Entry> {
        let stat = resolve::stat(fd)?;
        let id = self.table.reference(node).ok_or(Errno::ESTALE)?;
        node.guest_cache.looked_up(&stat);
        self.note_blocks(node, &stat);
        Ok(self.entry((id, &node.mount), &stat, directory))
    }

    /// Looks up a node by handle and attributes. Returns `None` if the name has to be opened.
    ///
    /// Handle and attributes are read one after the other, and the name may lead to another inode
    /// in between. So the handle counts only after it has led to the same inode number and kind
    /// ([`Self::descriptor`]).
    fn look_up_by_handle(
        &self,
        fd: BorrowedFd<'_>,
        found: Found<'_>,
        mount: Arc<Mount>,
    ) -> Answer<Option<Entry>> {
        let Some(name) = found.name else { return Ok(None) };
        let handle = match InodeHandle::beneath(fd, name.as_c_str()) {
            Ok((handle, id)) if mount.has_handles_of(id) => handle,
            Ok(_) | Err(_) => return Ok(None),
        };
        let (inode, kind) = (found.stat.inode(), found.stat.kind());
        let known = self.table.find(NodeKey { mount: mount.number, inode });
        if known.is_some_and(|known| known.has_other_handle(&handle) || known.kind != kind) {
            // Either the known inode is gone, or number and handle are of two inodes.
            return Ok(None);
        }
        let reopen = Reopen::ByHandle(handle);
        let (rule, verified) = (self.rule_of(found.directory, found.name), false);
        let inode = FoundInode { inode, mount, kind, descriptor: None, reopen, rule, verified };
        let (Inserted { node, known, .. }, entry) = self.insert(inode, found)?;
        // A node is kept open from its second look-up on. If that fails, the look-up still
        // succeeds.
        if known && node.touch() {
            drop(self.descriptor(&node));
        }
        Ok(Some(entry))
    }

    /// Inserts a node for the inode of a descriptor of any kind. `path_fd` opens the inode with
    /// O_PATH. It is called only if the node has to keep such a descriptor open.
    pub(crate) fn insert_found(
        &self,
        ticket: Ticket,
        fd: BorrowedFd<'_>,
        path_fd: impl FnOnce() -> Answer<OwnedFd>,
        found: Found<'_>,
    ) -> Answer<(NodeRef, Entry)> {
        let reopen = self.mount_and_reopen(fd, found)?;
        self.insert_open(ticket, reopen, path_fd, found)
    }

    fn insert_open(
        &self,
        ticket: Ticket,
        (mount, reopen): (Arc<Mount>, Reopen),
        path_fd: impl FnOnce() -> Answer<OwnedFd>,
        found: Found<'_>,
    ) -> Answer<(NodeRef, Entry)> {
        self.check_mount(&mount)?;
        let descriptor = match reopen {
            Reopen::ByHandle(_) => None,
            Reopen::ByName(_) | Reopen::Never => Some(Descriptor::new(path_fd()?, Some(ticket))),
        };
        let (inode, kind) = (found.stat.inode(), found.stat.kind());
        let rule = self.rule_of(found.directory, found.name);
        let inode = FoundInode { inode, mount, kind, descriptor, reopen, rule, verified: true };
        self.insert(inode, found).map(|(inserted, entry)| (inserted.node, entry))
    }

    /// Inserts a node. A node that the guest knows gets one more look-up.
    fn insert(&self, inode: FoundInode, found: Found<'_>) -> Answer<(Inserted, Entry)> {
        let inserted = self.table.insert(inode)?;
        let node = &inserted.node;
        if inserted.known {
            self.narrow(node, found);
        }
        if inserted.opened {
            self.cache_descriptor(node);
        }
        self.note_looked_up(node, found);
        self.note_blocks(node, found.stat);
        let entry = self.entry((NodeId(node.id()), &node.mount), found.stat, found.directory);
        Ok((inserted, entry))
    }

    /// Returns the mount of an open inode, and how the inode will be opened again.
    ///
    /// # Errors
    /// ENFILE if there is no descriptor left for a new mount.
    fn mount_and_reopen(&self, fd: BorrowedFd<'_>, found: Found<'_>) -> Answer<(Arc<Mount>, Reopen)> {
        let mount = self.mount_of(fd, found)?;
        if mount.has_handles()
            && let Ok((handle, _)) = InodeHandle::of(fd)
        {
            return Ok((mount, Reopen::ByHandle(handle)));
        }
        // If inode numbers are not stable, or a directory would have to be found by name first, the
        // inode stays open.
        if found.stat.kind() == FileType::Directory || !mount.traits.stable_numbers {
            return Ok((mount, Reopen::Never));
        }
        let last_name = found.name.zip(found.stat.birth()).map(|(name, birth)| LastName {
            directory: Arc::clone(found.directory),
            name: name.as_c_str().into(),
            birth,
        });
        Ok((mount, Reopen::ByName(Box::new(NameRecord::new(last_name)))))
    }

    fn mount_of(&self, fd: BorrowedFd<'_>, found: Found<'_>) -> Answer<Arc<Mount>> {
        if let Some(known) = self.mounts.find(found.stat.mount()) {
            return Ok(known);
        }
        let directory = NodeId(found.directory.id());
        let point = |name: Name<'_>| MountPoint { directory, name: name.as_c_str().into() };
        let place = found.name.map(|name| (point(name), found.directory.mount.key.device));
        let mount = self.mounts.get_or_add(FoundMount { inode: fd, stat: found.stat, place }, || {
            Ok(MountState::open(&self.proc_fds, fd, Some(self.descriptor_ticket()?)))
        })?;
        self.watch.notify();
        Ok(mount)
    }

    /// Notes the new name of an inode after RENAME or LINK. Its path rule applies to the node too,
    /// and a node without inode handle is found by it.
    pub(crate) fn note_new_name(&self, fd: BorrowedFd<'_>, directory: &NodeRef, name: Name<'_>) {
        if directory.mount.has_handles() && self.rules().is_none() {
            return;
        }
        let Ok(stat) = resolve::stat_beneath(fd, name) else { return };
        let Some(mount) = self.mounts.find(stat.mount()) else { return };
        let key = NodeKey { mount: mount.number, inode: stat.inode() };
        let Some(node) = self.table.find(key) else { return };
        self.narrow(&node, Found { stat: &stat, directory, name: Some(name) });
        if let (Reopen::ByName(record), Some(birth)) = (node.reopen(), stat.birth()) {
            record.set_last_name(directory, name.as_c_str(), birth);
        }
    }

    fn entry(&self, (node, mount): (NodeId, &Mount), stat: &Stat, directory: &NodeRef) -> Entry {
        let mut attr = self.attr(mount, stat);
        // A guest mounts only directories. A single file is shown as a file of the directory.
        attr.submount = stat.mount() != directory.mount.key
            && stat.kind() == FileType::Directory
            && self.negotiated.contains(InitFlags::SUBMOUNTS);
        Entry { node, generation: 0, attr }
    }

    /// Returns the attributes for a reply.
    pub(crate) fn attr(&self, mount: &Mount, stat: &Stat) -> Attr {
        Attr { ino: self.inode_number(mount, stat.inode()), ..stat.attr() }
    }

    /// Returns the inode number for a reply.
    pub(crate) fn inode_number(&self, mount: &Mount, inode: u64) -> u64 {
        mount.numbers.guest_number(inode, self.negotiated.contains(InitFlags::SUBMOUNTS))
    }
}
