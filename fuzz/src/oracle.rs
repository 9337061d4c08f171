//! The expected replies of a session.
//!
//! The replies come from the model. It is called directly with the operation of the guest, without
//! the wire format and the session's dispatch.

use crate::model::Tree;
use pinhole::filesystem::{Call, Caller, Durable, FileSystem, ListNames, Pace, Paced, StopCheck};
use pinhole::io_vectors::{IoVectors, TransferFlags};
use pinhole::sync::event::EventCounter;
use pinhole_policy::{Access, NoPlaces, Permitted, Policy, RequiresAccess};
use pinhole_protocol::{
    Attr, BatchForget, Created, DirentBuffer, DirentKind, Entry, Errno, Header, InitReply, NodeId, OpenReply,
    Operation, Statfs, Statx, Timeouts, client,
};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use vm_memory::VolatileSlice;

/// A file system in memory.
#[derive(Debug)]
pub struct Model {
    tree: Mutex<Tree>,
    wake: Arc<EventCounter>,
}

impl Default for Model {
    fn default() -> Self {
        Self { tree: Mutex::new(Tree::new()), wake: Arc::default() }
    }
}

impl Model {
    /// Locks the tree.
    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().expect("a panic ends the process")
    }

    /// Returns the event for waiting requests. No operation notifies it, because the model has no
    /// locks.
    pub const fn wake_event(&self) -> &Arc<EventCounter> {
        &self.wake
    }

    /// Returns the number of nodes and of handles that the guest holds, without the root.
    pub fn held(&self) -> (usize, usize) {
        self.tree().held()
    }

    /// Returns whether a request is about a node without a name and without an open handle. A share
    /// need not find such a node again.
    pub fn names_orphan(&self, node: NodeId, operation: &Operation<'_>) -> bool {
        let other = match operation {
            Operation::Link(link) => Some(link.target),
            Operation::Rename(rename) => Some(rename.new_directory),
            _ => None,
        };
        let tree = self.tree();
        std::iter::once(node).chain(other).any(|node| tree.is_orphan(node))
    }

    /// Looks up a name in the open directory of `handle`.
    ///
    /// # Errors
    /// EBADF if the handle is not an open directory, ENOENT if the name does not exist.
    pub fn look_up_open(&self, handle: pinhole_protocol::Handle, name: &[u8]) -> Result<Entry, Errno> {
        let mut tree = self.tree();
        let directory = tree.opened(handle, true)?.inode;
        let inode = tree.find(directory, name)?;
        tree.add_lookup(inode)
    }

    /// Returns every path with its mode and content.
    pub fn listing(&self) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
        self.tree().listing()
    }
}

/// A record of a listing: entry (READDIRPLUS only), inode number, offset, type and name.
pub type ListedEntry = (Option<Entry>, u64, u64, DirentKind, Vec<u8>);

/// The decoded body of a successful reply.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the reply body of its name")]
pub enum ReplyBody {
    Empty,
    Entry(Entry),
    Created(Created),
    Attr(Attr),
    Statx(Statx),
    Statfs(Statfs),
    Open(OpenReply),
    Bytes(Vec<u8>),
    List(Vec<ListedEntry>),
    Count(u32),
    Long(u64),
    Init(InitReply),
}

/// The result that the guest gets.
pub type Outcome = Result<ReplyBody, Errno>;

