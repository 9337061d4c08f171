//! A prepared image as a [`FileSystem`]: a read-only tree whose metadata was computed ahead of
//! time.
//!
//! The image is an EROFS image in a read-only mapping (`mapping`), and `pinhole_erofs` reads it.
//! Metadata is answered without a system call, file data with one `preadv2` for each contiguous
//! range (`data`). There is no state of a node or of an open file: a node id is a position in the
//! image (`ids`). The image and its data files are opened at the start (`open`).

mod attributes;
mod config;
mod data;
mod data_digest;
mod data_file;
mod ids;
mod image_error;
mod mapping;
mod names;
mod open;

pub use config::{ImageDigest, PreparedConfig};
pub use image_error::ImageError;
pub use open::{ImageChanges, PreparedFiles};

use crate::filesystem::{
    Allowed, Answer, Durable, FileSystem, InodeFlags, ListNames, Locking, MapFile, Pace, Paced, StopCheck,
};
use crate::io_vectors::IoVectors;
use crate::log_budget::Source as LogSource;
use data_file::DataFile;
use ids::NodeIds;
use mapping::SharedMapping;
use pinhole_erofs::{Image, Inode, Nid, ReadError};
use pinhole_policy::{Places, RuleId};
use pinhole_protocol as protocol;
use pinhole_protocol::{
    Attr, Created, DirentBuffer, Entry, Errno, FileLock, InitFlags, NodeId, OpenReply, Statfs, Statx,
};

/// The error of every change. Policies that serve an image grant none, so it stands behind them.
const READ_ONLY: Errno = Errno::EROFS;

/// Serves a prepared image.
#[derive(Debug)]
pub struct Prepared {
    image: Image<SharedMapping>,
    /// IMAGE itself, for data in it.
    image_file: DataFile,
    /// The data files, in the order of the device table.
    data: Vec<DataFile>,
    ids: NodeIds,
    /// Replies tell which files a DAX window can map. Without a window, nothing looks for them.
    has_window: bool,
    /// Limits log lines about a malformed image.
    malformed: LogSource,
}

impl Prepared {
    /// Reads the inode that a guest names.
    ///
    /// # Errors
    /// ESTALE for an id of another image, EIO if there is no inode.
    fn inode(&self, node: NodeId) -> Answer<Inode> {
        self.inode_at(self.ids.nid(node)?)
    }

    fn inode_at(&self, nid: Nid) -> Answer<Inode> {
        self.image.inode(nid).map_err(|error| self.errno(error, Errno::EIO))
    }

    /// Returns the guest's errno for an error of the reader; `kind` if the inode is of another kind
    /// than the operation needs.
    fn errno(&self, error: ReadError, kind: Errno) -> Errno {
        match error {
            ReadError::Source(_) => Errno::EIO,
            ReadError::Cookie | ReadError::Offset => Errno::EINVAL,
            ReadError::Kind => kind,
            ReadError::Corrupt { .. } | ReadError::Compressed { .. } => {
                // A guest can cause this with a node id of its own, too.
                if let Some(suppressed) = self.malformed.pass() {
                    let path = self.image_file.path.display();
                    tracing::warn!(suppressed, "{path}: {error}; the request fails with EIO");
                }
                Errno::EIO
            }
        }
    }
}

/// The rules of a policy by path do not apply to an image, so no rule depends on the place. Any
/// handle exists, because no file is opened.
impl Places for Prepared {
    fn node(&self, node: u64) -> Option<RuleId> {
        self.inode(NodeId(node)).ok().map(|_inode| RuleId::SHARE)
    }

    fn handle(&self, _: u64) -> Option<RuleId> {
        Some(RuleId::SHARE)
    }
}

/// Operations that read.
impl FileSystem for Prepared {
    fn reset(&self, _: InitFlags) {}

    fn lookup(&self, call: Allowed<'_, protocol::Lookup<'_>>) -> Answer<Entry> {
        let call = call.into_inner();
        self.lookup(call.node, call.operation.name)
    }

