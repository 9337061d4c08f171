//! The model as a [`FileSystem`].

use crate::model::{
    Content, FILE_LEN_MAX, Opened, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
    Tree,
};
use crate::oracle::Model;
use pinhole::filesystem::{
    Allowed, Answer, Caller, Durable, FileSystem, InodeFlags, ListNames, Locking, MapFile, Pace, Paced,
    StopCheck,
};
use pinhole::io_vectors::IoVectors;
use pinhole_policy::{Places, RuleId};
use pinhole_protocol as protocol;
use pinhole_protocol::{
    AccessMode, Attr, Created, Dirent, DirentBuffer, DirentKind, Entry, Errno, FallocateMode, FileLock,
    InitFlags, LockRange, Name, NodeId, NodeKind, Open, OpenFlags, OpenReply, OpenReplyFlags, RenameFlags,
    Statfs, Statx, Whence,
};
use std::collections::BTreeMap;

/// Inode number, type and name.
type DirectoryEntry = (u64, DirentKind, Vec<u8>);

/// Returns the uid and gid of a caller.
fn owner(caller: &Caller<'_>) -> (u32, u32) {
    (caller.uid, caller.gid)
}

/// Creates a file with a name in a directory.
fn create_named(
    tree: &mut Tree,
    (directory, name): (NodeId, Name<'_>),
    (content, mode, rdev): (Content, u32, u32),
    caller: &Caller<'_>,
) -> Answer<Entry> {
    let directory = tree.inode_of(directory)?;
    tree.check_addable(directory, name.as_bytes())?;
    let inode = tree.create_inode(content, (mode, rdev), owner(caller))?;
    tree.attach(directory, name.as_bytes(), inode)?;
    tree.add_lookup(inode)
}

/// Opens an existing file.
fn open_file(tree: &mut Tree, inode: u64, open: Open) -> Answer<OpenReply> {
    let access = open.flags.access_mode();
    match &mut tree.get_mut(inode)?.content {
        Content::File(bytes) if open.flags.contains(OpenFlags::TRUNC) => bytes.clear(),
        Content::File(_) => {}
        Content::Directory(..) => return Err(Errno::EISDIR),
        Content::Link(_) => return Err(Errno::ELOOP),
        Content::Special => return Err(Errno::ENXIO),
    }
    let handle = tree.open(Opened {
        inode,
        directory: false,
        read: access != AccessMode::Write,
        write: access != AccessMode::Read,
    })?;
    Ok(OpenReply { handle, flags: OpenReplyFlags::empty() })
}

/// Returns the end of a range in bytes, or EFBIG if no file can be that long.
fn range_end(offset: u64, len: u64) -> Answer<usize> {
    let end = offset.checked_add(len).filter(|end| *end <= FILE_LEN_MAX).ok_or(Errno::EFBIG)?;
    usize::try_from(end).map_err(|_large| Errno::EFBIG)
}

/// Returns the inode number of an open directory, and its entries from the offset of `list` on.
fn entries(tree: &Tree, list: protocol::ReadDir) -> Answer<(u64, Vec<DirectoryEntry>)> {
    let directory = tree.opened(list.handle, true)?.inode;
    // Linux (`iterate_dir`) returns the same error for a removed directory.
    if tree.get(directory)?.nlink == 0 {
        return Err(Errno::ENOENT);
    }
    let Content::Directory(names, parent) = &tree.get(directory)?.content else { return Err(Errno::EBADF) };
    let dots = [(directory, b".".to_vec()), (*parent, b"..".to_vec())];
    let all = dots.into_iter().chain(names.iter().map(|(name, inode)| (*inode, name.clone())));
    let skipped = usize::try_from(list.offset).unwrap_or(usize::MAX);
    let rest = all.skip(skipped).map(|(inode, name)| {
        let mode = tree.inodes.get(&inode).map_or(S_IFDIR, |inode| inode.mode);
        (inode, DirentKind::from_mode(mode), name)
    });
    Ok((directory, rest.collect()))
}

/// Renames or exchanges names. Each name is given by its directory and its bytes.
fn rename(tree: &mut Tree, from: (u64, &[u8]), to: (u64, &[u8]), flags: RenameFlags) -> Answer<()> {
    if flags.contains(RenameFlags::WHITEOUT) || flags.contains(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE)
    {
        return Err(Errno::EINVAL);
    }
    let inode = tree.find(from.0, from.1)?;
    let target = match tree.find(to.0, to.1) {
        Err(Errno::ENOENT) => None,
        found => Some(found?),
    };
    if tree.get(to.0)?.nlink == 0 {
        return Err(Errno::ENOENT);
    }
    if tree.is_or_is_below(to.0, inode) && tree.is_directory(inode) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(RenameFlags::EXCHANGE) {
        let target = target.ok_or(Errno::ENOENT)?;
        if tree.is_or_is_below(from.0, target) && tree.is_directory(target) {
            return Err(Errno::EINVAL);
        }
        if from == to || inode == target {
            return Ok(());
        }
        tree.detach(from.0, from.1)?;
        tree.detach(to.0, to.1)?;
        tree.attach(from.0, from.1, target)?;
        return tree.attach(to.0, to.1, inode);
    }
    match target {
        Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EEXIST),
        Some(target) if target == inode => return Ok(()),
        Some(target) => {
            // A target that contains the source needs no check of its own, because it is not empty.
            match (tree.is_directory(inode), tree.names(target)) {
                (true, Ok(names)) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Ok(_)) | (false, Err(_)) => {}
                (true, Err(_)) => return Err(Errno::ENOTDIR),
                (false, Ok(_)) => return Err(Errno::EISDIR),
            }
            tree.detach(to.0, to.1)?;
        }
        None => {}
    }
    tree.detach(from.0, from.1)?;
    tree.attach(to.0, to.1, inode)?;
    tree.free_unused();
    Ok(())
}

