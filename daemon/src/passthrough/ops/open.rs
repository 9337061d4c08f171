//! OPEN, CREATE, TMPFILE, FLUSH, RELEASE: the life of an open file.

use crate::filesystem::{Answer, Call, Caller, Pace, Paced};
use crate::passthrough::Passthrough;
use crate::passthrough::config::GuestCaching;
use crate::passthrough::files::handles::{FileHandle, HandleTickets};
use crate::passthrough::inodes::{Descriptor, Found, NodeRef, Pin};
use crate::passthrough::resolve::{self, errno, sync_errno};
use crate::sync::budget::Ticket;
use crate::sys;
use pinhole_protocol::{
    self as protocol, AccessMode, Created, Entry, Errno, Handle, InitFlags, Open, OpenFlags, OpenReply,
    OpenReplyFlags,
};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;

/// Attempts of CREATE while other processes make and remove the name. Then it fails with ENOENT,
/// the result of the last look-up.
const CREATE_TRIES: usize = 8;

/// A host file that was opened for the guest.
struct OpenedFile<'n> {
    file: OwnedFd,
    node: &'n NodeRef,
    /// The guest opens the file again after it got ESTALE.
    is_retry: bool,
}

/// The rights to hold the descriptors of the node and of the handle that CREATE and TMPFILE add.
struct CreateTickets {
    node: Ticket,
    handle: HandleTickets,
}

impl Passthrough {
    pub(super) fn open(&self, node: &NodeRef, call: &Call<'_, Open>, pace: Pace) -> Answer<Paced<OpenReply>> {
        let tickets = self.handle_tickets()?;
        if pace == Pace::Now
            && call.operation.flags.contains(OpenFlags::TRUNC)
            && self.inodes.frees_much(node, 0)
        {
            // The offload pool truncates the file, and must not wait for another process to give up
            // a lease. So this open tells the process to do that first.
            let opened = self.inodes.open_content(node, OFlags::WRONLY | lease_flags(pace));
            let Paced::Ready(_) = or_leased(opened, pace)? else { return Ok(Paced::Leased) };
            return Ok(Paced::WouldBlock);
        }
        let open = self.with_kill(call.operation, &call.caller);
        let is_retry = self.inodes.is_retried_open(node, call);
        let checked = !is_retry && self.inodes.is_close_to_open();
        let opened = self
            .open_node(node, open, pace, checked)
            .and_then(|file| self.insert_file(tickets, OpenedFile { file, node, is_retry }, open));
        let opened = or_leased(opened, pace);
        if matches!(opened, Ok(Paced::Leased)) && is_retry {
            self.inodes.note_leased_open(call);
        }
        opened
    }

    /// Returns the request with the decision whether to remove set-user-id and set-group-id. A
    /// guest without `HANDLE_KILLPRIV_V2` removes these bits by itself, but not if O_TRUNC is part
    /// of OPEN or CREATE. So the daemon then removes them.
    fn with_kill(&self, open: Open, caller: &Caller<'_>) -> Open {
        let is_forgotten =
            !self.negotiated.contains(InitFlags::HANDLE_KILLPRIV_V2) && !caller.may_have_fsetid();
        Open { kill_suidgid: open.kill_suidgid || is_forgotten, ..open }
    }

    /// Opens the host file of a node. If `checked` is set, the open fails with ESTALE when the
    /// guest's cache of the file is out of date.
    fn open_node(&self, node: &NodeRef, open: Open, pace: Pace, checked: bool) -> Answer<OwnedFd> {
        if node.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        let truncate = open.flags.contains(OpenFlags::TRUNC);
        // Opening for writing may change the file: by O_TRUNC, or because an overlayfs copies the
        // file to its upper layer.
        let changes = truncate || writes(open);
        if checked && changes {
            match self.inodes.stat(node) {
                Ok(stat) => self.inodes.check_unchanged(node, &stat)?,
                // No descriptor is left for the check, which is no reason to refuse the open.
                Err(Errno::ENFILE) => {}
                Err(errno) => return Err(errno),
            }
        }
        let _held = if changes { self.inodes.hold_to_change(node)? } else { None };
        self.identity.kill_suidgid(truncate && open.kill_suidgid)?;
        let mut flags = self.host_flags(open.flags) | lease_flags(pace);
        flags.set(OFlags::TRUNC, truncate);
        let file = match self.inodes.open_content(node, flags) {
            // A writeback cache also reads, to complete pages. If reading is not permitted, the
            // file is opened only for writing.
            Err(Errno::EACCES) if open.flags.access_mode() == AccessMode::Write => {
                self.inodes.open_content(node, (flags - OFlags::RDWR) | OFlags::WRONLY)?
            }
            opened => opened?,
        };
        if truncate {
            node.guest_cache.note_own_change();
        } else if checked && !changes {
            self.inodes.check_unchanged(node, &resolve::stat(file.as_fd())?)?;
        }
        Ok(file)
    }

