//! OPENDIR, READDIR, READDIRPLUS, FSYNCDIR, RELEASEDIR: listing.

use crate::filesystem::{Answer, Call};
use crate::limits::{HIDDEN_NAMES_MAX, LISTING_BUFFER_LEN};
use crate::passthrough::Passthrough;
use crate::passthrough::config::GuestCaching;
use crate::passthrough::files::handles::{DirHandle, DirStream};
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::ops::data::sync;
use crate::passthrough::resolve::errno;
use crate::sync::lock::Mutex;
use pinhole_protocol::{
    self as protocol, Dirent, DirentBuffer, DirentKind, Errno, Name, NodeId, OpenReply, OpenReplyFlags,
};
use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom};
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Bytes of the longest host entry: `struct linux_dirent64` with a name of 255 bytes.
const HOST_ENTRY_LEN_MAX: usize = 280;

/// Whether a listing goes on after an entry.
enum Step {
    Next,
    Full,
}

impl Passthrough {
    pub(in crate::passthrough) fn open_dir(
        &self,
        node: &NodeRef,
        call: &Call<'_, protocol::OpenDir>,
    ) -> Answer<OpenReply> {
        if node.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let tickets = self.handle_tickets()?;
        let mount = self.inodes.hold_mount(node)?;
        let stream = self.inodes.open_directory(node, &call.caller)?;
        let handle = self.files.insert_directory(DirHandle {
            node: NodeRef::clone(node),
            stream: Mutex::new(DirStream { fd: Arc::new(stream), position: Some(0) }),
            mount,
            _tickets: tickets,
        })?;
        let flags = match self.config.cache {
            GuestCaching::Strict | GuestCaching::Auto => OpenReplyFlags::empty(),
            GuestCaching::Exclusive => OpenReplyFlags::CACHE_DIR | OpenReplyFlags::KEEP_CACHE,
        };
        Ok(OpenReply { handle, flags })
    }

    pub(in crate::passthrough) fn read_dir(
        &self,
        list: protocol::ReadDir,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        let directory = self.files.directory(list.handle)?;
        self.list(&directory, (list.offset, into), |_, entry, into| {
            Ok(match into.push(&self.dirent(&directory, entry)) {
                Ok(()) => Step::Next,
                Err(protocol::Full) => Step::Full,
            })
        })
    }

    pub(in crate::passthrough) fn read_dir_plus(
        &self,
        plus: protocol::ReadDirPlus,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        let directory = self.files.directory(plus.list.handle)?;
        self.list(&directory, (plus.list.offset, into), |stream, entry, into| {
            if !into.fits(entry.file_name().to_bytes().len()) {
                return Ok(Step::Full);
            }
            let found = match Name::parse(entry.file_name()) {
                // "." and ".." are listed but take no lookup.
                Err(_dots) => None,
                // A policy may let the name be known and nothing more.
                Ok(name) if !self.inodes.may_list_attributes(&directory.node, name) => None,
                // Listing a large directory must not take what opening a file in it needs.
                Ok(_) if !directory.node.mount.has_handles() && !self.inodes.has_ample_descriptors() => None,
                Ok(name) => match self.inodes.look_up_in(stream, &directory.node, name, None) {
                    Ok(found) => Some(found),
                    // It was removed after the host listed it.
                    Err(Errno::ENOENT) => return Ok(Step::Next),
                    // The name is told without its attributes; a LOOKUP will get the error if anyone asks.
                    Err(_) => None,
                },
            };
            let mut dirent = self.dirent(&directory, entry);
            // What a host mount covers is listed with the number that is covered.
            if let Some(found) = found.as_ref().filter(|found| !found.attr.submount) {
                dirent.ino = found.attr.ino;
            }
            if into.push_plus(found.as_ref(), &dirent).is_ok() {
                return Ok(Step::Next);
            }
            if let Some(found) = found {
                self.inodes.forget_one(found.node);
            }
            Ok(Step::Full)
        })
    }