/// Takes the operation out of `$call`, and locks the tree.
macro_rules! locked {
    ($self:ident, $call:ident, $tree:ident) => {
        let $call = $call.into_inner();
        let mut guard = $self.tree();
        let $tree = &mut *guard;
    };
}

impl Places for Model {
    fn node(&self, _: u64) -> Option<RuleId> {
        Some(RuleId::SHARE)
    }

    fn handle(&self, _: u64) -> Option<RuleId> {
        Some(RuleId::SHARE)
    }
}

impl FileSystem for Model {
    fn reset(&self, _: InitFlags) {
        self.tree().reset();
    }

    fn lookup(&self, call: Allowed<'_, protocol::Lookup<'_>>) -> Answer<Entry> {
        locked!(self, call, tree);
        let directory = tree.inode_of(call.node)?;
        let name = call.operation.name.component().map_err(|_dots| Errno::EINVAL)?;
        let inode = tree.find(directory, name.as_bytes())?;
        tree.add_lookup(inode)
    }

    fn forget(&self, call: Allowed<'_, protocol::Forget>) {
        locked!(self, call, tree);
        tree.forget(call.node, call.operation.count);
    }

    fn get_attr(&self, call: Allowed<'_, protocol::GetAttr>) -> Answer<Attr> {
        locked!(self, call, tree);
        let node = tree.inode_of(call.node)?;
        tree.attr(node)
    }

    fn set_attr(&self, call: Allowed<'_, protocol::SetAttr>, _: Pace) -> Answer<Paced<Attr>> {
        locked!(self, call, tree);
        let number = tree.inode_of(call.node)?;
        let wanted = call.operation;
        if let Some(size) = wanted.size {
            let len = range_end(size, 0)?;
            // A handle only saves the host an open, and only if the handle is of this node. So the
            // model ignores handles.
            match &mut tree.get_mut(number)?.content {
                Content::File(bytes) => bytes.resize(len, 0),
                Content::Directory(..) => return Err(Errno::EISDIR),
                Content::Link(_) | Content::Special => return Err(Errno::EINVAL),
            }
        }
        if wanted.uid == Some(u32::MAX) || wanted.gid == Some(u32::MAX) {
            return Err(Errno::EINVAL);
        }
        let inode = tree.get_mut(number)?;
        if wanted.mode.is_some() && inode.mode & S_IFMT == S_IFLNK {
            return Err(Errno::EOPNOTSUPP);
        }
        inode.uid = wanted.uid.unwrap_or(inode.uid);
        inode.gid = wanted.gid.unwrap_or(inode.gid);
        inode.mode = wanted.mode.map_or(inode.mode, |mode| inode.mode & S_IFMT | mode);
        tree.attr(number).map(Paced::Ready)
    }