    /// Returns the guest's flags for the host's descriptor: the access mode and O_NOATIME.
    /// O_APPEND, O_SYNC and O_DSYNC come again with each WRITE, O_DIRECT gets its own descriptor,
    /// and the rest concerns only the guest.
    fn host_flags(&self, flags: OpenFlags) -> OFlags {
        host_flags(flags, self.negotiated.contains(InitFlags::WRITEBACK_CACHE), self.config.preserve_noatime)
    }

    /// Gives the guest a handle for an opened host file.
    fn insert_file(&self, tickets: HandleTickets, opened: OpenedFile<'_>, open: Open) -> Answer<OpenReply> {
        let OpenedFile { file, node, is_retry } = opened;
        let wants_direct = self.config.direct_io && open.flags.contains(OpenFlags::DIRECT);
        let direct = if wants_direct {
            let ticket = self.inodes.descriptor_ticket()?;
            let flags = self.host_flags(open.flags) | OFlags::DIRECT;
            // If the host refuses O_DIRECT (a file that was just created without the right to read
            // it, a file system without O_DIRECT), the buffered descriptor is used. The guest's own
            // cache is bypassed anyway.
            let reopened = self.inodes.proc_fds().reopen_fd(file.as_fd(), flags);
            reopened.ok().map(|fd| Descriptor::new(fd, Some(ticket)))
        } else {
            None
        };
        let uncached = self.inodes.bypasses_page_cache(node, is_retry);
        let mut flags = self.reply_flags(node, open);
        flags.set(OpenReplyFlags::DIRECT_IO, uncached || flags.contains(OpenReplyFlags::DIRECT_IO));
        // Path rules need the node. To track the guest's cache, the node is needed for a file that
        // is open for writing.
        let needs_node = self.inodes.rules().is_some() || writes(open) && self.inodes.is_close_to_open();
        let handle = self.files.insert_file(FileHandle {
            file,
            key: node.key(),
            node: needs_node.then(|| NodeRef::clone(node)),
            direct,
            readable: open.flags.access_mode() != AccessMode::Write,
            writable: writes(open),
            uncached: flags.contains(OpenReplyFlags::DIRECT_IO),
            traits: node.mount.traits,
            names_removed: self.files.names_removed(),
            mount: if writes(open) {
                self.inodes.hold_to_change(node)?
            } else {
                self.inodes.hold_mount(node)?
            },
            always_blocks: AtomicBool::new(false),
            grown: AtomicBool::new(false),
            _pin: Pin::new(node),
            _tickets: tickets,
        })?;
        Ok(OpenReply { handle, flags })
    }

    fn reply_flags(&self, node: &NodeRef, open: Open) -> OpenReplyFlags {
        let appends = writes(open) && open.flags.contains(OpenFlags::APPEND);
        let mut flags = match self.config.cache {
            GuestCaching::Strict => OpenReplyFlags::DIRECT_IO,
            // Through its page cache, Linux sends a write that crosses a page in several requests,
            // and another guest's write may come between. Appended data must arrive in one piece.
            GuestCaching::Auto if appends && self.inodes.is_close_to_open() => OpenReplyFlags::DIRECT_IO,
            GuestCaching::Auto => OpenReplyFlags::empty(),
            GuestCaching::Exclusive => OpenReplyFlags::KEEP_CACHE,
        };
        // A FLUSH of a file that was only read has no effect, if the file system does nothing at a
        // close. If the daemon keeps the guest's locks, FLUSH is needed, because it ends them.
        let silent = node.mount.traits.closes_silently && !writes(open);
        flags.set(OpenReplyFlags::NOFLUSH, silent && !self.negotiated.contains(InitFlags::POSIX_LOCKS));
        flags
    }

