//! The operations: policy check, call of the file system, reply. Each operation has one arm.

use super::deferred::Deferred;
use super::ioctl;
use super::requirements::fallocate_access;
use super::serve::{Outcome, Scratch, Session, Terms};
use super::slot::{ReplySlot, Sink};
use crate::filesystem::{
    Answer, Call, Caller, Durable, FileSystem, ListNames, Pace, Paced, StopCheck, errno_of,
};
use crate::io_vectors::IoVectors;
use crate::limits::{REPLY_LEN_MAX, WRITE_LEN_MAX};
use pinhole_policy::{Access, Permitted, RequiresAccess};
use pinhole_protocol::{
    Attr, BatchForget, CopyFileRange, Create, Created, DirentBuffer, Entry, Errno, Fallocate, Forget, Fsync,
    GetXattr, Header, Ioctl, ListXattr, Lookup, NodeId, Operation, Read, ReadDir, ReadDirPlus, ReadLink,
    Reply, SetAttr, SetXattr, SymLink, SyncFs, Write,
};

impl<F: FileSystem> Session<F> {
    /// Carries out a decoded operation of a guest that has sent INIT.
    pub(super) fn dispatch<S: Sink>(
        &self,
        header: &Header<'_>,
        operation: Operation<'_>,
        (payload, terms): (&IoVectors<'_>, Terms<'_>),
        (slot, scratch): (&ReplySlot<'_, S>, &mut Scratch),
    ) -> Answer<Paced<Outcome>> {
        let (pace, host) = (terms.pace, &*self.filesystem);
        let ready = |outcome: Answer<Outcome>| outcome.map(Paced::Ready);
        let finish = |reply: Paced<Reply<'_>>, scratch: &mut Scratch| {
            Ok(reply.map(|reply| scratch.encode(&self.marked(terms, header.node, reply))))
        };
        let attr_timeout = self.options.timeouts.attr;
        let reply = match operation {
            // The reply is bytes, in place or from the host, or there is no reply.
            Operation::Read(read) => return self.read(header, read, (slot, pace)),
            Operation::ReadDir(list) => return ready(self.read_dir(header, list, slot.room(), scratch)),
            Operation::ReadDirPlus(plus) => {
                return ready(self.read_dir_plus(header, plus, (slot.room(), terms), scratch));
            }
            Operation::ReadLink(link) => return ready(self.read_link(header, link, scratch)),
            Operation::GetXattr(get) => return ready(self.get_xattr(header, get, scratch)),
            Operation::ListXattr(list) => return ready(self.list_xattr(header, list, scratch)),
            Operation::Forget(forget) => return ready(self.forget(header, forget)),
            Operation::BatchForget(batch) => return ready(self.batch_forget(header, batch)),
            Operation::Interrupt(op) => return Ok(Paced::Ready(self.interrupt(op.target))),
            // Operations that may have to wait for the host.
            Operation::Create(op) => return finish(self.create(header, op, pace)?, scratch),
            Operation::SetAttr(op) => return finish(self.set_attr(header, op, pace)?, scratch),
            Operation::Open(op) => {
                return finish(host.open(self.permit(header, op)?, pace)?.map(Reply::Open), scratch);
            }
            Operation::Write(op) => return finish(self.write(header, op, (payload, pace))?, scratch),
            Operation::Flush(op) => {
                return finish(host.flush(self.permit(header, op)?, pace)?.map(|()| Reply::Empty), scratch);
            }
            Operation::Release(op) => {
                return finish(host.release(self.permit(header, op)?, pace)?.map(|()| Reply::Empty), scratch);
            }
            Operation::GetLock(op) => return finish(self.get_lock(header, op, terms)?, scratch),
            // The reply is a name or node.
            Operation::Lookup(op) => self.lookup(header, op)?,
            Operation::SymLink(op) => self.sym_link(header, op)?,
            Operation::MkNod(op) => self.entry(host.mk_nod(self.permit(header, op)?)?),
            Operation::MkDir(op) => self.entry(host.mk_dir(self.permit(header, op)?)?),
            Operation::Link(op) => self.entry(host.link(self.permit(header, op)?)?),
            Operation::TmpFile(op) => self.created(host.tmp_file(self.permit(header, op)?)?),
            // The reply is a value.
            Operation::GetAttr(op) => Reply::Attr(host.get_attr(self.permit(header, op)?)?, attr_timeout),
            Operation::GetStatx(op) => Reply::Statx(host.get_statx(self.permit(header, op)?)?, attr_timeout),
            Operation::StatFs(op) => Reply::Statfs(host.stat_fs(self.permit(header, op)?)?),
            Operation::OpenDir(op) => Reply::Open(host.open_dir(self.permit(header, op)?)?),
            Operation::Lseek(op) => Reply::Offset(host.lseek(self.permit(header, op)?)?),
            Operation::CopyFileRange(op) => self.copy_file_range(header, op)?,
            // The reply is success alone.
            Operation::Unlink(op) => empty(host.unlink(self.permit(header, op)?))?,
            Operation::RmDir(op) => empty(host.rm_dir(self.permit(header, op)?))?,
            Operation::Rename(op) => empty(host.rename(self.permit(header, op)?))?,
            Operation::Fsync(_) | Operation::FsyncDir(_) | Operation::SyncFs(_)
                if self.policy.has_nothing_unwritten() =>
            {
                Reply::Empty
            }
            Operation::Fsync(op) => return ready(self.fsync(header, op, scratch)),
            Operation::Fallocate(op) => return finish(self.fallocate(header, op, terms.stop)?, scratch),
            Operation::SyncFs(op) => return ready(self.sync_fs(header, op, scratch)),
            Operation::FsyncDir(op) => empty(host.fsync_dir(self.permit(header, op)?))?,
            Operation::ReleaseDir(op) => empty(host.release_dir(self.permit(header, op)?))?,
            Operation::Access(op) => empty(host.access(self.permit(header, op)?))?,
            Operation::SetXattr(op) => empty(self.set_xattr(header, op))?,
            Operation::RemoveXattr(op) => empty(host.remove_xattr(self.permit(header, op)?))?,
            // INIT and DESTROY change the session. `Session::perform` handles them.
            Operation::Init(_) | Operation::Destroy(_) => return Err(Errno::EIO),
            Operation::SetLock(op) => return self.set_lock(header, op, (terms, scratch)),
            Operation::SetupMapping(op) => return ready(self.set_up_mapping(header, op, scratch)),
            Operation::RemoveMapping(op) => return ready(self.remove_mapping(header, op)),
            Operation::BMap(op) => return ready(self.unserved(header, op)),
            Operation::Poll(op) => return ready(self.unserved(header, op)),
            Operation::Ioctl(op) => return ready(self.ioctl(header, &op, scratch)),
        };
        finish(Paced::Ready(reply), scratch)
    }

