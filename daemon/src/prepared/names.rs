//! LOOKUP, READDIR, READDIRPLUS and READLINK.

use super::Prepared;
use crate::filesystem::Answer;
use pinhole_erofs::{DirEntry, Inode, Kind, Nid};
use pinhole_protocol::{
    Dirent, DirentBuffer, DirentKind, Entry, Errno, LookupName, NodeId, ReadDir, ReadDirPlus,
};
use std::ops::ControlFlow;

impl Prepared {
    pub(super) fn lookup(&self, directory: NodeId, name: LookupName<'_>) -> Answer<Entry> {
        let directory = self.inode(directory)?;
        let name = match name {
            LookupName::Component(name) => name.as_bytes(),
            // A file server in the guest asks for the node of a handle, which need not be a
            // directory.
            LookupName::Itself => return self.entry(&directory),
            LookupName::Parent => b"..",
        };
        let found = self.image.lookup(&directory, name).map_err(|error| self.errno(error, Errno::ENOTDIR))?;
        self.entry(&self.inode_at(found.ok_or(Errno::ENOENT)?.nid)?)
    }

    /// Returns the reply for an inode.
    fn entry(&self, inode: &Inode) -> Answer<Entry> {
        let (node, generation) = (self.ids.node(inode.nid)?, self.ids.generation());
        Ok(Entry { node, generation, attr: self.attr(inode) })
    }

    pub(super) fn read_dir(
        &self,
        directory: NodeId,
        list: ReadDir,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        self.list(directory, list, into, &|_| None)
    }

    pub(super) fn read_dir_plus(
        &self,
        directory: NodeId,
        plus: ReadDirPlus,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        // An inode that cannot be read has a name and no attributes. The guest gets the error when
        // it looks the name up.
        let entry = |nid| self.inode_at(nid).and_then(|inode| self.entry(&inode)).ok();
        self.list(directory, plus.list, into, &entry)
    }

    /// Lists a directory from a cookie on. `entry` returns the attributes of a name.
    fn list(
        &self,
        directory: NodeId,
        list: ReadDir,
        into: &mut DirentBuffer<'_>,
        entry: &dyn Fn(Nid) -> Option<Entry>,
    ) -> Answer<()> {
        let directory = self.inode(directory)?;
        let mut is_full = false;
        let listed = self.image.read_dir(&directory, list.offset, &mut |found| {
            let DirEntry { nid, kind, name, next } = found;
            is_full = !into.fits(name.len());
            if is_full {
                return ControlFlow::Break(());
            }
            let entry = if matches!(name, b"." | b"..") { None } else { entry(nid) };
            let dirent = Dirent { ino: nid.0, offset: next, kind: dirent_kind(kind), name };
            match into.push_plus(entry.as_ref(), &dirent) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_full) => ControlFlow::Break(()),
            }
        });
        match listed {
            // The names so far are a reply. The guest gets the error when it asks for the rest.
            _ if !into.is_empty() => Ok(()),
            Ok(()) if is_full => Err(Errno::EINVAL),
            listed => listed.map_err(|error| self.errno(error, Errno::ENOTDIR)),
        }
    }

    pub(super) fn read_link(&self, link: NodeId, out: &mut Vec<u8>) -> Answer<()> {
        let inode = self.inode(link)?;
        self.image.read_link(&inode, out).map_err(|error| self.errno(error, Errno::EINVAL))
    }
}

/// Returns the kind of a file as a directory entry has it.
const fn dirent_kind(kind: Kind) -> DirentKind {
    match kind {
        Kind::Regular => DirentKind::REGULAR,
        Kind::Directory => DirentKind::DIRECTORY,
        Kind::Symlink => DirentKind::SYMLINK,
        Kind::CharacterDevice => DirentKind::CHARACTER,
        Kind::BlockDevice => DirentKind::BLOCK,
        Kind::Fifo => DirentKind::FIFO,
        Kind::Socket => DirentKind::SOCKET,
    }
}
