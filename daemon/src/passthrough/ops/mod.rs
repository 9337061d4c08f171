//! The operations of [`FileSystem`], one file for each family.
//!
//! A method of the trait calls the function of the same name in the file of its family, unless the
//! method is a single call. An operation on a node gets the node that the call names, and a thread
//! that gets ESTALE is remembered ([`inodes::freshness`](crate::passthrough::inodes::freshness)).
//! An operation on a handle gets the request alone.

mod attributes;
mod data;
mod entries;
mod fallocate;
mod inode_flags;
mod locks;
mod map;
mod open;
mod readdir;
mod xattrs;

use crate::filesystem::{
    Allowed, Answer, Call, Durable, FileSystem, InodeFlags, ListNames, Locking, MapFile, Pace, Paced,
    StopCheck,
};
use crate::io_vectors::IoVectors;
use crate::passthrough::Passthrough;
use crate::passthrough::inodes::NodeRef;
use pinhole_policy::{Places, RuleId};
use pinhole_protocol as protocol;
use pinhole_protocol::{
    Attr, Created, DirentBuffer, Entry, Errno, FileLock, Handle, InitFlags, Name, NodeId, OpenReply, Statfs,
    Statx,
};

impl Passthrough {
    /// Runs an operation on the node that the call names.
    fn on_node<T, R>(
        &self,
        call: Allowed<'_, T>,
        operation: impl FnOnce(&NodeRef, &Call<'_, T>) -> Answer<R>,
    ) -> Answer<R> {
        let call = call.into_inner();
        let answer = self.inodes.node(call.node).and_then(|node| operation(&node, &call));
        self.inodes.note_stale(&call.caller, None, answer)
    }

    /// Runs an operation that changes the node or its content.
    fn change_node<T, R>(
        &self,
        call: Allowed<'_, T>,
        operation: impl FnOnce(&NodeRef, &Call<'_, T>) -> Answer<R>,
    ) -> Answer<R> {
        self.on_node(call, |node, call| {
            let _held = self.inodes.hold_to_change(node)?;
            operation(node, call)
        })
    }

    /// Runs an operation that changes a directory, which may have been removed. `name` returns the
    /// name that the operation makes, opens or removes there.
    fn change_directory<T, R>(
        &self,
        call: Allowed<'_, T>,
        name: impl for<'t> FnOnce(&'t T) -> Option<Name<'t>>,
        operation: impl FnOnce(&NodeRef, &Call<'_, T>) -> Answer<R>,
    ) -> Answer<R> {
        self.change_node(call, |directory, call| {
            let answer = operation(directory, call);
            self.inodes.stale_if_removed(&[(directory, name(&call.operation))], &call.caller, answer)
        })
    }
}

impl FileSystem for Passthrough {
    fn reset(&self, negotiated: InitFlags) {
        self.locks.clear(&self.files);
        self.files.clear();
        self.inodes.reset();
        self.sync_thread.forget_errors();
        self.negotiated.set(negotiated);
    }

    fn lookup(&self, call: Allowed<'_, protocol::Lookup<'_>>) -> Answer<Entry> {
        self.on_node(call, |directory, call| {
            // Refuses `.` and `..`: a guest names the root by its node id, and the parent of the
            // root is outside of the share.
            let name = call.operation.name.component().map_err(|_dots| Errno::EINVAL)?;
            self.inodes.look_up_for_caller(&call.caller, directory, name)
        })
    }

    fn forget(&self, call: Allowed<'_, protocol::Forget>) {
        let Call { node, operation, .. } = call.into_inner();
        if let Some(forgotten) = self.inodes.forget(node, operation.count) {
            self.deferred_close.close_node(forgotten);
        }
    }

    fn get_attr(&self, call: Allowed<'_, protocol::GetAttr>) -> Answer<Attr> {
        self.on_node(call, |node, call| self.get_attr(node, call.operation))
    }

    fn set_attr(&self, call: Allowed<'_, protocol::SetAttr>, pace: Pace) -> Answer<Paced<Attr>> {
        self.change_node(call, |node, call| self.set_attr(node, call, pace))
    }

    fn get_statx(&self, call: Allowed<'_, protocol::GetStatx>) -> Answer<Statx> {
        self.on_node(call, |node, call| self.get_statx(node, call.operation))
    }

    fn access(&self, call: Allowed<'_, protocol::Access>) -> Answer<()> {
        self.on_node(call, |node, call| self.access(node, call))
    }

    fn stat_fs(&self, call: Allowed<'_, protocol::StatFs>) -> Answer<Statfs> {
        self.on_node(call, |node, _| self.stat_fs(node))
    }

    fn read_link(&self, call: Allowed<'_, protocol::ReadLink>, out: &mut Vec<u8>) -> Answer<()> {
        self.on_node(call, |link, call| self.read_link(link, &call.caller, out))
    }

    fn sym_link(&self, call: Allowed<'_, protocol::SymLink<'_>>) -> Answer<Entry> {
        self.change_directory(call, |new| Some(new.name), |parent, call| self.sym_link(parent, call))
    }

    fn mk_nod(&self, call: Allowed<'_, protocol::MkNod<'_>>) -> Answer<Entry> {
        self.change_directory(call, |new| Some(new.name), |parent, call| self.mk_nod(parent, call))
    }

    fn mk_dir(&self, call: Allowed<'_, protocol::MkDir<'_>>) -> Answer<Entry> {
        self.change_directory(call, |new| Some(new.name), |parent, call| self.mk_dir(parent, call))
    }

    fn link(&self, call: Allowed<'_, protocol::Link<'_>>) -> Answer<Entry> {
        self.on_node(call, |parent, call| self.link(parent, call))
    }

    fn unlink(&self, call: Allowed<'_, protocol::Unlink<'_>>) -> Answer<()> {
        self.change_directory(call, |old| Some(old.name), |parent, call| self.unlink(parent, call))
    }

    fn rm_dir(&self, call: Allowed<'_, protocol::RmDir<'_>>) -> Answer<()> {
        self.change_directory(call, |old| Some(old.name), |parent, call| self.rm_dir(parent, call))
    }

    fn rename(&self, call: Allowed<'_, protocol::Rename<'_>>) -> Answer<()> {
        let only_files = call.only_files();
        self.on_node(call, |parent, call| self.rename(parent, call, only_files))
    }

    fn open(&self, call: Allowed<'_, protocol::Open>, pace: Pace) -> Answer<Paced<OpenReply>> {
        let call = call.into_inner();
        let answer = self.inodes.node(call.node).and_then(|node| self.open(&node, &call, pace));
        self.inodes.note_stale(&call.caller, Some(call.node), answer)
    }

    fn create(&self, call: Allowed<'_, protocol::Create<'_>>, pace: Pace) -> Answer<Paced<Created>> {
        self.change_directory(
            call,
            |new| Some(new.name),
            |parent, call| open::or_leased(self.create(parent, call, pace), pace),
        )
    }

    fn tmp_file(&self, call: Allowed<'_, protocol::TmpFile>) -> Answer<Created> {
        self.change_directory(call, |_| None, |parent, call| self.tmp_file(parent, call))
    }

    fn flush(&self, call: Allowed<'_, protocol::Flush>, pace: Pace) -> Answer<Paced<()>> {
        self.flush(call.into_inner().operation, pace)
    }

    fn release(&self, call: Allowed<'_, protocol::Release>, pace: Pace) -> Answer<Paced<()>> {
        self.release(call.into_inner().operation, pace)
    }

    fn read(
        &self,
        call: Allowed<'_, protocol::Read>,
        into: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>> {
        self.read(call.into_inner().operation, into, pace)
    }

    fn write(
        &self,
        call: Allowed<'_, protocol::Write>,
        from: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>> {
        self.write(call.into_inner().operation, from, pace)
    }

    fn fsync(&self, call: Allowed<'_, protocol::Fsync>) -> Answer<Durable> {
        self.fsync(call.into_inner().operation)
    }

    fn get_lock(&self, call: Allowed<'_, protocol::GetLock>, pace: Pace) -> Answer<Paced<Option<FileLock>>> {
        self.get_lock(call.into_inner().operation, pace)
    }

    fn set_lock(&self, call: Allowed<'_, protocol::SetLock>, pace: Pace) -> Answer<Paced<Locking>> {
        self.set_lock(call.into_inner().operation, pace)
    }

    fn fallocate(&self, call: Allowed<'_, protocol::Fallocate>, stop: StopCheck<'_>) -> Answer<Paced<()>> {
        let call = call.into_inner();
        self.fallocate(&call.caller, call.operation, stop)
    }

    fn lseek(&self, call: Allowed<'_, protocol::Lseek>) -> Answer<u64> {
        self.lseek(call.into_inner().operation)
    }

    fn copy_file_range(&self, call: Allowed<'_, protocol::CopyFileRange>) -> Answer<u64> {
        let call = call.into_inner();
        self.copy_file_range(&call.caller, call.operation)
    }

    /// Makes every mount durable that the guest has reached, not only the mount of the node: a
    /// program that writes on a submount relies on it.
    fn sync_fs(&self, _call: Allowed<'_, protocol::SyncFs>) -> Answer<Durable> {
        Ok(Durable::With(self.sync_thread.sync_share()))
    }

    fn run_stuck(&self) -> bool {
        self.sync_thread.run_stuck()
    }

    fn open_to_map(&self, call: Allowed<'_, protocol::SetupMapping>, writable: bool) -> Answer<MapFile> {
        self.on_node(call, |node, _| self.open_to_map(node, writable))
    }

    fn open_dir(&self, call: Allowed<'_, protocol::OpenDir>) -> Answer<OpenReply> {
        self.on_node(call, |directory, call| self.open_dir(directory, call))
    }

    fn read_dir(&self, call: Allowed<'_, protocol::ReadDir>, into: &mut DirentBuffer<'_>) -> Answer<()> {
        self.read_dir(call.into_inner().operation, into)
    }

    fn read_dir_plus(
        &self,
        call: Allowed<'_, protocol::ReadDirPlus>,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        self.read_dir_plus(call.into_inner().operation, into)
    }

    fn fsync_dir(&self, call: Allowed<'_, protocol::FsyncDir>) -> Answer<()> {
        self.fsync_dir(call.into_inner().operation)
    }

    fn release_dir(&self, call: Allowed<'_, protocol::ReleaseDir>) -> Answer<()> {
        self.files.close_directory(call.into_inner().operation.handle)
    }

    fn get_xattr(&self, call: Allowed<'_, protocol::GetXattr<'_>>, out: &mut Vec<u8>) -> Answer<u32> {
        self.on_node(call, |node, call| self.get_xattr(node, call.operation, out))
    }

    fn list_xattr(&self, call: Allowed<'_, ListNames>, out: &mut Vec<u8>) -> Answer<u32> {
        self.on_node(call, |node, call| self.list_xattr(node, call.operation, out))
    }

    fn inode_flags(&self, call: Allowed<'_, InodeFlags>) -> Answer<u32> {
        self.inode_flags(call.into_inner().operation)
    }

    fn set_xattr(&self, call: Allowed<'_, protocol::SetXattr<'_>>) -> Answer<()> {
        self.change_node(call, |node, call| self.set_xattr(node, call.operation))
    }

    fn remove_xattr(&self, call: Allowed<'_, protocol::RemoveXattr<'_>>) -> Answer<()> {
        self.change_node(call, |node, call| self.remove_xattr(node, call.operation.name))
    }
}

impl Places for Passthrough {
    fn node(&self, node: u64) -> Option<RuleId> {
        self.inodes.node(NodeId(node)).ok().map(|node| node.rule())
    }

    fn handle(&self, handle: u64) -> Option<RuleId> {
        let handle = Handle(handle);
        if let Ok(file) = self.files.file(handle) {
            // A file without a node was opened when there were no rules, and rules never change.
            return Some(file.node.as_ref().map_or(RuleId::NOTHING, |node| node.rule()));
        }
        self.files.directory(handle).ok().map(|directory| directory.node.rule())
    }
}
