//! How a name is looked up, and how whatever has been found becomes a node.

use crate::filesystem::Answer;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::large::is_large;
use crate::passthrough::inodes::mount_fd::{MountFd, MountPoint};
use crate::passthrough::inodes::mounts::{Mount, Reached};
use crate::passthrough::inodes::node::{
    Descriptor, Entered, Named, Newcomer, NodeKey, NodeRef, Origin, WayBack,
};
use crate::passthrough::resolve::{self, Stat};
use crate::sync::budget::Ticket;
use crate::sys::inode_handle::InodeHandle;
use pinhole_protocol::{Attr, Entry, Errno, InitFlags, Name, NodeId};
use rustix::fs::FileType;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Under which name something was found.
#[derive(Clone, Copy, Debug)]
pub(in crate::passthrough) struct Found<'a> {
    pub(in crate::passthrough) directory: &'a NodeRef,
    /// `None`: it has no name.
    pub(in crate::passthrough) name: Option<Name<'a>>,
}

impl Inodes {
    /// One more lookup of a component of a directory.
    pub(in crate::passthrough) fn look_up(&self, parent: &NodeRef, name: Name<'_>) -> Answer<Entry> {
        self.look_up_in(self.reach(parent)?.as_fd(), parent, name, None)
    }

    /// As [`Self::look_up`], with a descriptor of the directory at hand, and perhaps the right to one for what is
    /// found.
    ///
    /// A node that is open costs one system call: nothing else can have its inode number. One that is not is known
    /// again by its file handle, which costs a second.
    pub(in crate::passthrough) fn look_up_in(
        &self,
        fd: BorrowedFd<'_>,
        directory: &NodeRef,
        name: Name<'_>,
        ticket: Option<Ticket>,
    ) -> Answer<Entry> {
        let then = self.table.now();
        let stat = resolve::stat_beneath(fd, name)?;
        let found = Found { directory, name: Some(name) };
        let mount = if directory.mount.key == stat.mount() {
            Some(Arc::clone(&directory.mount))
        } else {
            let mount = self.mounts.find(stat.mount());
            mount.inspect(|mount| mount.access.seen_at(NodeId(directory.id()), name))
        };
        if let Some(mount) = mount {
            let key = NodeKey { mount: mount.number, inode: stat.inode() };
            if let Some(node) = self.table.reference_open((key, then), |node| {
                self.tell_found(node, &stat, found);
                // It is open, so there is nothing else to do for a large one.
                node.set_large(is_large(node.kind, &stat));
                self.narrow(node, found);
            }) {
                return Ok(self.entry((node, &mount), &stat, directory));
            }
            if mount.has_handles()
                && let Some(entry) = self.look_up_by_handle(fd, found, (&stat, mount))?
            {
                return Ok(entry);
            }
        }
        let ticket = ticket.map_or_else(|| self.ticket(), Ok)?;
        self.look_up_by_opening(ticket, fd, found)
    }

    /// As [`Self::look_up`], with the right to a descriptor already taken: what made a file must not fail for want
    /// of one afterwards.
    pub(in crate::passthrough) fn look_up_made(
        &self,
        ticket: Ticket,
        parent: &NodeRef,
        name: Name<'_>,
    ) -> Answer<Entry> {
        self.look_up_in(self.reach(parent)?.as_fd(), parent, name, Some(ticket))
    }