    fn get_statx(&self, call: Allowed<'_, protocol::GetStatx>) -> Answer<Statx> {
        locked!(self, call, tree);
        let attr = tree.attr(tree.inode_of(call.node)?)?;
        let mode = u16::try_from(attr.mode).map_err(|_large| Errno::EIO)?;
        Ok(Statx { mask: 0x7ff, ino: attr.ino, size: attr.size, mode, nlink: attr.nlink, ..Statx::default() })
    }

    fn access(&self, call: Allowed<'_, protocol::Access>) -> Answer<()> {
        locked!(self, call, tree);
        tree.inode_of(call.node).map(drop)
    }

    fn stat_fs(&self, call: Allowed<'_, protocol::StatFs>) -> Answer<Statfs> {
        locked!(self, call, tree);
        tree.inode_of(call.node)?;
        Ok(Statfs {
            blocks: 1,
            files: tree.inodes.len() as u64,
            namelen: 255,
            bsize: 4096,
            ..Statfs::default()
        })
    }

    fn read_link(&self, call: Allowed<'_, protocol::ReadLink>, out: &mut Vec<u8>) -> Answer<()> {
        locked!(self, call, tree);
        match &tree.get(tree.inode_of(call.node)?)?.content {
            Content::Link(target) => out.extend_from_slice(target),
            Content::File(_) | Content::Directory(..) | Content::Special => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn sym_link(&self, call: Allowed<'_, protocol::SymLink<'_>>) -> Answer<Entry> {
        locked!(self, call, tree);
        let content = Content::Link(call.operation.target.to_bytes().to_vec());
        create_named(tree, (call.node, call.operation.name), (content, S_IFLNK | 0o777, 0), &call.caller)
    }

    fn mk_nod(&self, call: Allowed<'_, protocol::MkNod<'_>>) -> Answer<Entry> {
        locked!(self, call, tree);
        let protocol::MkNod { name, kind, mode, .. } = call.operation;
        let (content, file_type) = match kind {
            NodeKind::Regular => (Content::File(Vec::new()), S_IFREG),
            NodeKind::Fifo => (Content::Special, S_IFIFO),
            NodeKind::Socket => (Content::Special, S_IFSOCK),
            NodeKind::CharacterDevice(_) => (Content::Special, S_IFCHR),
            NodeKind::BlockDevice(_) => (Content::Special, S_IFBLK),
        };
        create_named(tree, (call.node, name), (content, file_type | mode, kind.rdev()), &call.caller)
    }

    fn mk_dir(&self, call: Allowed<'_, protocol::MkDir<'_>>) -> Answer<Entry> {
        locked!(self, call, tree);
        let content = Content::Directory(BTreeMap::new(), 0);
        let mode = S_IFDIR | call.operation.mode & 0o1777;
        create_named(tree, (call.node, call.operation.name), (content, mode, 0), &call.caller)
    }

    fn link(&self, call: Allowed<'_, protocol::Link<'_>>) -> Answer<Entry> {
        locked!(self, call, tree);
        let directory = tree.inode_of(call.node)?;
        let target = tree.inode_of(call.operation.target)?;
        tree.check_addable(directory, call.operation.name.as_bytes())?;
        if tree.is_directory(target) {
            return Err(Errno::EPERM);
        }
        if tree.get(target)?.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        tree.attach(directory, call.operation.name.as_bytes(), target)?;
        tree.add_lookup(target)
    }

    fn unlink(&self, call: Allowed<'_, protocol::Unlink<'_>>) -> Answer<()> {
        locked!(self, call, tree);
        let directory = tree.inode_of(call.node)?;
        let name = call.operation.name.as_bytes();
        if tree.is_directory(tree.find(directory, name)?) {
            return Err(Errno::EISDIR);
        }
        tree.detach(directory, name)?;
        tree.free_unused();
        Ok(())
    }

    fn rm_dir(&self, call: Allowed<'_, protocol::RmDir<'_>>) -> Answer<()> {
        locked!(self, call, tree);
        let directory = tree.inode_of(call.node)?;
        let name = call.operation.name.as_bytes();
        if !tree.names(tree.find(directory, name)?)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        tree.detach(directory, name)?;
        tree.free_unused();
        Ok(())
    }

    fn rename(&self, call: Allowed<'_, protocol::Rename<'_>>) -> Answer<()> {
        locked!(self, call, tree);
        let protocol::Rename { name, new_directory, new_name, flags } = call.operation;
        let (from, to) = (tree.inode_of(call.node)?, tree.inode_of(new_directory)?);
        rename(tree, (from, name.as_bytes()), (to, new_name.as_bytes()), flags)
    }

    fn open(&self, call: Allowed<'_, Open>, _: Pace) -> Answer<Paced<OpenReply>> {
        locked!(self, call, tree);
        let inode = tree.inode_of(call.node)?;
        open_file(tree, inode, call.operation).map(Paced::Ready)
    }

    fn create(&self, call: Allowed<'_, protocol::Create<'_>>, _: Pace) -> Answer<Paced<Created>> {
        locked!(self, call, tree);
        let protocol::Create { name, open, mode, .. } = call.operation;
        let directory = tree.inode_of(call.node)?;
        let inode = match tree.find(directory, name.as_bytes()) {
            Ok(_) if open.flags.contains(OpenFlags::EXCL) => return Err(Errno::EEXIST),
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                tree.check_addable(directory, name.as_bytes())?;
                let mode = (S_IFREG | mode, 0);
                let inode = tree.create_inode(Content::File(Vec::new()), mode, owner(&call.caller))?;
                tree.attach(directory, name.as_bytes(), inode)?;
                inode
            }
            Err(errno) => return Err(errno),
        };
        let open = open_file(tree, inode, open)?;
        Ok(Paced::Ready(Created { entry: tree.add_lookup(inode)?, open }))
    }

    fn tmp_file(&self, call: Allowed<'_, protocol::TmpFile>) -> Answer<Created> {
        locked!(self, call, tree);
        let directory = tree.inode_of(call.node)?;
        tree.names(directory)?;
        if call.operation.open.flags.access_mode() == AccessMode::Read {
            return Err(Errno::EINVAL);
        }
        let mode = (S_IFREG | call.operation.mode, 0);
        let inode = tree.create_inode(Content::File(Vec::new()), mode, owner(&call.caller))?;
        let reply = open_file(tree, inode, call.operation.open);
        let reply = reply.inspect_err(|_| tree.free_unused())?;
        Ok(Created { entry: tree.add_lookup(inode)?, open: reply })
    }

    fn flush(&self, call: Allowed<'_, protocol::Flush>, _: Pace) -> Answer<Paced<()>> {
        locked!(self, call, tree);
        tree.opened(call.operation.handle, false).map(|_| Paced::Ready(()))
    }

    fn release(&self, call: Allowed<'_, protocol::Release>, _: Pace) -> Answer<Paced<()>> {
        locked!(self, call, tree);
        tree.close(call.operation.handle, false).map(Paced::Ready)
    }

    fn read(&self, call: Allowed<'_, protocol::Read>, into: &IoVectors<'_>, _: Pace) -> Answer<Paced<usize>> {
        locked!(self, call, tree);
        if !tree.opened(call.operation.handle, false)?.read {
            return Err(Errno::EBADF);
        }
        let offset = call.operation.offset;
        if i64::try_from(offset).is_err() {
            return Err(Errno::EINVAL);
        }
        let bytes = tree.bytes(call.operation.handle)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        crate::oracle::fill(into, rest).map(Paced::Ready)
    }

    fn write(
        &self,
        call: Allowed<'_, protocol::Write>,
        from: &IoVectors<'_>,
        _: Pace,
    ) -> Answer<Paced<usize>> {
        locked!(self, call, tree);
        let data = crate::oracle::drain(from)?;
        let bytes = tree.bytes_mut(call.operation.handle)?;
        let at_end = call.operation.flags.contains(OpenFlags::APPEND)
            && !call.operation.write_flags.contains(protocol::WriteFlags::CACHE);
        let offset = if at_end { bytes.len() as u64 } else { call.operation.offset };
        let end = range_end(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(Paced::Ready(0));
        }
        bytes.resize(bytes.len().max(end), 0);
        bytes[end - data.len()..end].copy_from_slice(&data);
        Ok(Paced::Ready(data.len()))
    }

    fn fsync(&self, call: Allowed<'_, protocol::Fsync>) -> Answer<Durable> {
        locked!(self, call, tree);
        tree.opened(call.operation.handle, false).map(|_| Durable::Done)
    }

    /// Reports a lock of a single odd byte as taken, and all others as free. The model keeps no
    /// locks.
    fn get_lock(&self, call: Allowed<'_, protocol::GetLock>, _: Pace) -> Answer<Paced<Option<FileLock>>> {
        locked!(self, call, tree);
        let LockRange { handle, start, end, kind, .. } = call.operation.0;
        tree.opened(handle, false)?;
        let taken = (start == end && start % 2 == 1).then_some(FileLock { start, end, kind, pid: 0 });
        Ok(Paced::Ready(taken))
    }

    fn set_lock(&self, call: Allowed<'_, protocol::SetLock>, _: Pace) -> Answer<Paced<Locking>> {
        locked!(self, call, tree);
        let protocol::SetLock { lock: LockRange { handle, start, end, .. }, wait } = call.operation;
        tree.opened(handle, false)?;
        let taken = start == end && start % 2 == 1 && !wait;
        Ok(Paced::Ready(if taken { Locking::Held(None) } else { Locking::Done }))
    }

    fn fallocate(&self, call: Allowed<'_, protocol::Fallocate>, _: StopCheck<'_>) -> Answer<Paced<()>> {
        locked!(self, call, tree);
        let protocol::Fallocate { handle, offset, length, mode } = call.operation;
        let (keep, punch) = (FallocateMode::KEEP_SIZE, FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE);
        if ![FallocateMode::empty(), keep, punch, FallocateMode::ZERO_RANGE].contains(&mode) {
            return Err(Errno::EOPNOTSUPP);
        }
        let bytes = tree.bytes_mut(handle)?;
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let end = range_end(offset, length)?;
        let start = end - usize::try_from(length).map_err(|_large| Errno::EFBIG)?;
        if mode == punch {
            let (start, end) = (start.min(bytes.len()), end.min(bytes.len()));
            bytes[start..end].fill(0);
        } else if mode == FallocateMode::ZERO_RANGE {
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].fill(0);
        } else if mode.is_empty() {
            bytes.resize(bytes.len().max(end), 0);
        }
        Ok(Paced::Ready(()))
    }