    /// Creates the file if it does not exist. O_EXCL lets the host decide that in one step, also
    /// between guests.
    pub(super) fn create(
        &self,
        parent: &NodeRef,
        call: &Call<'_, protocol::Create<'_>>,
        pace: Pace,
    ) -> Answer<Created> {
        let protocol::Create { name, open, mode, umask } = call.operation;
        self.inodes.end_path_retry(&call.caller);
        for _ in 0..CREATE_TRIES {
            self.inodes.check_room()?;
            let tickets = self.create_tickets()?;
            let directory = self.inodes.descriptor(parent)?;
            let made = {
                let _assumed = self.assume(&call.caller, umask)?;
                let flags = self.host_flags(open.flags) | OFlags::CREATE | OFlags::EXCL;
                let mode = Mode::from_raw_mode(mode);
                resolve::open_beneath(directory.as_fd(), name, flags, mode)
            };
            match made {
                Ok(file) => {
                    let stat = &resolve::stat(file.as_fd())?;
                    let found = Found { stat, directory: parent, name: Some(name) };
                    return self.insert_made(tickets, file, found, open);
                }
                Err(Errno::EEXIST) if !open.flags.contains(OpenFlags::EXCL) => {}
                Err(errno) => return Err(errno),
            }
            let entry = match self.inodes.look_up(parent, name, Some(tickets.node)) {
                // Another process has removed the name in between.
                Err(Errno::ENOENT) => continue,
                found => found?,
            };
            return self
                .open_existing(tickets.handle, entry, call, pace)
                .inspect_err(|_refused| drop(self.inodes.forget(entry.node, 1)));
        }
        Err(Errno::ENOENT)
    }

    /// Opens a file that CREATE found. Returns its attributes, after the truncation if the open
    /// truncates it.
    fn open_existing(
        &self,
        tickets: HandleTickets,
        mut entry: Entry,
        call: &Call<'_, protocol::Create<'_>>,
        pace: Pace,
    ) -> Answer<Created> {
        let open = self.with_kill(call.operation.open, &call.caller);
        let node = self.inodes.node(entry.node)?;
        self.inodes.check_existing(&node, call)?;
        if pace == Pace::Now && open.flags.contains(OpenFlags::TRUNC) && self.inodes.frees_much(&node, 0) {
            // The offload pool may not create files. After ESTALE the guest looks up the name
            // again, finds the file and sends OPEN.
            return Err(Errno::ESTALE);
        }
        let file = self.open_node(&node, open, pace, false)?;
        let reply = self.insert_file(tickets, OpenedFile { file, node: &node, is_retry: false }, open)?;
        if open.flags.contains(OpenFlags::TRUNC) {
            let submount = entry.attr.submount;
            entry.attr = match self.inodes.stat(&node) {
                Ok(stat) => {
                    node.guest_cache.sent_attributes(&stat);
                    node.guest_cache.settle_own_change(&stat);
                    self.inodes.attr(&node.mount, &stat)
                }
                Err(errno) => {
                    // A guest that gets an error instead of the handle would never release it.
                    self.close(reply.handle)?;
                    return Err(errno);
                }
            };
            entry.attr.submount = submount;
        }
        Ok(Created { entry, open: reply })
    }

    pub(super) fn tmp_file(&self, parent: &NodeRef, call: &Call<'_, protocol::TmpFile>) -> Answer<Created> {
        let protocol::TmpFile { open, mode, umask } = call.operation;
        self.inodes.check_room()?;
        let tickets = self.create_tickets()?;
        let mut flags = self.host_flags(open.flags) | OFlags::TMPFILE | OFlags::CLOEXEC;
        flags.set(OFlags::EXCL, open.flags.contains(OpenFlags::EXCL));
        let directory = self.inodes.descriptor(parent)?;
        let file = {
            let _assumed = self.assume(&call.caller, umask)?;
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::openat2(&*directory, c".", flags, mode, ResolveFlags::BENEATH).map_err(errno)?
        };
        let stat = &resolve::stat(file.as_fd())?;
        self.insert_made(tickets, file, Found { stat, directory: parent, name: None }, open)
    }

    fn create_tickets(&self) -> Answer<CreateTickets> {
        Ok(CreateTickets { node: self.inodes.descriptor_ticket()?, handle: self.handle_tickets()? })
    }