/// Returns the expected result of `operation`, or `None` if the operation has no reply. `room` is
/// the space for the body of the reply in bytes.
pub fn expected(
    model: &Model,
    header: &Header<'_>,
    operation: &Operation<'_>,
    (payload, room): (&[u8], usize),
) -> Option<Outcome> {
    let by = Direct { model, header };
    let outcome = match operation {
        Operation::Forget(op) => {
            by.model.forget(by.permitted(*op));
            return None;
        }
        Operation::BatchForget(op) => {
            by.batch_forget(*op);
            return None;
        }
        Operation::Interrupt(_) => return None,
        Operation::Read(op) => by.read(*op, room),
        Operation::Write(op) => by.write(*op, payload),
        Operation::ReadDir(op) => by.read_dir(*op, room),
        Operation::ReadDirPlus(op) => by.read_dir_plus(*op, room),
        Operation::ReadLink(op) => {
            let mut target = Vec::new();
            by.model.read_link(by.permitted(*op), &mut target).map(|()| ReplyBody::Bytes(target))
        }
        Operation::GetXattr(op) => {
            by.model.get_xattr(by.permitted(*op), &mut Vec::new()).map(ReplyBody::Count)
        }
        Operation::ListXattr(op) => {
            let names = ListNames { size: op.size, readable: Access::all() };
            by.model.list_xattr(by.permitted(names), &mut Vec::new()).map(ReplyBody::Count)
        }
        Operation::Lookup(op) => by.model.lookup(by.permitted(*op)).map(ReplyBody::Entry),
        Operation::SymLink(op) => by.model.sym_link(by.permitted(*op)).map(ReplyBody::Entry),
        Operation::MkNod(op) => by.model.mk_nod(by.permitted(*op)).map(ReplyBody::Entry),
        Operation::MkDir(op) => by.model.mk_dir(by.permitted(*op)).map(ReplyBody::Entry),
        Operation::Link(op) => by.model.link(by.permitted(*op)).map(ReplyBody::Entry),
        Operation::Create(op) => {
            by.model.create(by.permitted(*op), Pace::Patient).and_then(Paced::ready).map(ReplyBody::Created)
        }
        Operation::TmpFile(op) => by.model.tmp_file(by.permitted(*op)).map(ReplyBody::Created),
        Operation::GetAttr(op) => by.model.get_attr(by.permitted(*op)).map(ReplyBody::Attr),
        Operation::SetAttr(op) => {
            by.model.set_attr(by.permitted(*op), Pace::Patient).and_then(Paced::ready).map(ReplyBody::Attr)
        }
        Operation::GetStatx(op) => by.model.get_statx(by.permitted(*op)).map(ReplyBody::Statx),
        Operation::StatFs(op) => by.model.stat_fs(by.permitted(*op)).map(ReplyBody::Statfs),
        Operation::Open(op) => {
            by.model.open(by.permitted(*op), Pace::Patient).and_then(Paced::ready).map(ReplyBody::Open)
        }
        Operation::OpenDir(op) => by.model.open_dir(by.permitted(*op)).map(ReplyBody::Open),
        Operation::Lseek(op) => by.model.lseek(by.permitted(*op)).map(ReplyBody::Long),
        Operation::CopyFileRange(op) => by.model.copy_file_range(by.permitted(*op)).map(|copied| {
            let narrow = u32::try_from(copied).expect("the model's files are short");
            if op.wide_reply { ReplyBody::Long(copied) } else { ReplyBody::Count(narrow) }
        }),
        Operation::Unlink(op) => empty(by.model.unlink(by.permitted(*op))),
        Operation::RmDir(op) => empty(by.model.rm_dir(by.permitted(*op))),
        Operation::Rename(op) => empty(by.model.rename(by.permitted(*op))),
        Operation::Flush(op) => {
            empty(by.model.flush(by.permitted(*op), Pace::Patient).and_then(Paced::ready))
        }
        Operation::Release(op) => {
            empty(by.model.release(by.permitted(*op), Pace::Patient).and_then(Paced::ready))
        }
        Operation::Fsync(op) => empty(by.model.fsync(by.permitted(*op)).and_then(Durable::wait)),
        Operation::Fallocate(op) => {
            empty(by.model.fallocate(by.permitted(*op), StopCheck::NEVER).and_then(Paced::ready))
        }
        Operation::SyncFs(op) => empty(by.model.sync_fs(by.permitted(*op)).and_then(Durable::wait)),
        Operation::FsyncDir(op) => empty(by.model.fsync_dir(by.permitted(*op))),
        Operation::ReleaseDir(op) => empty(by.model.release_dir(by.permitted(*op))),
        Operation::Access(op) => empty(by.model.access(by.permitted(*op))),
        Operation::SetXattr(op) => empty(by.model.set_xattr(by.permitted(*op))),
        Operation::RemoveXattr(op) => empty(by.model.remove_xattr(by.permitted(*op))),
        Operation::Init(_) | Operation::Destroy(_) => {
            unreachable!("the runner handles INIT and DESTROY itself")
        }
        Operation::GetLock(_)
        | Operation::SetLock(_)
        | Operation::SetupMapping(_)
        | Operation::RemoveMapping(_)
        | Operation::BMap(_)
        | Operation::Poll(_) => Err(Errno::ENOSYS),
        Operation::Ioctl(_) => Err(Errno::ENOTTY),
    };
    Some(outcome)
}

/// Returns the outcome of an operation whose reply has no body.
fn empty(done: Result<(), Errno>) -> Outcome {
    done.map(|()| ReplyBody::Empty)
}

/// Direct calls of the model, for the request with this header.
struct Direct<'m, 'h> {
    model: &'m Model,
    header: &'m Header<'h>,
}