    fn lseek(&self, call: Allowed<'_, protocol::Lseek>) -> Answer<u64> {
        locked!(self, call, tree);
        let protocol::Lseek { handle, offset, whence } = call.operation;
        let len = tree.bytes(handle)?.len() as u64;
        match whence {
            Whence::End => len.checked_add(offset).ok_or(Errno::EOVERFLOW),
            Whence::Data if offset < len => Ok(offset),
            Whence::Hole if offset < len => Ok(len),
            Whence::Data | Whence::Hole => Err(Errno::ENXIO),
        }
    }

    fn copy_file_range(&self, call: Allowed<'_, protocol::CopyFileRange>) -> Answer<u64> {
        locked!(self, call, tree);
        let copy = call.operation;
        if copy.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let from = tree.opened(copy.from, false)?;
        let to = tree.opened(copy.to, false)?;
        if !from.read || !to.write {
            return Err(Errno::EBADF);
        }
        let source = tree.bytes(copy.from)?;
        let start = usize::try_from(copy.from_offset).unwrap_or(usize::MAX).min(source.len());
        let len = usize::try_from(copy.length).unwrap_or(usize::MAX).min(source.len() - start);
        let data = source[start..start + len].to_vec();
        let overlaps = copy.from_offset.abs_diff(copy.to_offset) < len as u64;
        if from.inode == to.inode && overlaps {
            return Err(Errno::EINVAL);
        }
        let end = range_end(copy.to_offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(0);
        }
        let bytes = tree.bytes_mut(copy.to)?;
        bytes.resize(bytes.len().max(end), 0);
        bytes[end - data.len()..end].copy_from_slice(&data);
        Ok(data.len() as u64)
    }

