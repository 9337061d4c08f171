//! A file system whose operations panic, for tests of the transports.

use crate::filesystem::{Allowed, Answer, FileSystem, ListNames, Pace, Paced, StopCheck};
use crate::filesystem::{Durable, InodeFlags, Locking, MapFile};
use crate::io_vectors::IoVectors;
use pinhole_policy::{Places, RuleId};
use pinhole_protocol::{
    self as protocol, Attr, Created, DirentBuffer, Entry, FileLock, InitFlags, OpenReply, Statfs, Statx,
};

/// A file system in which every READ would block and every other operation panics.
pub(crate) struct Broken;

impl Places for Broken {
    fn node(&self, _: u64) -> Option<RuleId> {
        None
    }
    fn handle(&self, _: u64) -> Option<RuleId> {
        None
    }
}

impl FileSystem for Broken {
    fn reset(&self, _: InitFlags) {}
    fn lookup(&self, _: Allowed<'_, protocol::Lookup<'_>>) -> Answer<Entry> {
        panic!("a bug")
    }
    fn forget(&self, _: Allowed<'_, protocol::Forget>) {
        panic!("a bug")
    }
    fn get_attr(&self, _: Allowed<'_, protocol::GetAttr>) -> Answer<Attr> {
        panic!("a bug")
    }
    fn set_attr(&self, _: Allowed<'_, protocol::SetAttr>, _: Pace) -> Answer<Paced<Attr>> {
        panic!("a bug")
    }
    fn get_statx(&self, _: Allowed<'_, protocol::GetStatx>) -> Answer<Statx> {
        panic!("a bug")
    }
    fn access(&self, _: Allowed<'_, protocol::Access>) -> Answer<()> {
        panic!("a bug")
    }
    fn stat_fs(&self, _: Allowed<'_, protocol::StatFs>) -> Answer<Statfs> {
        panic!("a bug")
    }
    fn read_link(&self, _: Allowed<'_, protocol::ReadLink>, _: &mut Vec<u8>) -> Answer<()> {
        panic!("a bug")
    }
    fn sym_link(&self, _: Allowed<'_, protocol::SymLink<'_>>) -> Answer<Entry> {
        panic!("a bug")
    }
    fn mk_nod(&self, _: Allowed<'_, protocol::MkNod<'_>>) -> Answer<Entry> {
        panic!("a bug")
    }
    fn mk_dir(&self, _: Allowed<'_, protocol::MkDir<'_>>) -> Answer<Entry> {
        panic!("a bug")
    }
    fn link(&self, _: Allowed<'_, protocol::Link<'_>>) -> Answer<Entry> {
        panic!("a bug")
    }
    fn unlink(&self, _: Allowed<'_, protocol::Unlink<'_>>) -> Answer<()> {
        panic!("a bug")
    }
    fn rm_dir(&self, _: Allowed<'_, protocol::RmDir<'_>>) -> Answer<()> {
        panic!("a bug")
    }
    fn rename(&self, _: Allowed<'_, protocol::Rename<'_>>) -> Answer<()> {
        panic!("a bug")
    }
    fn open(&self, _: Allowed<'_, protocol::Open>, _: Pace) -> Answer<Paced<OpenReply>> {
        panic!("a bug")
    }
    fn create(&self, _: Allowed<'_, protocol::Create<'_>>, _: Pace) -> Answer<Paced<Created>> {
        panic!("a bug")
    }
    fn tmp_file(&self, _: Allowed<'_, protocol::TmpFile>) -> Answer<Created> {
        panic!("a bug")
    }
    fn flush(&self, _: Allowed<'_, protocol::Flush>, _: Pace) -> Answer<Paced<()>> {
        panic!("a bug")
    }
    fn release(&self, _: Allowed<'_, protocol::Release>, _: Pace) -> Answer<Paced<()>> {
        panic!("a bug")
    }
    fn read(&self, _: Allowed<'_, protocol::Read>, into: &IoVectors<'_>, pace: Pace) -> Answer<Paced<usize>> {
        match pace {
            Pace::Now => Ok(Paced::WouldBlock),
            Pace::Patient => Ok(Paced::Ready(into.copy_from(b"late"))),
        }
    }
    fn write(&self, _: Allowed<'_, protocol::Write>, _: &IoVectors<'_>, _: Pace) -> Answer<Paced<usize>> {
        panic!("a bug")
    }
    fn fsync(&self, _: Allowed<'_, protocol::Fsync>) -> Answer<Durable> {
        panic!("a bug")
    }
    fn get_lock(&self, _: Allowed<'_, protocol::GetLock>, _: Pace) -> Answer<Paced<Option<FileLock>>> {
        panic!("a bug")
    }
    fn set_lock(&self, _: Allowed<'_, protocol::SetLock>, _: Pace) -> Answer<Paced<Locking>> {
        panic!("a bug")
    }
    fn fallocate(&self, _: Allowed<'_, protocol::Fallocate>, _: StopCheck<'_>) -> Answer<Paced<()>> {
        panic!("a bug")
    }
    fn lseek(&self, _: Allowed<'_, protocol::Lseek>) -> Answer<u64> {
        panic!("a bug")
    }
    fn copy_file_range(&self, _: Allowed<'_, protocol::CopyFileRange>) -> Answer<u64> {
        panic!("a bug")
    }
    fn sync_fs(&self, _: Allowed<'_, protocol::SyncFs>) -> Answer<Durable> {
        panic!("a bug")
    }
    fn open_to_map(&self, _: Allowed<'_, protocol::SetupMapping>, _: bool) -> Answer<MapFile> {
        panic!("a bug")
    }
    fn open_dir(&self, _: Allowed<'_, protocol::OpenDir>) -> Answer<OpenReply> {
        panic!("a bug")
    }
    fn read_dir(&self, _: Allowed<'_, protocol::ReadDir>, _: &mut DirentBuffer<'_>) -> Answer<()> {
        panic!("a bug")
    }
    fn read_dir_plus(&self, _: Allowed<'_, protocol::ReadDirPlus>, _: &mut DirentBuffer<'_>) -> Answer<()> {
        panic!("a bug")
    }
    fn fsync_dir(&self, _: Allowed<'_, protocol::FsyncDir>) -> Answer<()> {
        panic!("a bug")
    }
    fn release_dir(&self, _: Allowed<'_, protocol::ReleaseDir>) -> Answer<()> {
        panic!("a bug")
    }
    fn get_xattr(&self, _: Allowed<'_, protocol::GetXattr<'_>>, _: &mut Vec<u8>) -> Answer<u32> {
        panic!("a bug")
    }
    fn list_xattr(&self, _: Allowed<'_, ListNames>, _: &mut Vec<u8>) -> Answer<u32> {
        panic!("a bug")
    }
    fn inode_flags(&self, _: Allowed<'_, InodeFlags>) -> Answer<u32> {
        panic!("a bug")
    }
    fn set_xattr(&self, _: Allowed<'_, protocol::SetXattr<'_>>) -> Answer<()> {
        panic!("a bug")
    }
    fn remove_xattr(&self, _: Allowed<'_, protocol::RemoveXattr<'_>>) -> Answer<()> {
        panic!("a bug")
    }
}
