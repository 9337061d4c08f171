//! OPENDIR, READDIR, READDIRPLUS, FSYNCDIR, RELEASEDIR.

use crate::filesystem::{Answer, Call};
use crate::limits::{HIDDEN_NAMES_MAX, LISTING_BUFFER_LEN};
use crate::passthrough::Passthrough;
use crate::passthrough::config::GuestCaching;
use crate::passthrough::files::handles::DirHandle;
use crate::passthrough::inodes::NodeRef;
use crate::passthrough::ops::data::sync;
use crate::passthrough::resolve::errno;
use crate::sync::lock::Mutex;
use pinhole_protocol::{
    self as protocol, Dirent, DirentBuffer, DirentKind, Errno, Full, Name, NodeId, OpenReply, OpenReplyFlags,
    ReadDir, ReadDirPlus,
};
use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom};
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::os::fd::AsFd;

/// Length of the longest host entry: `struct linux_dirent64` with a name of 255 bytes.
const HOST_ENTRY_LEN_MAX: usize = 280;

impl Passthrough {
    pub(super) fn open_dir(&self, node: &NodeRef, call: &Call<'_, protocol::OpenDir>) -> Answer<OpenReply> {
        if node.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let tickets = self.handle_tickets()?;
        let mount = self.inodes.hold_mount(node)?;
        let fd = self.inodes.open_directory(node, &call.caller)?;
        let handle = self.files.insert_directory(DirHandle {
            node: NodeRef::clone(node),
            fd,
            position: Mutex::new(Some(0)),
            mount,
            _tickets: tickets,
        })?;
        let flags = match self.config.cache {
            GuestCaching::Strict | GuestCaching::Auto => OpenReplyFlags::empty(),
            GuestCaching::Exclusive => OpenReplyFlags::CACHE_DIR | OpenReplyFlags::KEEP_CACHE,
        };
        Ok(OpenReply { handle, flags })
    }

    pub(super) fn read_dir(&self, list: ReadDir, into: &mut DirentBuffer<'_>) -> Answer<()> {
        let directory = self.files.directory(list.handle)?;
        self.list(&directory, list.offset, into, |entry, into| Ok(into.push(&self.dirent(&directory, entry))))
    }

    pub(super) fn read_dir_plus(&self, plus: ReadDirPlus, into: &mut DirentBuffer<'_>) -> Answer<()> {
        let directory = self.files.directory(plus.list.handle)?;
        self.list(&directory, plus.list.offset, into, |entry, into| {
            if !into.fits(entry.file_name().to_bytes().len()) {
                return Ok(Err(Full));
            }
            let found = match Name::parse(entry.file_name()) {
                // "." and ".." are listed, but not looked up.
                Err(_dots) => None,
                // The policy may permit only the name, without the attributes.
                Ok(name) if !self.inodes.may_list_attributes(&directory.node, name) => None,
                // Listing a large directory must not use up the descriptors that opening a file
                // needs.
                Ok(_) if !directory.node.mount.has_handles() && !self.inodes.descriptors().is_ample() => None,
                Ok(name) => match self.inodes.look_up_in(directory.fd.as_fd(), &directory.node, name, None) {
                    Ok(found) => Some(found),
                    // The name was removed after the host listed it.
                    Err(Errno::ENOENT) => return Ok(Ok(())),
                    // The name is listed without attributes. A LOOKUP gets the error.
                    Err(_) => None,
                },
            };
            let mut dirent = self.dirent(&directory, entry);
            // A mount point has the number of the directory below the mount.
            if let Some(found) = found.as_ref().filter(|found| !found.attr.submount) {
                dirent.ino = found.attr.ino;
            }
            let added = into.push_plus(found.as_ref(), &dirent);
            if let (Err(Full), Some(found)) = (added, found) {
                drop(self.inodes.forget(found.node, 1));
            }
            Ok(added)
        })
    }