    fn forget(&self, _: Allowed<'_, protocol::Forget>) {}

    fn get_attr(&self, call: Allowed<'_, protocol::GetAttr>) -> Answer<Attr> {
        self.get_attr(call.into_inner().node)
    }

    fn get_statx(&self, call: Allowed<'_, protocol::GetStatx>) -> Answer<Statx> {
        self.get_statx(call.into_inner().node)
    }

    fn access(&self, call: Allowed<'_, protocol::Access>) -> Answer<()> {
        self.access(&call.into_inner())
    }

    fn stat_fs(&self, call: Allowed<'_, protocol::StatFs>) -> Answer<Statfs> {
        self.stat_fs(call.into_inner().node)
    }

    fn read_link(&self, call: Allowed<'_, protocol::ReadLink>, out: &mut Vec<u8>) -> Answer<()> {
        self.read_link(call.into_inner().node, out)
    }

    /// Returns ENOSYS, after which the guest opens files by itself (`FUSE_NO_OPEN_SUPPORT`).
    fn open(&self, call: Allowed<'_, protocol::Open>, _: Pace) -> Answer<Paced<OpenReply>> {
        self.inode(call.into_inner().node).and(Err(Errno::ENOSYS))
    }

    /// Returns ENOSYS, after which the guest sends no more of them: there is nothing to write back.
    fn flush(&self, _: Allowed<'_, protocol::Flush>, _: Pace) -> Answer<Paced<()>> {
        Err(Errno::ENOSYS)
    }

    fn release(&self, _: Allowed<'_, protocol::Release>, _: Pace) -> Answer<Paced<()>> {
        Ok(Paced::Ready(()))
    }

    fn read(
        &self,
        call: Allowed<'_, protocol::Read>,
        into: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>> {
        let call = call.into_inner();
        self.read(call.node, call.operation, into, pace)
    }

    fn lseek(&self, call: Allowed<'_, protocol::Lseek>) -> Answer<u64> {
        let call = call.into_inner();
        self.lseek(call.node, call.operation)
    }

    fn fsync(&self, _: Allowed<'_, protocol::Fsync>) -> Answer<Durable> {
        Ok(Durable::Done)
    }

    fn sync_fs(&self, _: Allowed<'_, protocol::SyncFs>) -> Answer<Durable> {
        Ok(Durable::Done)
    }

    fn fsync_dir(&self, _: Allowed<'_, protocol::FsyncDir>) -> Answer<()> {
        Ok(())
    }

    fn open_to_map(&self, call: Allowed<'_, protocol::SetupMapping>, writable: bool) -> Answer<MapFile> {
        let call = call.into_inner();
        self.open_to_map(call.node, call.operation, writable)
    }

    /// Returns ENOSYS, after which the guest opens directories by itself
    /// (`FUSE_NO_OPENDIR_SUPPORT`).
    fn open_dir(&self, call: Allowed<'_, protocol::OpenDir>) -> Answer<OpenReply> {
        self.inode(call.into_inner().node).and(Err(Errno::ENOSYS))
    }

    fn read_dir(&self, call: Allowed<'_, protocol::ReadDir>, into: &mut DirentBuffer<'_>) -> Answer<()> {
        let call = call.into_inner();
        self.read_dir(call.node, call.operation, into)
    }

    fn read_dir_plus(
        &self,
        call: Allowed<'_, protocol::ReadDirPlus>,
        into: &mut DirentBuffer<'_>,
    ) -> Answer<()> {
        let call = call.into_inner();
        self.read_dir_plus(call.node, call.operation, into)
    }

    fn release_dir(&self, _: Allowed<'_, protocol::ReleaseDir>) -> Answer<()> {
        Ok(())
    }

    fn get_xattr(&self, call: Allowed<'_, protocol::GetXattr<'_>>, out: &mut Vec<u8>) -> Answer<u32> {
        let call = call.into_inner();
        self.get_xattr(call.node, call.operation, out)
    }

    fn list_xattr(&self, call: Allowed<'_, ListNames>, out: &mut Vec<u8>) -> Answer<u32> {
        let call = call.into_inner();
        self.list_xattr(call.node, call.operation, out)
    }

    /// Finds no lock: the guest keeps its locks to itself.
    fn get_lock(&self, _: Allowed<'_, protocol::GetLock>, _: Pace) -> Answer<Paced<Option<FileLock>>> {
        Ok(Paced::Ready(None))
    }

    /// Refuses each lock and accepts each unlock: the guest keeps its locks to itself.
    fn set_lock(&self, call: Allowed<'_, protocol::SetLock>, _: Pace) -> Answer<Paced<Locking>> {
        match call.into_inner().operation.lock.kind {
            None => Ok(Paced::Ready(Locking::Done)),
            Some(_) => Err(Errno::ENOLCK),
        }
    }

    // The operations from here on would change something.

    fn inode_flags(&self, _: Allowed<'_, InodeFlags>) -> Answer<u32> {
        Err(Errno::ENOTTY)
    }

    fn set_attr(&self, _: Allowed<'_, protocol::SetAttr>, _: Pace) -> Answer<Paced<Attr>> {
        Err(READ_ONLY)
    }

    fn sym_link(&self, _: Allowed<'_, protocol::SymLink<'_>>) -> Answer<Entry> {
        Err(READ_ONLY)
    }

    fn mk_nod(&self, _: Allowed<'_, protocol::MkNod<'_>>) -> Answer<Entry> {
        Err(READ_ONLY)
    }

    fn mk_dir(&self, _: Allowed<'_, protocol::MkDir<'_>>) -> Answer<Entry> {
        Err(READ_ONLY)
    }

    fn link(&self, _: Allowed<'_, protocol::Link<'_>>) -> Answer<Entry> {
        Err(READ_ONLY)
    }

    fn unlink(&self, _: Allowed<'_, protocol::Unlink<'_>>) -> Answer<()> {
        Err(READ_ONLY)
    }

    fn rm_dir(&self, _: Allowed<'_, protocol::RmDir<'_>>) -> Answer<()> {
        Err(READ_ONLY)
    }

    fn rename(&self, _: Allowed<'_, protocol::Rename<'_>>) -> Answer<()> {
        Err(READ_ONLY)
    }

    fn create(&self, _: Allowed<'_, protocol::Create<'_>>, _: Pace) -> Answer<Paced<Created>> {
        Err(READ_ONLY)
    }

    fn tmp_file(&self, _: Allowed<'_, protocol::TmpFile>) -> Answer<Created> {
        Err(READ_ONLY)
    }

    fn write(&self, _: Allowed<'_, protocol::Write>, _: &IoVectors<'_>, _: Pace) -> Answer<Paced<usize>> {
        Err(READ_ONLY)
    }

    fn fallocate(&self, _: Allowed<'_, protocol::Fallocate>, _: StopCheck<'_>) -> Answer<Paced<()>> {
        Err(READ_ONLY)
    }

    fn copy_file_range(&self, _: Allowed<'_, protocol::CopyFileRange>) -> Answer<u64> {
        Err(READ_ONLY)
    }

    fn set_xattr(&self, _: Allowed<'_, protocol::SetXattr<'_>>) -> Answer<()> {
        Err(READ_ONLY)
    }

    fn remove_xattr(&self, _: Allowed<'_, protocol::RemoveXattr<'_>>) -> Answer<()> {
        Err(READ_ONLY)
    }
}
