//! OPENDIR, READDIR, READDIRPLUS, FSYNCDIR, RELEASEDIR: listing.

use super::config::CacheMode;
use super::data::sync;
use super::handles::DirHandle;
use super::nodes::NodeRef;
use super::passthrough::Passthrough;
use super::resolve::errno;
use super::{Answer, Call};
use crate::limits::LISTING_BUFFER_LEN;
use pinhole_protocol::{
    self as protocol, Dirent, DirentBuffer, DirentKind, Errno, Name, NodeId, OpenReply, OpenReplyFlags,
};
use rustix::fs::{FileType, OFlags, RawDir, RawDirEntry, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

/// Whether a listing goes on after an entry.
enum Step {
    Next,
    Full,
}

impl Passthrough {
    pub(super) fn open_dir(&self, node: &NodeRef, _: &Call<'_, protocol::OpenDir>) -> Answer<OpenReply> {
        if node.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let ticket = self.ticket()?;
        let stream = self.open_inside(node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let handle = self.directories.insert(DirHandle {
            node: NodeRef::clone(node),
            stream: Mutex::new(stream),
            _ticket: ticket,
        })?;
        let flags = match self.config.cache {
            CacheMode::Never | CacheMode::Metadata | CacheMode::Auto => OpenReplyFlags::empty(),
            CacheMode::Always => OpenReplyFlags::CACHE_DIR | OpenReplyFlags::KEEP_CACHE,
        };
        Ok(OpenReply { handle, flags })
    }

    pub(super) fn read_dir(&self, list: protocol::ReadDir, into: &mut DirentBuffer<'_>) -> Answer<()> {
        let directory = self.directories.get(list.handle)?;
        self.list(&directory, list.offset, |_, entry| {
            Ok(match into.push(&dirent(&directory, entry)) {
                Ok(()) => Step::Next,
                Err(protocol::Full) => Step::Full,
            })
        })
    }

    pub(super) fn read_dir_plus(
        &self,
        plus: protocol::ReadDirPlus,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        let directory = self.directories.get(plus.list.handle)?;
        self.list(&directory, plus.list.offset, |stream, entry| {
            if !into.fits(entry.file_name().to_bytes().len()) {
                return Ok(Step::Full);
            }
            let found = match Name::parse(entry.file_name()) {
                // "." and ".." are listed but take no lookup.
                Err(_dots) => None,
                // Listing a large directory must not take what opening a file in it needs.
                Ok(_) if !directory.node.mount.has_handles() && !self.budget.is_ample() => None,
                Ok(name) => match self.look_up_in(stream, &directory.node, name, None) {
                    Ok(found) => Some(found),
                    // It was removed after the host listed it.
                    Err(Errno::ENOENT) => return Ok(Step::Next),
                    // The name is told without its attributes; a LOOKUP will get the error if anyone asks.
                    Err(_) => None,
                },
            };
            if into.push_plus(found.as_ref(), &dirent(&directory, entry)).is_ok() {
                return Ok(Step::Next);
            }
            if let Some(found) = found {
                drop(self.nodes.forget(found.node, 1));
            }
            Ok(Step::Full)
        })
    }

    /// Goes through the host's entries from a cookie on, until `take` is full or the directory ends.
    fn list(
        &self,
        directory: &DirHandle,
        cookie: u64,
        mut take: impl FnMut(BorrowedFd<'_>, &RawDirEntry<'_>) -> Answer<Step>,
    ) -> Answer<()> {
        let stream = directory.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // The host's position stands behind the last entry that it gave, not behind the last one that fitted.
        rustix::fs::seek(&*stream, SeekFrom::Start(cookie)).map_err(errno)?;
        let mut buffer = [MaybeUninit::uninit(); LISTING_BUFFER_LEN];
        let mut entries = RawDir::new(stream.as_fd(), &mut buffer);
        let mut taken = false;
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) => match take(stream.as_fd(), &entry)? {
                    Step::Next => taken = true,
                    Step::Full => break,
                },
                // What was taken must reach the guest, which owes a FORGET for it; the error comes again.
                Err(_) if taken => break,
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(())
    }

    pub(super) fn fsync_dir(&self, fsync: protocol::FsyncDir) -> Answer<()> {
        let directory = self.directories.get(fsync.handle)?;
        // Not under the stream's lock for longer than it takes to copy the descriptor: an fsync may take seconds.
        let _ticket = self.ticket()?;
        let stream = {
            let stream = directory.stream.lock().unwrap_or_else(PoisonError::into_inner);
            rustix::io::fcntl_dupfd_cloexec(&*stream, 0).map_err(errno)?
        };
        sync(stream.as_fd(), fsync.flags)
    }

    pub(super) fn release_dir(&self, release: protocol::ReleaseDir) -> Answer<()> {
        self.directories.remove(release.handle)
    }
}

/// One host entry as the guest sees it. What lies above the root of the share is not the guest's business: there,
/// ".." is the root itself.
fn dirent<'e>(directory: &DirHandle, entry: &'e RawDirEntry<'_>) -> Dirent<'e> {
    let name = entry.file_name().to_bytes();
    let above_root = name == b".." && directory.node.id() == NodeId::ROOT.0;
    Dirent {
        ino: if above_root { directory.node.inode } else { entry.ino() },
        offset: entry.next_entry_cookie(),
        kind: DirentKind::from_mode(entry.file_type().as_raw_mode()),
        name,
    }
}