impl<'h> Direct<'_, 'h> {
    /// Returns the operation as one that passed the policy check.
    fn permitted<T>(&self, operation: T) -> Permitted<Call<'h, T>>
    where
        Call<'h, T>: RequiresAccess,
    {
        let Header { node, uid, gid, extensions, .. } = *self.header;
        let caller = Caller { uid, gid, groups: extensions.groups(), pid: 1 };
        Policy::full().permit(Call { node, caller, operation }, &NoPlaces).expect("everything is permitted")
    }

    fn batch_forget(&self, batch: BatchForget<'_>) {
        for (node, forget) in batch.iter() {
            let header = Header { node, ..*self.header };
            let one = Direct { model: self.model, header: &header };
            self.model.forget(one.permitted(forget));
        }
    }

    fn read(&self, read: pinhole_protocol::Read, room: usize) -> Outcome {
        let mut bytes = vec![0; usize::try_from(read.size).expect("usize has 64 bits").min(room)];
        let len = {
            let into = IoVectors::from(VolatileSlice::from(bytes.as_mut_slice()));
            self.model.read(self.permitted(read), &into, Pace::Patient)?.ready()?
        };
        bytes.truncate(len);
        Ok(ReplyBody::Bytes(bytes))
    }

    fn write(&self, write: pinhole_protocol::Write, payload: &[u8]) -> Outcome {
        let mut payload = payload.to_vec();
        let from = IoVectors::from(VolatileSlice::from(payload.as_mut_slice()));
        let written = self.model.write(self.permitted(write), &from, Pace::Patient)?.ready()?;
        Ok(ReplyBody::Count(u32::try_from(written).expect("the model's files are short")))
    }

    fn read_dir(&self, list: pinhole_protocol::ReadDir, room: usize) -> Outcome {
        let mut bytes = Vec::new();
        let mut into = DirentBuffer::new(
            &mut bytes,
            room.min(usize::try_from(list.size).expect("usize has 64 bits")),
            None,
        );
        self.model.read_dir(self.permitted(list), &mut into)?;
        Ok(ReplyBody::List(decode_list(&bytes, false)))
    }

    fn read_dir_plus(&self, plus: pinhole_protocol::ReadDirPlus, room: usize) -> Outcome {
        let mut bytes = Vec::new();
        let capacity = room.min(usize::try_from(plus.list.size).expect("usize has 64 bits"));
        let mut into = DirentBuffer::new(&mut bytes, capacity, Some(Timeouts::default()));
        self.model.read_dir_plus(self.permitted(plus), &mut into)?;
        Ok(ReplyBody::List(decode_list(&bytes, true)))
    }
}

/// Decodes the records of a listing. Panics if a record is malformed.
pub fn decode_list(body: &[u8], plus: bool) -> Vec<ListedEntry> {
    let entries = if plus { client::dirents_plus(body) } else { client::dirents(body) };
    entries
        .map(|record| {
            let (entry, dirent) = record.expect("a directory record");
            let entry = entry.map(|(entry, _)| entry).filter(|entry| entry.node.0 != 0);
            (entry, dirent.ino, dirent.offset, dirent.kind, dirent.name.to_vec())
        })
        .collect()
}

thread_local! {
    /// A file to copy data through, because `IoVectors` can only read from and write to
    /// descriptors.
    static TRANSFER: OwnedFd =
        rustix::fs::memfd_create("transfer", rustix::fs::MemfdFlags::CLOEXEC).expect("a memory file");
}

/// Copies bytes into the memory of a request. Returns the number of bytes that were copied.
pub(crate) fn fill(into: &IoVectors<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let bytes = bytes.get(..into.len()).unwrap_or(bytes);
    TRANSFER.with(|file| {
        rustix::fs::ftruncate(file, 0).expect("a memory file");
        rustix::io::pwrite(file, bytes, 0).expect("a memory file");
        Ok(into.fill_from(file.as_fd(), 0, TransferFlags::empty()).expect("a memory file"))
    })
}

/// Copies the bytes out of the memory of a request.
pub(crate) fn drain(from: &IoVectors<'_>) -> Result<Vec<u8>, Errno> {
    TRANSFER.with(|file| {
        rustix::fs::ftruncate(file, 0).expect("a memory file");
        let len = from.drain_to(file.as_fd(), 0, TransferFlags::empty()).expect("a memory file");
        let mut bytes = vec![0; len];
        let read = rustix::io::pread(file, bytes.as_mut_slice(), 0).expect("a memory file");
        assert_eq!(read, len);
        Ok(bytes)
    })
}