    /// Adds the host's entries that follow a cookie, until the reply is nearly full, the policy's
    /// limit of names is reached, or the directory ends.
    ///
    /// One call of the host reads only as many entries as fit into the reply. Entries that do not
    /// fit would have to be read again, after a seek.
    fn list(
        &self,
        directory: &DirHandle,
        cookie: u64,
        into: &mut DirentBuffer<'_>,
        mut add: impl FnMut(&RawDirEntry<'_>, &mut DirentBuffer<'_>) -> Answer<Result<(), Full>>,
    ) -> Answer<()> {
        let mut position = directory.position.lock();
        if *position != Some(cookie) {
            *position = None;
            rustix::fs::seek(&directory.fd, SeekFrom::Start(cookie)).map_err(errno)?;
        }
        let mut buffer = [MaybeUninit::uninit(); LISTING_BUFFER_LEN];
        let mut before = cookie;
        let mut hidden = HIDDEN_NAMES_MAX;
        let mut left = self.config.limits.listing_names.map_or(u64::MAX, NonZero::get);
        while let Some(space) = host_len(into).and_then(|len| buffer.get_mut(..len)) {
            *position = None;
            let mut entries = RawDir::new(&directory.fd, space);
            while position.is_none() {
                let entry = match entries.next() {
                    Some(Ok(entry)) => entry,
                    // The guest must get the entries that were added, because it sends a FORGET for
                    // each. The next READDIR gets the error.
                    Some(Err(_)) if !into.is_empty() => return Ok(()),
                    Some(Err(error)) => return Err(errno(error)),
                    None => {
                        *position = Some(before);
                        return Ok(());
                    }
                };
                if self.inodes.is_hidden(&directory.node, entry.file_name().to_bytes()) {
                    hidden = hidden.saturating_sub(1);
                } else if add(&entry, into)? == Err(Full) {
                    return Ok(());
                }
                before = entry.next_entry_cookie();
                left = left.saturating_sub(1);
                *position = entries.is_buffer_empty().then_some(before);
                if hidden == 0 {
                    return self.end_after_hidden(directory, before, into);
                }
                // An empty reply would mean the end of the directory.
                if left == 0 && !into.is_empty() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Ends a reply after many names that are hidden from the guest.
    ///
    /// A reply without entries would mean the end of the directory. So "." is listed once more,
    /// with the cookie that was reached: programs skip it, and Linux continues from there. Between
    /// two such replies the queue serves other requests.
    fn end_after_hidden(
        &self,
        directory: &DirHandle,
        reached: u64,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        // Entries in the reply have a cookie to continue from.
        if !into.is_empty() {
            return Ok(());
        }
        let number = self.inodes.inode_number(&directory.node.mount, directory.node.inode);
        let dot = Dirent { ino: number, offset: reached, kind: DirentKind::DIRECTORY, name: b"." };
        into.push(&dot).map_err(|Full| Errno::EINVAL)
    }

    /// Returns a host entry as the guest sees it. In the root of the share, ".." is the root
    /// itself.
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

    pub(super) fn fsync_dir(&self, fsync: protocol::FsyncDir) -> Answer<()> {
        let directory = self.files.directory(fsync.handle)?;
        sync(directory.fd.as_fd(), fsync.flags)
    }
}

/// Returns how many bytes of host entries fit into the reply, for names of any length. `None`: the
/// reply is full.
fn host_len(into: &DirentBuffer<'_>) -> Option<usize> {
    // A host entry has at least 24 bytes. The entry of READDIR is 8 bytes longer, the entry of
    // READDIRPLUS 136 bytes.
    let len = if into.is_plus() { into.room() / 20 * 3 } else { into.room() / 4 * 3 };
    match len {
        // The first entry is read in any case. The caller checks whether it fits.
        ..HOST_ENTRY_LEN_MAX if into.is_empty() => Some(HOST_ENTRY_LEN_MAX),
        ..HOST_ENTRY_LEN_MAX => None,
        _ => Some(len.min(LISTING_BUFFER_LEN)),
    }
}
