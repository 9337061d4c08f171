//! OPEN, CREATE, TMPFILE, FLUSH, RELEASE: the life of an open file.

use crate::filesystem::{Answer, Call, Caller, Pace, Paced};
use crate::passthrough::Passthrough;
use crate::passthrough::config::GuestCaching;
use crate::passthrough::files::handles::{FileHandle, HandleTickets, Hints};
use crate::passthrough::inodes::FoundAt;
use crate::passthrough::inodes::{NodeRef, Pin};
use crate::passthrough::resolve::{self, errno, sync_errno};
use crate::sync::budget::Ticket;
use crate::sys;
use pinhole_protocol::{
    self as protocol, AccessMode, Created, Entry, Errno, Handle, InitFlags, Open, OpenFlags, OpenReply,
    OpenReplyFlags,
};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Times that CREATE tries again when a name comes and goes under it; then ENOENT, as the last look said.
const CREATE_TRIES: usize = 8;

impl Passthrough {
    pub(in crate::passthrough) fn open(
        &self,
        node: &NodeRef,
        call: &Call<'_, Open>,
        pace: Pace,
    ) -> Answer<Paced<OpenReply>> {
        let tickets = self.handle_tickets()?;
        if pace == Pace::Now
            && call.operation.flags.contains(OpenFlags::TRUNC)
            && self.inodes.frees_much(node, 0)
        {
            // The pool must not wait for a lease, so that is broken first.
            let opened = self.inodes.open_content(node, OFlags::WRONLY | pace.open_flags()).map(drop);
            return match Paced::opened(opened, pace)? {
                Paced::Leased => Ok(Paced::Leased),
                Paced::Ready(()) | Paced::WouldBlock | Paced::Stopped => Ok(Paced::WouldBlock),
            };
        }
        let open = self.with_kill(call.operation, &call.caller);
        let is_let_in = self.inodes.is_retried_open(node, call);
        let checked = !is_let_in && self.inodes.is_close_to_open();
        let opened = self
            .open_node(checked, node, (open, pace))
            .and_then(|file| self.enter_file(tickets, (file, node, is_let_in), open));
        let opened = Paced::opened(opened, pace);
        if matches!(opened, Ok(Paced::Leased)) && is_let_in {
            self.inodes.note_leased_open(call);
        }
        opened
    }

    /// The open with its word on set-user-id and set-group-id. A guest that takes these bits away by itself (without
    /// `HANDLE_KILLPRIV_V2`) says nothing where O_TRUNC is part of OPEN or CREATE.
    fn with_kill(&self, open: Open, caller: &Caller<'_>) -> Open {
        let is_forgotten = !self.negotiated(InitFlags::HANDLE_KILLPRIV_V2) && !caller.may_have_fsetid();
        Open { kill_suidgid: open.kill_suidgid || is_forgotten, ..open }
    }