    /// A node for what has just been made, and a node for it also where another has taken its name since. What stands there
    /// then is not what was made, and Linux fails with EIO where a link was asked for and a file comes back; while an error
    /// would say that nothing was made.
    pub(in crate::passthrough) fn look_up_new(
        &self,
        ticket: Ticket,
        (parent, name): (&NodeRef, Name<'_>),
        (kind, made): (FileType, Attr),
    ) -> Answer<Entry> {
        match self.look_up_made(ticket, parent, name) {
            Ok(entry) if FileType::from_raw_mode(entry.attr.mode) == kind => return Ok(entry),
            Ok(other) => drop(self.table.forget(other.node, 1)),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let rule = self.rule_of(Found { directory: parent, name: Some(name) });
        let node = NodeId(self.table.enter_gone(kind, Arc::clone(&parent.mount), rule)?.id());
        let attr = Attr { ino: node.0, mode: made.mode & 0o7777 | kind.as_raw_mode(), nlink: 1, ..made };
        Ok(Entry { node, generation: 0, attr })
    }

    /// One more lookup of a node that has just been given a name: whatever stands there by now, that is what was linked.
    pub(in crate::passthrough) fn look_up_linked(
        &self,
        node: &NodeRef,
        fd: BorrowedFd<'_>,
        directory: &NodeRef,
    ) -> Answer<Entry> {
        let stat = resolve::stat(fd)?;
        let id = self.table.reference(node).ok_or(Errno::ESTALE)?;
        node.told.find(&stat);
        self.note_blocks(node, &stat);
        Ok(self.entry((id, &node.mount), &stat, directory))
    }

    /// A node by handle and attributes, taken one after the other: what the name meant may have changed between the
    /// two. So the handle is believed only when it has led back to the same inode number and kind ([`Self::reach`]).
    /// `None`: this name has to be opened.
    fn look_up_by_handle(
        &self,
        fd: BorrowedFd<'_>,
        found: Found<'_>,
        (stat, mount): (&Stat, Arc<Mount>),
    ) -> Answer<Option<Entry>> {
        let Some(name) = found.name else { return Ok(None) };
        let handle = match InodeHandle::beneath(fd, name.as_c_str()) {
            Ok((handle, id)) if mount.has_handles_of(id) => handle,
            Ok(_) | Err(_) => return Ok(None),
        };
        let (inode, kind) = (stat.inode(), stat.kind());
        let known = self.table.find(NodeKey { mount: mount.number, inode });
        if known.is_some_and(|known| known.has_other_handle(&handle) || known.kind != kind) {
            // Either the known inode is no more, or number and handle are of two: only opening it tells.
            return Ok(None);
        }
        let Entered { node, known, .. } = self.table.enter(Newcomer {
            inode,
            mount,
            kind,
            descriptor: None,
            way_back: WayBack::Handle(handle),
            rule: self.rule_of(found),
            verified: false,
        })?;
        if known {
            self.narrow(&node, found);
        }
        self.tell_found(&node, stat, found);
        self.note_blocks(&node, stat);
        // What is looked up again and again is kept open; what is seen once in passing is not. Whether that works
        // is of no matter to this lookup.
        if known && node.touch() {
            drop(self.reach(&node));
        }
        Ok(Some(self.entry((NodeId(node.id()), &node.mount), stat, found.directory)))
    }

    fn look_up_by_opening(&self, ticket: Ticket, fd: BorrowedFd<'_>, found: Found<'_>) -> Answer<Entry> {
        let name = found.name.ok_or(Errno::ENOENT)?;
        let opened = resolve::find_beneath(fd, name)?;
        let stat = resolve::stat(opened.as_fd())?;
        let way_back = self.way_back(opened.as_fd(), &stat, found)?;
        let descriptor = || Ok(Descriptor::new(opened, Some(ticket)));
        self.enter_as(way_back, descriptor, (&stat, found)).map(|(_, entry)| entry)
    }

    /// Gives the guest a node for what a descriptor of any kind names. `path_fd` opens it with O_PATH, which is done
    /// only where the node has to keep that.
    pub(in crate::passthrough) fn enter(
        &self,
        ticket: Ticket,
        (fd, path_fd): (BorrowedFd<'_>, impl FnOnce() -> Answer<OwnedFd>),
        (stat, found): (&Stat, Found<'_>),
    ) -> Answer<(NodeRef, Entry)> {
        let way_back = self.way_back(fd, stat, found)?;
        self.enter_as(way_back, || path_fd().map(|fd| Descriptor::new(fd, Some(ticket))), (stat, found))
    }

    /// A known node gets one more lookup, a new one is added.
    fn enter_as(
        &self,
        (mount, way_back): (Arc<Mount>, WayBack),
        descriptor: impl FnOnce() -> Answer<Descriptor>,
        (stat, found): (&Stat, Found<'_>),
    ) -> Answer<(NodeRef, Entry)> {
        self.check_names_of(&mount)?;
        let kept = match way_back {
            WayBack::Handle(_) => None,
            WayBack::Name(_) | WayBack::None => Some(descriptor()?),
        };
        let (inode, kind) = (stat.inode(), stat.kind());
        let rule = self.rule_of(found);
        let newcomer = Newcomer { inode, mount, kind, descriptor: kept, way_back, rule, verified: true };
        let Entered { node, known, opened } = self.table.enter(newcomer)?;
        if known {
            self.narrow(&node, found);
        }
        if opened {
            self.keep_open(&node);
        }
        self.tell_found(&node, stat, found);
        self.note_blocks(&node, stat);
        let entry = self.entry((NodeId(node.id()), &node.mount), stat, found.directory);
        Ok((node, entry))
    }

    /// The mount of what a descriptor names, and how it will be found without the descriptor.
    ///
    /// # Errors
    /// ENFILE where there is no descriptor for a mount that is new.
    fn way_back(&self, fd: BorrowedFd<'_>, stat: &Stat, found: Found<'_>) -> Answer<(Arc<Mount>, WayBack)> {
        let mount = self.mount_of(fd, stat, found)?;
        if mount.has_handles()
            && let Ok((handle, _)) = InodeHandle::of(fd)
        {
            return Ok((mount, WayBack::Handle(handle)));
        }
        // Where numbers mean nothing later, or a directory would have to be found by name first, it stays open.
        if stat.kind() == FileType::Directory || !mount.traits.stable_numbers {
            return Ok((mount, WayBack::None));
        }
        let origin = found.name.zip(stat.birth()).map(|(name, birth)| Origin {
            directory: Arc::clone(found.directory),
            name: name.as_c_str().into(),
            birth,
        });
        Ok((mount, WayBack::Name(Box::new(Named::new(origin)))))
    }

    fn mount_of(&self, fd: BorrowedFd<'_>, stat: &Stat, found: Found<'_>) -> Answer<Arc<Mount>> {
        if let Some(known) = self.mounts.find(stat.mount()) {
            return Ok(known);
        }
        let directory = NodeId(found.directory.id());
        let point = |name: Name<'_>| MountPoint { directory, name: name.as_c_str().into() };
        let place = found.name.map(|name| (point(name), found.directory.mount.key.device));
        let mount = self.mounts.reach(Reached { inode: fd, stat, place }, || {
            let ticket = self.ticket()?;
            Ok(self.proc_fds.open_for_sync(fd).map(|opened| opened.map(|fd| MountFd::new(fd, Some(ticket)))))
        })?;
        self.watch.tell();
        Ok(mount)
    }

    /// After a RENAME or LINK: what cannot be found by handle is found under its new name, whose rule decides it too.
    pub(in crate::passthrough) fn note_moved(&self, fd: BorrowedFd<'_>, directory: &NodeRef, name: Name<'_>) {
        if directory.mount.has_handles() && self.rules().is_none() {
            return;
        }
        let Ok(stat) = resolve::stat_beneath(fd, name) else { return };
        let known = self
            .mounts
            .find(stat.mount())
            .and_then(|mount| self.table.find(NodeKey { mount: mount.number, inode: stat.inode() }));
        let Some(node) = known else { return };
        self.narrow(&node, Found { directory, name: Some(name) });
        if let (WayBack::Name(named), Some(birth)) = (node.way_back(), stat.birth()) {
            let mut place = named.origin.write();
            if place.as_ref().is_none_or(|before| before.birth == birth) {
                let (directory, name) = (Arc::clone(directory), name.as_c_str().into());
                *place = Some(Origin { directory, name, birth });
            }
        }
    }

    fn entry(&self, (node, mount): (NodeId, &Mount), stat: &Stat, directory: &NodeRef) -> Entry {
        let mut attr = self.attr(mount, stat);
        // A guest mounts directories alone; a single file stands among those of the directory.
        attr.submount = stat.mount() != directory.mount.key
            && stat.kind() == FileType::Directory
            && self.negotiated.contains(InitFlags::SUBMOUNTS);
        Entry { node, generation: 0, attr }
    }

    /// What the guest is told of an inode.
    pub(in crate::passthrough) fn attr(&self, mount: &Mount, stat: &Stat) -> Attr {
        Attr { ino: self.inode_number(mount, stat.inode()), ..stat.attr() }
    }

    /// The inode number that the guest is told.
    pub(in crate::passthrough) fn inode_number(&self, mount: &Mount, inode: u64) -> u64 {
        mount.numbers.told(inode, self.negotiated.contains(InitFlags::SUBMOUNTS))
    }
}