    fn sync_fs(&self, _: Allowed<'_, protocol::SyncFs>) -> Answer<Durable> {
        Ok(Durable::Done)
    }

    fn open_to_map(&self, _: Allowed<'_, protocol::SetupMapping>, _: bool) -> Answer<MapFile> {
        Err(Errno::ENODEV)
    }

    fn open_dir(&self, call: Allowed<'_, protocol::OpenDir>) -> Answer<OpenReply> {
        locked!(self, call, tree);
        let inode = tree.inode_of(call.node)?;
        tree.names(inode)?;
        let handle = tree.open(Opened { inode, directory: true, read: true, write: false })?;
        Ok(OpenReply { handle, flags: OpenReplyFlags::empty() })
    }

    fn read_dir(&self, call: Allowed<'_, protocol::ReadDir>, into: &mut DirentBuffer<'_>) -> Answer<()> {
        locked!(self, call, tree);
        let (_, rest) = entries(tree, call.operation)?;
        for ((ino, kind, name), offset) in rest.iter().zip(call.operation.offset.saturating_add(1)..) {
            if into.push(&Dirent { ino: *ino, offset, kind: *kind, name }).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn read_dir_plus(
        &self,
        call: Allowed<'_, protocol::ReadDirPlus>,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        locked!(self, call, tree);
        let (_, rest) = entries(tree, call.operation.list)?;
        for ((ino, kind, name), offset) in rest.iter().zip(call.operation.list.offset.saturating_add(1)..) {
            if !into.fits(name.len()) {
                break;
            }
            let dots = matches!(name.as_slice(), b"." | b"..");
            let entry = if dots { None } else { Some(tree.add_lookup(*ino)?) };
            let dirent = Dirent { ino: *ino, offset, kind: *kind, name };
            into.push_plus(entry.as_ref(), &dirent).map_err(|_full| Errno::EIO)?;
        }
        Ok(())
    }

    fn fsync_dir(&self, call: Allowed<'_, protocol::FsyncDir>) -> Answer<()> {
        locked!(self, call, tree);
        tree.opened(call.operation.handle, true).map(drop)
    }

    fn release_dir(&self, call: Allowed<'_, protocol::ReleaseDir>) -> Answer<()> {
        locked!(self, call, tree);
        tree.close(call.operation.handle, true)
    }

    fn get_xattr(&self, call: Allowed<'_, protocol::GetXattr<'_>>, _: &mut Vec<u8>) -> Answer<u32> {
        locked!(self, call, tree);
        tree.inode_of(call.node)?;
        Err(Errno::EOPNOTSUPP)
    }

    fn list_xattr(&self, call: Allowed<'_, ListNames>, _: &mut Vec<u8>) -> Answer<u32> {
        locked!(self, call, tree);
        tree.inode_of(call.node)?;
        Err(Errno::EOPNOTSUPP)
    }

    fn inode_flags(&self, _: Allowed<'_, InodeFlags>) -> Answer<u32> {
        // The policies of the fuzz targets do not grant this ioctl.
        Err(Errno::ENOTTY)
    }

    fn set_xattr(&self, call: Allowed<'_, protocol::SetXattr<'_>>) -> Answer<()> {
        locked!(self, call, tree);
        tree.inode_of(call.node)?;
        Err(Errno::EOPNOTSUPP)
    }

    fn remove_xattr(&self, call: Allowed<'_, protocol::RemoveXattr<'_>>) -> Answer<()> {
        locked!(self, call, tree);
        tree.inode_of(call.node)?;
        Err(Errno::EOPNOTSUPP)
    }
}