    /// Goes through the host's entries from a cookie on, until there is little room left, as many were seen as the
    /// policy allows at once, or the directory ends.
    ///
    /// The host is asked for as much as has room in the guest's form: what it gave and the guest did not take would
    /// have to be sought and read again.
    fn list(
        &self,
        directory: &DirHandle,
        (cookie, into): (u64, &mut DirentBuffer<'_>),
        mut take: impl FnMut(BorrowedFd<'_>, &RawDirEntry<'_>, &mut DirentBuffer<'_>) -> Answer<Step>,
    ) -> Answer<()> {
        let mut stream = directory.stream.lock();
        let DirStream { fd, position } = &mut *stream;
        if *position != Some(cookie) {
            *position = None;
            rustix::fs::seek(&*fd, SeekFrom::Start(cookie)).map_err(errno)?;
        }
        let mut buffer = [MaybeUninit::uninit(); LISTING_BUFFER_LEN];
        let mut before = Some(cookie);
        let mut hidden = HIDDEN_NAMES_MAX;
        let mut left = self.config.limits.listing_names.map_or(u64::MAX, NonZero::get);
        while let Some(space) = host_len(into).and_then(|len| buffer.get_mut(..len)) {
            *position = None;
            let mut entries = RawDir::new(fd.as_fd(), space);
            loop {
                match entries.next() {
                    Some(Ok(entry))
                        if self.inodes.is_hidden(&directory.node, entry.file_name().to_bytes()) =>
                    {
                        before = Some(entry.next_entry_cookie());
                        left = left.saturating_sub(1);
                        hidden = hidden.saturating_sub(1);
                        if hidden == 0 {
                            if entries.is_buffer_empty() {
                                *position = before;
                            }
                            return self.tell_progress(directory, before, into);
                        }
                    }
                    Some(Ok(entry)) => match take(fd.as_fd(), &entry, into)? {
                        Step::Next => {
                            before = Some(entry.next_entry_cookie());
                            left = left.saturating_sub(1);
                        }
                        Step::Full => return Ok(()),
                    },
                    // What was taken must reach the guest, which owes a FORGET for it; the error comes again.
                    Some(Err(_)) if !into.is_empty() => return Ok(()),
                    Some(Err(error)) => return Err(errno(error)),
                    None => {
                        *position = before;
                        return Ok(());
                    }
                }
                // An empty answer would be the end of the directory.
                if left == 0 && !into.is_empty() {
                    if entries.is_buffer_empty() {
                        *position = before;
                    }
                    return Ok(());
                }
                if entries.is_buffer_empty() {
                    break;
                }
            }
            *position = before;
        }
        Ok(())
    }

    /// Ends a reply after many names that the guest may not see. One without any entry would be the end of the directory,
    /// so "." is told once more, with the cookie that was reached: programs pass over it, and Linux asks for what comes
    /// next. Between two such replies the queue has its other requests served.
    fn tell_progress(
        &self,
        directory: &DirHandle,
        reached: Option<u64>,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        // What is there already has a cookie to go on from.
        let Some(offset) = reached.filter(|_| into.is_empty()) else { return Ok(()) };
        let number = self.inodes.inode_number(&directory.node.mount, directory.node.inode);
        let dot = Dirent { ino: number, offset, kind: DirentKind::DIRECTORY, name: b"." };
        into.push(&dot).map_err(|protocol::Full| Errno::EINVAL)
    }

    /// One host entry as the guest sees it. What lies above the root of the share is not the guest's business: there,
    /// ".." is the root itself.
    fn dirent<'e>(&self, directory: &DirHandle, entry: &'e RawDirEntry<'_>) -> Dirent<'e> {
        let name = entry.file_name().to_bytes();
        let above_root = name == b".." && directory.node.id() == NodeId::ROOT.0;
        let inode = if above_root { directory.node.inode } else { entry.ino() };
        Dirent {
            ino: self.inodes.inode_number(&directory.node.mount, inode),
            offset: entry.next_entry_cookie(),
            kind: DirentKind::from_mode(entry.file_type().as_raw_mode()),
            name,
        }
    }

    pub(in crate::passthrough) fn fsync_dir(&self, fsync: protocol::FsyncDir) -> Answer<()> {
        let directory = self.files.directory(fsync.handle)?;
        sync(directory.fd().as_fd(), fsync.flags)
    }

    pub(in crate::passthrough) fn release_dir(&self, release: protocol::ReleaseDir) -> Answer<()> {
        self.files.close_directory(release.handle)
    }
}

/// Bytes of host entries that have room whatever their names; `None` where it is time to answer.
fn host_len(into: &DirentBuffer<'_>) -> Option<usize> {
    // A host entry takes 24 bytes or more and 8 less than one of READDIR; with attributes, 136 less.
    let len = if into.is_plus() { into.room() / 20 * 3 } else { into.room() / 4 * 3 };
    match len {
        // The first must be read however little room there is; whether it fits is seen then.
        ..HOST_ENTRY_LEN_MAX if into.is_empty() => Some(HOST_ENTRY_LEN_MAX),
        ..HOST_ENTRY_LEN_MAX => None,
        _ => Some(len.min(LISTING_BUFFER_LEN)),
    }
}