    fn fsync(&self, header: &Header<'_>, fsync: Fsync, scratch: &mut Scratch) -> Answer<Outcome> {
        durable(header, self.filesystem.fsync(self.permit(header, fsync)?)?, scratch)
    }

    fn sync_fs(&self, header: &Header<'_>, sync: SyncFs, scratch: &mut Scratch) -> Answer<Outcome> {
        durable(header, self.filesystem.sync_fs(self.permit(header, sync)?)?, scratch)
    }

    /// Makes the policy check for an operation on the node of the header.
    pub(super) fn permit<'a, T>(&self, header: &Header<'a>, operation: T) -> Answer<Permitted<Call<'a, T>>>
    where
        Call<'a, T>: RequiresAccess,
    {
        let Header { uid, gid, pid, .. } = *header;
        let caller = Caller { uid, gid, groups: header.extensions.groups(), pid };
        self.permit_call(Call { node: header.node, caller, operation })
    }

    /// Makes the policy check for a call.
    pub(super) fn permit_call<C: RequiresAccess>(&self, call: C) -> Answer<Permitted<C>> {
        self.policy.permit(call, &*self.filesystem).map_err(|denied| {
            tracing::debug!(missing = ?denied.missing, refusal = ?denied.refusal, "denied");
            errno_of(denied.refusal)
        })
    }

    /// Returns ENOSYS for an operation that passes the policy check.
    ///
    /// The operation is not served yet ([`Access::NOT_SERVED`]), or has no meaning here: there is
    /// no block device below and no event to wait for. After ENOSYS the guest never sends it again,
    /// for any file of the mount.
    pub(super) fn unserved<'a, T>(&self, header: &Header<'a>, operation: T) -> Answer<Outcome>
    where
        Call<'a, T>: RequiresAccess,
    {
        self.permit(header, operation).and(Err(Errno::ENOSYS))
    }

    const fn entry(&self, entry: Entry) -> Reply<'static> {
        Reply::Entry(entry, self.options.timeouts)
    }

    const fn created(&self, created: Created) -> Reply<'static> {
        Reply::Created(created, self.options.timeouts)
    }

    /// Carries out LOOKUP. If the guest may keep that a name is missing, that is a reply too.
    fn lookup(&self, header: &Header<'_>, lookup: Lookup<'_>) -> Answer<Reply<'static>> {
        match self.filesystem.lookup(self.permit(header, lookup)?) {
            Err(Errno::ENOENT) if !self.options.negative_timeout.is_zero() => {
                let mut timeouts = self.options.timeouts;
                timeouts.entry = self.options.negative_timeout;
                Ok(Reply::Entry(Entry::negative(), timeouts))
            }
            found => found.map(|entry| self.entry(entry)),
        }
    }

    fn create(&self, header: &Header<'_>, create: Create<'_>, pace: Pace) -> Answer<Paced<Reply<'static>>> {
        let created = self.filesystem.create(self.permit(header, create)?, pace)?;
        Ok(created.map(|created| self.created(created)))
    }

    fn set_attr(&self, header: &Header<'_>, set: SetAttr, pace: Pace) -> Answer<Paced<Reply<'static>>> {
        let set = self.with_meaning(header.node, set)?;
        let attr = self.filesystem.set_attr(self.permit(header, set)?, pace)?;
        Ok(attr.map(|attr| Reply::Attr(attr, self.options.timeouts.attr)))
    }

    /// Makes the meaning of a SETATTR without attributes explicit: it drops set-user-id and
    /// set-group-id, if the guest may change owners.
    ///
    /// Linux sends it for `chown(-1, -1)`, and, with `HANDLE_KILLPRIV_V2`, before a write that must
    /// drop these bits. A guest that may not change owners must still be able to write.
    fn with_meaning(&self, node: NodeId, set: SetAttr) -> Answer<SetAttr> {
        if !set.sets_nothing() || !self.granted_at(node)?.contains(Access::CHOWN) {
            return Ok(set);
        }
        Ok(SetAttr { kill_suidgid: true, ctime: None, ..set })
    }

    fn read<S: Sink>(
        &self,
        header: &Header<'_>,
        read: Read,
        (slot, pace): (&ReplySlot<'_, S>, Pace),
    ) -> Answer<Paced<Outcome>> {
        let into = slot.data(usize::try_from(read.size.min(WRITE_LEN_MAX)).unwrap_or(usize::MAX));
        Ok(self.filesystem.read(self.permit(header, read)?, &into, pace)?.map(Outcome::InPlace))
    }

    fn write(
        &self,
        header: &Header<'_>,
        write: Write,
        (payload, pace): (&IoVectors<'_>, Pace),
    ) -> Answer<Paced<Reply<'static>>> {
        // INIT has announced this limit. A chain can describe gigabytes, because it can name the
        // same memory many times.
        if write.size > WRITE_LEN_MAX {
            return Err(Errno::EINVAL);
        }
        let written = self.filesystem.write(self.permit(header, write)?, payload, pace)?;
        if let Paced::Ready(written) = written {
            self.throttle.wrote(written as u64);
        }
        // No more was written than `WRITE_LEN_MAX`.
        Ok(written.map(|written| Reply::Written(u32::try_from(written).unwrap_or(u32::MAX))))
    }

    /// Carries out SYMLINK. The target counts as written bytes, like the value of an attribute.
    fn sym_link(&self, header: &Header<'_>, link: SymLink<'_>) -> Answer<Reply<'static>> {
        let entry = self.filesystem.sym_link(self.permit(header, link)?)?;
        self.throttle.wrote(link.target.to_bytes().len() as u64);
        Ok(self.entry(entry))
    }

    fn set_xattr(&self, header: &Header<'_>, set: SetXattr<'_>) -> Answer<()> {
        self.filesystem.set_xattr(self.permit(header, set)?)?;
        self.throttle.wrote(set.value.len() as u64);
        Ok(())
    }

    /// Carries out FALLOCATE. Unknown modes return EOPNOTSUPP, as on a file system that does not
    /// support them.
    fn fallocate(
        &self,
        header: &Header<'_>,
        fallocate: Fallocate,
        stop: StopCheck<'_>,
    ) -> Answer<Paced<Reply<'static>>> {
        if fallocate_access(fallocate.mode).is_none() {
            return Err(Errno::EOPNOTSUPP);
        }
        let done = self.filesystem.fallocate(self.permit(header, fallocate)?, stop)?;
        Ok(done.map(|()| Reply::Empty))
    }

    fn copy_file_range(&self, header: &Header<'_>, copy: CopyFileRange) -> Answer<Reply<'static>> {
        let length = copy.length.min(self.throttle.bytes_max());
        let copy = CopyFileRange { length, ..copy };
        let copied = self.filesystem.copy_file_range(self.permit(header, copy)?)?;
        self.throttle.wrote(copied);
        if copy.wide_reply {
            return Ok(Reply::Copied(copied));
        }
        u32::try_from(copied).map(Reply::Written).map_err(|_large| Errno::EIO)
    }

    fn forget(&self, header: &Header<'_>, forget: Forget) -> Answer<Outcome> {
        self.filesystem.forget(self.permit(header, forget)?);
        Ok(Outcome::NoReply)
    }

    fn batch_forget(&self, header: &Header<'_>, batch: BatchForget<'_>) -> Answer<Outcome> {
        // The first node counts with the request.
        self.throttle.forgot((batch.iter().count() as u64).saturating_sub(1));
        for (node, forget) in batch.iter() {
            self.forget(&Header { node, ..*header }, forget)?;
        }
        Ok(Outcome::NoReply)
    }

    fn read_dir(
        &self,
        header: &Header<'_>,
        list: ReadDir,
        room: usize,
        scratch: &mut Scratch,
    ) -> Answer<Outcome> {
        let mut into = DirentBuffer::new(&mut scratch.body, limit(list.size, room), None);
        self.filesystem.read_dir(self.permit(header, list)?, &mut into)?;
        Ok(Outcome::Body)
    }

    fn read_dir_plus(
        &self,
        header: &Header<'_>,
        plus: ReadDirPlus,
        (room, terms): (usize, Terms<'_>),
        scratch: &mut Scratch,
    ) -> Answer<Outcome> {
        let timeouts = Some(self.options.timeouts);
        let is_mappable = |node, attr: &Attr| self.is_mappable(terms, node, attr);
        let mut into = DirentBuffer::new(&mut scratch.body, limit(plus.list.size, room), timeouts);
        into.set_dax_predicate(&is_mappable);
        self.filesystem.read_dir_plus(self.permit(header, plus)?, &mut into)?;
        Ok(Outcome::Body)
    }

    fn read_link(&self, header: &Header<'_>, link: ReadLink, scratch: &mut Scratch) -> Answer<Outcome> {
        scratch.body.clear();
        self.filesystem.read_link(self.permit(header, link)?, &mut scratch.body)?;
        Ok(Outcome::Body)
    }

    fn get_xattr(&self, header: &Header<'_>, get: GetXattr<'_>, scratch: &mut Scratch) -> Answer<Outcome> {
        scratch.body.clear();
        let len = self.filesystem.get_xattr(self.permit(header, get)?, &mut scratch.body)?;
        Ok(if get.size == 0 { scratch.encode(&Reply::XattrLen(len)) } else { Outcome::Body })
    }

    fn ioctl(&self, header: &Header<'_>, asked: &Ioctl<'_>, scratch: &mut Scratch) -> Answer<Outcome> {
        let (operation, form) = ioctl::decode(asked)?;
        let flags = self.filesystem.inode_flags(self.permit(header, operation)?)?;
        Ok(scratch.encode(&Reply::Ioctl(0, &ioctl::encode(flags, form))))
    }

    /// Returns what the policy grants at a node.
    ///
    /// # Errors
    /// ESTALE for a node that does not exist.
    pub(super) fn granted_at(&self, node: NodeId) -> Answer<Access> {
        match self.policy.paths() {
            None => Ok(self.policy.granted()),
            Some(rules) => Ok(rules.access(self.filesystem.node(node.0).ok_or(Errno::ESTALE)?)),
        }
    }

    fn list_xattr(&self, header: &Header<'_>, list: ListXattr, scratch: &mut Scratch) -> Answer<Outcome> {
        scratch.body.clear();
        let readable = self.granted_at(header.node)? & (Access::XATTR_READS | Access::ACL_READ);
        let names = ListNames { size: list.size, readable };
        let len = self.filesystem.list_xattr(self.permit(header, names)?, &mut scratch.body)?;
        Ok(if list.size == 0 { scratch.encode(&Reply::XattrLen(len)) } else { Outcome::Body })
    }
}

/// Returns the largest length of a listing in bytes: the least of the requested size, the room for
/// the reply and the daemon's limit.
fn limit(size: u32, room: usize) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX).min(room).min(REPLY_LEN_MAX)
}

/// Answers a request if its data is durable. Otherwise defers it until the data is durable.
fn durable(header: &Header<'_>, durable: Durable, scratch: &mut Scratch) -> Answer<Outcome> {
    match durable {
        Durable::With(turn) if turn.has_room() => {
            Ok(Outcome::Deferred(Deferred::for_sync(header.unique, turn)))
        }
        durable @ (Durable::Done | Durable::With(_)) => {
            durable.wait().map(|()| scratch.encode(&Reply::Empty))
        }
    }
}

fn empty(done: Answer<()>) -> Answer<Reply<'static>> {
    done.map(|()| Reply::Empty)
}