    fn open_node(&self, checked: bool, node: &NodeRef, (open, pace): (Open, Pace)) -> Answer<OwnedFd> {
        if node.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        let truncate = open.flags.contains(OpenFlags::TRUNC);
        // To open it for writing may change it: by O_TRUNC, or because an overlay copies it then.
        let changes = truncate || open.flags.access_mode() != AccessMode::Read;
        if checked && changes {
            match self.inodes.stat(node) {
                Ok(stat) => self.inodes.check_unchanged(node, &stat)?,
                // No descriptor is left to look with: that is no reason not to open.
                Err(Errno::ENFILE) => {}
                Err(errno) => return Err(errno),
            }
        }
        let _held = if changes { self.inodes.hold_to_change(node)? } else { None };
        self.identity.kill_suidgid(truncate && open.kill_suidgid)?;
        let mut flags = self.host_flags(open.flags) | pace.open_flags();
        flags.set(OFlags::TRUNC, truncate);
        let file = match self.inodes.open_content(node, flags) {
            // A writeback cache reads what it completes; where that is not allowed, writing alone must do.
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

    /// What of the guest's flags the host's descriptor gets: the access mode and O_NOATIME. O_APPEND, O_SYNC and
    /// O_DSYNC come again with each WRITE; O_DIRECT gets a descriptor of its own; the rest concerns the guest alone.
    fn host_flags(&self, flags: OpenFlags) -> OFlags {
        host_flags(flags, self.negotiated(InitFlags::WRITEBACK_CACHE), self.config.preserve_noatime)
    }

    /// Gives the guest a handle for an opened host file, which it comes to as it was told to or not ([`Self::is_let_in`]).
    fn enter_file(
        &self,
        tickets: HandleTickets,
        (file, node, is_let_in): (OwnedFd, &NodeRef, bool),
        open: Open,
    ) -> Answer<OpenReply> {
        let wants_direct = self.config.direct_io && open.flags.contains(OpenFlags::DIRECT);
        let (direct, direct_ticket) = if wants_direct {
            let ticket = self.inodes.descriptor_ticket()?;
            let flags = self.host_flags(open.flags) | OFlags::DIRECT;
            // Where it is refused (a file just made without the right to read it, a file system without O_DIRECT),
            // the buffered descriptor serves: the guest's own cache is bypassed all the same.
            (self.inodes.proc_fds().reopen_fd(file.as_fd(), flags).ok(), Some(ticket))
        } else {
            (None, None)
        };
        let uncached = self.inodes.bypasses_page_cache(node, is_let_in);
        let mut flags = self.reply_flags(node, open);
        flags.set(OpenReplyFlags::DIRECT_IO, uncached || flags.contains(OpenReplyFlags::DIRECT_IO));
        let handle = self.files.insert_file(FileHandle {
            file,
            key: node.key(),
            node: self.wants_node(open).then(|| NodeRef::clone(node)),
            direct,
            readable: open.flags.access_mode() != AccessMode::Write,
            writable: open.flags.access_mode() != AccessMode::Read,
            uncached: flags.contains(OpenReplyFlags::DIRECT_IO),
            traits: node.mount.traits,
            names_removed: self.files.names_removed(),
            mount: if writes(open) {
                self.inodes.hold_to_change(node)?
            } else {
                self.inodes.hold_mount(node)?
            },
            hints: Hints::default(),
            _pin: Pin::new(node),
            _tickets: tickets,
            _direct_ticket: direct_ticket,
        })?;
        Ok(OpenReply { handle, flags })
    }

    /// Whether an open file must know its node: for its rule, or for the length that the guest is told of it.
    fn wants_node(&self, open: Open) -> bool {
        self.inodes.rules().is_some()
            || open.flags.access_mode() != AccessMode::Read && self.inodes.is_close_to_open()
    }

    fn reply_flags(&self, node: &NodeRef, open: Open) -> OpenReplyFlags {
        let mut flags = match self.config.cache {
            GuestCaching::Strict => OpenReplyFlags::DIRECT_IO,
            // Through its page cache Linux sends a write that crosses a page as several, between which another guest's
            // may come: what is appended must arrive as it was written.
            GuestCaching::Auto if self.inodes.is_close_to_open() && appends(open) => {
                OpenReplyFlags::DIRECT_IO
            }
            GuestCaching::Auto => OpenReplyFlags::empty(),
            GuestCaching::Exclusive => OpenReplyFlags::KEEP_CACHE,
        };
        // Closing a file that was only read has nothing to tell such a host. Where the guest's locks were kept here,
        // it would: a close ends them.
        let silent = node.mount.traits.closes_silently && open.flags.access_mode() == AccessMode::Read;
        flags.set(OpenReplyFlags::NOFLUSH, silent && !self.negotiated(InitFlags::POSIX_LOCKS));
        flags
    }

    /// Makes the file if it is not there. Whether it is there is the host's to say, in one step: O_EXCL decides who
    /// made it, also between guests.
    pub(in crate::passthrough) fn create(
        &self,
        parent: &NodeRef,
        call: &Call<'_, protocol::Create<'_>>,
        pace: Pace,
    ) -> Answer<Created> {
        let protocol::Create { name, open, mode, umask } = call.operation;
        self.inodes.end_path_retry(&call.caller);
        for _ in 0..CREATE_TRIES {
            self.inodes.check_room()?;
            let tickets = (self.inodes.descriptor_ticket()?, self.handle_tickets()?);
            let directory = self.inodes.descriptor(parent)?;
            let made = {
                let _assumed = self.assume(&call.caller, umask)?;
                let flags = self.host_flags(open.flags) | OFlags::CREATE | OFlags::EXCL;
                let mode = Mode::from_raw_mode(mode);
                resolve::open_beneath(directory.as_fd(), name, flags, mode)
            };
            match made {
                Ok(file) => {
                    let found = FoundAt { directory: parent, name: Some(name) };
                    return self.enter_made(tickets, (file, found), open);
                }
                Err(Errno::EEXIST) if !open.flags.contains(OpenFlags::EXCL) => {}
                Err(errno) => return Err(errno),
            }
            let entry = match self.inodes.look_up_made(tickets.0, parent, name) {
                // It was removed meanwhile.
                Err(Errno::ENOENT) => continue,
                found => found?,
            };
            return self
                .open_existing(tickets.1, entry, (call, pace))
                .inspect_err(|_refused| self.inodes.forget_one(entry.node));
        }
        Err(Errno::ENOENT)
    }

    /// Opens what CREATE found in its place. Where that truncates it, the attributes are those from afterwards.
    fn open_existing(
        &self,
        tickets: HandleTickets,
        mut entry: Entry,
        (call, pace): (&Call<'_, protocol::Create<'_>>, Pace),
    ) -> Answer<Created> {
        let open = self.with_kill(call.operation.open, &call.caller);
        let node = self.inodes.node(entry.node)?;
        self.inodes.check_existing(&node, call)?;
        if pace == Pace::Now && open.flags.contains(OpenFlags::TRUNC) && self.inodes.frees_much(&node, 0) {
            // The offload pool makes nothing. To ESTALE the guest looks once more, finds the file and sends OPEN.
            return Err(Errno::ESTALE);
        }
        let file = self.open_node(false, &node, (open, pace))?;
        let reply = self.enter_file(tickets, (file, &node, false), open)?;
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

    pub(in crate::passthrough) fn tmp_file(
        &self,
        parent: &NodeRef,
        call: &Call<'_, protocol::TmpFile>,
    ) -> Answer<Created> {
        let protocol::TmpFile { open, mode, umask } = call.operation;
        self.inodes.check_room()?;
        let tickets = (self.inodes.descriptor_ticket()?, self.handle_tickets()?);
        let mut flags = self.host_flags(open.flags) | OFlags::TMPFILE | OFlags::CLOEXEC;
        flags.set(OFlags::EXCL, open.flags.contains(OpenFlags::EXCL));
        let directory = self.inodes.descriptor(parent)?;
        let file = {
            let _assumed = self.assume(&call.caller, umask)?;
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::openat2(&*directory, c".", flags, mode, ResolveFlags::BENEATH).map_err(errno)?
        };
        self.enter_made(tickets, (file, FoundAt { directory: parent, name: None }), open)
    }

    /// A node and a handle for a file that has just been made.
    fn enter_made(
        &self,
        tickets: (Ticket, HandleTickets),
        (file, found): (OwnedFd, FoundAt<'_>),
        open: Open,
    ) -> Answer<Created> {
        let stat = resolve::stat(file.as_fd())?;
        let path_fd = || self.inodes.proc_fds().reopen_fd(file.as_fd(), OFlags::PATH);
        let (node, entry) = self.inodes.insert_found(tickets.0, (file.as_fd(), path_fd), (&stat, found))?;
        self.enter_file(tickets.1, (file, &node, false), open)
            .inspect_err(|_refused| self.inodes.forget_one(entry.node))
            .map(|open| Created { entry, open })
    }

    /// Ends the record locks of who closes, and closes a duplicate, which is when network file systems write back. An error of theirs is not seen here, the
    /// standard library drops it; it is the next FSYNC's.
    pub(in crate::passthrough) fn flush(&self, flush: protocol::Flush, pace: Pace) -> Answer<Paced<()>> {
        let file = self.files.file(flush.handle)?;
        let (writable, remote) = (file.writable, file.traits.remote);
        if remote && pace == Pace::Now && (writable || self.locks.any()) {
            return Ok(Paced::WouldBlock);
        }
        // What was only read has nothing to write back.
        let flushed = if file.traits.closes_silently || !writable {
            Ok(())
        } else {
            rustix::io::dup(&file.file).and_then(sys::descriptors::close).map_err(sync_errno)
        };
        file.settle_own_change();
        // Whatever became of the data: whoever closes has no locks afterwards. And after the data, so that who locks next
        // finds it.
        self.locks.end_owner(&file, flush.lock_owner);
        flushed.map(Paced::Ready)
    }

    pub(in crate::passthrough) fn release(
        &self,
        release: protocol::Release,
        pace: Pace,
    ) -> Answer<Paced<()>> {
        let file = self.files.file(release.handle)?;
        // A server would have to be told which locks have ended.
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

fn appends(open: Open) -> bool {
    open.flags.contains(OpenFlags::APPEND) && open.flags.access_mode() != AccessMode::Read
}

/// What of the guest's flags a descriptor gets: no bit of a guest's passes as it is.
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
    fn no_open_flag_but_the_access_mode_and_noatime_reaches_the_host() {
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