    /// Adds a node and a handle for a file that was just created.
    fn insert_made(
        &self,
        tickets: CreateTickets,
        file: OwnedFd,
        found: Found<'_>,
        open: Open,
    ) -> Answer<Created> {
        let path_fd = || self.inodes.proc_fds().reopen_fd(file.as_fd(), OFlags::PATH);
        let (node, entry) = self.inodes.insert_found(tickets.node, file.as_fd(), path_fd, found)?;
        self.insert_file(tickets.handle, OpenedFile { file, node: &node, is_retry: false }, open)
            .inspect_err(|_refused| drop(self.inodes.forget(entry.node, 1)))
            .map(|open| Created { entry, open })
    }

    /// Ends the record locks of the owner that closes the file. Also closes a duplicate of the
    /// descriptor: a network file system then writes the data back, and returns its error.
    pub(super) fn flush(&self, flush: protocol::Flush, pace: Pace) -> Answer<Paced<()>> {
        let file = self.files.file(flush.handle)?;
        // A file that was only read has nothing to write back.
        let writes_back = file.writable && !file.traits.closes_silently;
        // To end locks on a network file system, the host sends a request to its server.
        if pace == Pace::Now && (writes_back || file.traits.remote && self.locks.any()) {
            return Ok(Paced::WouldBlock);
        }
        let flushed = if writes_back {
            rustix::io::dup(&file.file).and_then(sys::descriptors::close).map_err(sync_errno)
        } else {
            Ok(())
        };
        file.settle_own_change();
        // The locks end after an error too, because a close ends all locks. They end only after the
        // data was written back, so that the next owner of a lock finds the data.
        self.locks.end_owner(&file, flush.lock_owner);
        flushed.map(Paced::Ready)
    }

    pub(super) fn release(&self, release: protocol::Release, pace: Pace) -> Answer<Paced<()>> {
        let file = self.files.file(release.handle)?;
        // To end locks on a network file system, the host sends a request to its server.
        if file.traits.remote && pace == Pace::Now && self.locks.any() {
            return Ok(Paced::WouldBlock);
        }
        file.keep_grown(&self.inodes, pace);
        drop(file);
        self.close(release.handle).map(Paced::Ready)
    }

    fn close(&self, handle: Handle) -> Answer<()> {
        let file = self.files.remove_file(handle)?;
        self.locks.end_handle(&file);
        self.deferred_close.close_file(file, self.files.names_removed());
        Ok(())
    }
}

fn writes(open: Open) -> bool {
    open.flags.access_mode() != AccessMode::Read
}

/// Returns O_NONBLOCK if an open must not wait until another process gives up its lease on the
/// file.
///
/// The descriptor keeps the flag, which has no other effect on a regular file. The calls that may
/// or may not wait have flags of their own (RWF_NOWAIT, LOCK_NB).
pub(super) const fn lease_flags(pace: Pace) -> OFlags {
    match pace {
        Pace::Now => OFlags::NONBLOCK,
        Pace::Patient => OFlags::empty(),
    }
}

/// Returns the answer to an open with [`lease_flags`], where EAGAIN means that there is a lease.
pub(super) fn or_leased<T>(answer: Answer<T>, pace: Pace) -> Answer<Paced<T>> {
    match (answer, pace) {
        (Err(Errno::EAGAIN), Pace::Now) => Ok(Paced::Leased),
        (answer, _) => answer.map(Paced::Ready),
    }
}

/// Returns the flags of a host descriptor. Each bit of the guest's flags is translated. No bit is
/// passed through.
fn host_flags(flags: OpenFlags, writeback: bool, noatime: bool) -> OFlags {
    let mut host = match flags.access_mode() {
        AccessMode::Read => OFlags::RDONLY,
        AccessMode::Write if writeback => OFlags::RDWR,
        AccessMode::Write => OFlags::WRONLY,
        AccessMode::ReadWrite => OFlags::RDWR,
    };
    host.set(OFlags::NOATIME, noatime && flags.contains(OpenFlags::NOATIME));
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_access_mode_and_noatime_reach_the_host() {
        for access in 0..3 {
            let plain = host_flags(OpenFlags::from_bits_retain(access), false, true);
            for bit in (2..32).map(|shift| 1 << shift) {
                let flags = OpenFlags::from_bits_retain(access | bit);
                let host = host_flags(flags, false, true);
                assert_eq!(
                    host - plain,
                    if bit == OpenFlags::NOATIME.bits() { OFlags::NOATIME } else { OFlags::empty() }
                );
                assert_eq!(host_flags(flags, false, false), plain, "{bit:#o}");
            }
        }
    }
}
