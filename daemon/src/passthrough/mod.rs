//! A directory of the host as a [`FileSystem`].
//!
//! [`Passthrough`] holds the state that operations share. Each family of operations has a file in
//! `ops`.

mod config;
mod files;
mod identity;
mod inodes;
mod locks;
mod open_error;
mod ops;
mod resolve;
mod slots;

pub use config::{CacheMode, Config, FileHandles, Holes, Surroundings};
pub use identity::keep_capabilities;
/// For tests of a handle that opens an inode which the guest never had.
#[doc(hidden)]
pub use inodes::inode_handle::InodeHandle;
pub use open_error::OpenError;

use crate::passthrough::config::Negotiated;
use crate::passthrough::files::Files;
use crate::passthrough::files::handles::HandleTickets;
use crate::passthrough::identity::{Assumed, Identity};

use crate::filesystem::{
    Allowed, Answer, Call, Caller, Durable, FileSystem, InodeFlags, ListNames, Locking, MapFile, Pace, Paced,
    StopCheck,
};
use crate::io_vectors::IoVectors;
use crate::passthrough::files::deferred_close::Reaper;
use crate::passthrough::inodes::Inodes;
use crate::passthrough::inodes::idle_mounts::MountWatch;
use crate::passthrough::locks::Locks;
use crate::passthrough::ops::sync::Syncs;
use crate::sync::event::EventCounter;
use crate::thread_setup::ThreadSetup;
use pinhole_policy::{Places, RuleId};
use pinhole_protocol as protocol;
use pinhole_protocol::{
    Attr, DirentBuffer, Entry, Errno, FileLock, Handle, InitFlags, NodeId, OpenReply, Statfs, Statx,
};
use resolve::ProcFds;
use rustix::fs::{Mode, OFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Serves a directory of the host.
#[derive(Debug)]
pub struct Passthrough {
    pub(in crate::passthrough) config: Config,
    pub(in crate::passthrough) inodes: Inodes,
    pub(in crate::passthrough) files: Files,
    pub(in crate::passthrough) locks: Locks,
    pub(in crate::passthrough) identity: Identity,
    pub(in crate::passthrough) reaper: Arc<Reaper>,
    pub(in crate::passthrough) syncs: Syncs,
    /// Names that this share's guest has taken from files.
    deletions: AtomicU64,
    /// [`InitFlags`] that the present guest and the session agreed on.
    negotiated: Negotiated,
}

/// What a guest holds on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Nodes looked up and not forgotten, the root not counted.
    pub nodes: usize,
    /// Files and directories opened and not released.
    pub handles: usize,
    /// Host descriptors that these take.
    pub descriptors: u64,
}

/// Logs what the daemon's own rights do not allow when it makes files in a guest user's name.
fn log_missing_rights(identity: &Identity) {
    if !identity.can_switch() {
        tracing::info!("without CAP_SETUID and CAP_SETGID every file is made as the daemon's own user");
    } else if !identity.keeps_capabilities() {
        tracing::warn!(
            "without CAP_SETPCAP the host's permission bits also decide where users of the guest make files"
        );
    }
}

impl Passthrough {
    /// Opens the shared directory.
    ///
    /// # Errors
    /// What is missing on the host, by name.
    pub fn new(config: Config) -> Result<Self, OpenError> {
        let root_error = |source| OpenError::Root { path: config.shared_dir.clone(), source };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&config.shared_dir, flags, Mode::empty()).map_err(root_error)?;
        let proc_fds = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty());
        let proc_fds = proc_fds.map_err(|source| OpenError::Proc { source })?;
        keep_capabilities().map_err(|source| OpenError::Identity { source })?;
        let threads = ThreadSetup::unconfined().map_err(|source| OpenError::Thread { source })?;
        Self::within(config, Surroundings { root, proc_fds, as_users: true, threads })
    }

    /// Serves a directory that has been opened, in a process that has been prepared. Starts a thread.
    ///
    /// # Errors
    /// What is missing on the host, by name.
    pub fn within(config: Config, surroundings: Surroundings) -> Result<Self, OpenError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Surroundings { root, proc_fds, as_users, threads } = surroundings;
        let proc_fds = ProcFds::new(proc_fds);
        let resolve = rustix::fs::ResolveFlags::BENEATH;
        rustix::fs::openat2(&root, c".", flags, Mode::empty(), resolve)
            .map_err(|source| OpenError::Openat2 { source })?;
        threads.check().map_err(|source| OpenError::Thread { source })?;
        let identity = Identity::read(as_users).map_err(|source| OpenError::Identity { source })?;
        log_missing_rights(&identity);
        let negotiated = Negotiated::default();
        let mut inodes = Inodes::open(&config, root, proc_fds, negotiated.clone())?;
        let locks = Locks::new(config.limits.locks);
        let syncs = Syncs::start(threads.clone(), inodes.mounts(), Arc::clone(locks.wake_event()));
        let syncs = syncs.map_err(|source| OpenError::Thread { source })?;
        let reaper = Reaper::start(threads, inodes.idle_mounts());
        let reaper = Arc::new(reaper.map_err(|source| OpenError::Thread { source })?);
        let watcher = Arc::clone(&reaper);
        inodes.set_watch(MountWatch::new(move || watcher.watch()));
        Ok(Self {
            inodes,
            files: Files::new(&config.limits),
            locks,
            identity,
            reaper,
            syncs,
            deletions: AtomicU64::new(0),
            negotiated,
            config,
        })
    }

    /// The right to one more handle.
    ///
    /// # Errors
    /// ENFILE past the limit of handles or of descriptors.
    pub(in crate::passthrough) fn handle_tickets(&self) -> Answer<HandleTickets> {
        let handle = self.files.ticket()?;
        Ok(HandleTickets { _descriptor: self.inodes.ticket()?, _handle: handle })
    }

    /// Names that the guest has taken from files so far, by UNLINK or by RENAME over them.
    pub(in crate::passthrough) fn deletions(&self) -> u64 {
        self.deletions.load(Ordering::Relaxed)
    }

    pub(in crate::passthrough) fn count_deletion(&self) {
        self.deletions.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::passthrough) fn negotiated(&self, flag: InitFlags) -> bool {
        self.negotiated.contains(flag)
    }

    /// Makes the thread act as the caller, with the caller's umask where the guest's kernel leaves that to us.
    pub(in crate::passthrough) fn assume(
        &self,
        caller: &Caller<'_>,
        umask: u32,
    ) -> Result<Assumed<'_>, Errno> {
        self.identity.assume(caller, self.negotiated(InitFlags::DONT_MASK).then_some(umask))
    }

    /// Closes what is open on mounts below the share that were not used since this was last called. Whether anything is
    /// still open there. A thread does it by itself; for tests that do not wait for it.
    #[doc(hidden)]
    pub fn close_idle(&self) -> bool {
        self.inodes.idle_mounts().close_idle()
    }

    /// Notified when a request that waits for a lock or for durability may have its result.
    pub const fn wake_event(&self) -> &Arc<EventCounter> {
        self.locks.wake_event()
    }

    /// What the guest holds now.
    pub fn held(&self) -> Held {
        Held {
            nodes: self.inodes.len(),
            handles: self.files.len(),
            descriptors: self.inodes.descriptors_taken(),
        }
    }
}

/// Lets each method of [`FileSystem`] be the function of the same name in its family's file, called with the node
/// that the call names.
macro_rules! families {
    ($($name:ident($operation:ty $(, $argument:ident: $type:ty)?) -> $answer:ty;)*) => {
        $(fn $name(&self, call: Allowed<'_, $operation> $(, $argument: $type)?) -> Answer<$answer> {
            let call = call.into_inner();
            let answer = self.inodes.node(call.node).and_then(|node| self.$name(&node, &call $(, $argument)?));
            self.inodes.note_stale(&call.caller, answer)
        })*
    };
}

/// The same for operations that change what the node is or what is in it.
macro_rules! changing_families {
    ($($name:ident($operation:ty) -> $answer:ty;)*) => {
        $(fn $name(&self, call: Allowed<'_, $operation>) -> Answer<$answer> {
            let call = call.into_inner();
            let answer = self.inodes.node(call.node).and_then(|node| {
                let _held = self.inodes.hold_to_change(&node)?;
                self.$name(&node, &call)
            });
            self.inodes.note_stale(&call.caller, answer)
        })*
    };
}

/// The same for operations on a directory, or on a name in it, that may have been removed.
macro_rules! directory_families {
    ($($name:ident($operation:ty) $(of $field:ident)? -> $answer:ty;)*) => {
        $(fn $name(&self, call: Allowed<'_, $operation>) -> Answer<$answer> {
            let call = call.into_inner();
            let name = [$(call.operation.$field)?].first().copied();
            let answer = self.inodes.node(call.node).and_then(|directory| {
                let _held = self.inodes.hold_to_change(&directory)?;
                let answer = self.$name(&directory, &call);
                self.inodes.answer_at(&[(&directory, name)], &call.caller, answer)
            });
            self.inodes.note_stale(&call.caller, answer)
        })*
    };
}

/// The same for operations on a handle, which say everything by themselves.
macro_rules! handle_families {
    ($($name:ident($operation:ty $(, $argument:ident: $type:ty)*) -> $answer:ty;)*) => {
        $(fn $name(&self, call: Allowed<'_, $operation> $(, $argument: $type)*) -> Answer<$answer> {
            self.$name(call.into_inner().operation $(, $argument)*)
        })*
    };
}

impl FileSystem for Passthrough {
    fn reset(&self, negotiated: InitFlags) {
        self.end_all_locks();
        self.files.clear();
        self.inodes.reset();
        self.syncs.forget_errors();
        self.negotiated.set(negotiated);
    }

    fn forget(&self, call: Allowed<'_, protocol::Forget>) {
        let Call { node, operation, .. } = call.into_inner();
        if let Some(node) = self.inodes.forget(node, operation.count) {
            self.retire_node(node);
        }
    }

    fn open(&self, call: Allowed<'_, protocol::Open>, pace: Pace) -> Answer<Paced<OpenReply>> {
        let call = call.into_inner();
        let answer = self.inodes.node(call.node).and_then(|node| self.open(&node, &call, pace));
        self.inodes.note_stale_open(&call, answer)
    }

    fn create(
        &self,
        call: Allowed<'_, protocol::Create<'_>>,
        pace: Pace,
    ) -> Answer<Paced<(Entry, OpenReply)>> {
        let call = call.into_inner();
        let name = Some(call.operation.name);
        let answer = self.inodes.node(call.node).and_then(|directory| {
            let _held = self.inodes.hold_to_change(&directory)?;
            let answer = Paced::opened(self.create(&directory, &call, pace), pace);
            self.inodes.answer_at(&[(&directory, name)], &call.caller, answer)
        });
        self.inodes.note_stale(&call.caller, answer)
    }

    fn set_attr(&self, call: Allowed<'_, protocol::SetAttr>, pace: Pace) -> Answer<Paced<Attr>> {
        let call = call.into_inner();
        let answer = self.inodes.node(call.node).and_then(|node| {
            let _held = self.inodes.hold_to_change(&node)?;
            self.set_attr(&node, &call, pace)
        });
        self.inodes.note_stale(&call.caller, answer)
    }

    fn rename(&self, call: Allowed<'_, protocol::Rename<'_>>) -> Answer<()> {
        let only_files = call.only_files();
        let call = call.into_inner();
        let rename = |from| {
            let protocol::Rename { name, new_directory, new_name, .. } = call.operation;
            let to = self.inodes.node(new_directory)?;
            let _held = self.inodes.hold_to_change(&from)?;
            let answer = self.rename((&from, &to), &call, only_files);
            self.inodes.answer_at(&[(&from, Some(name)), (&to, Some(new_name))], &call.caller, answer)
        };
        let answer = self.inodes.node(call.node).and_then(rename);
        self.inodes.note_stale(&call.caller, answer)
    }

    fn link(&self, call: Allowed<'_, protocol::Link<'_>>) -> Answer<Entry> {
        let call = call.into_inner();
        let link = |directory| {
            let protocol::Link { target, name } = call.operation;
            let target = self.inodes.node(target)?;
            let _held = self.inodes.hold_to_change(&directory)?;
            let answer = self.link((&target, &directory), &call);
            self.inodes.answer_at(&[(&directory, Some(name)), (&target, None)], &call.caller, answer)
        };
        let answer = self.inodes.node(call.node).and_then(link);
        self.inodes.note_stale(&call.caller, answer)
    }

    fn fallocate(&self, call: Allowed<'_, protocol::Fallocate>, stop: StopCheck<'_>) -> Answer<Paced<()>> {
        let call = call.into_inner();
        self.fallocate(&call.caller, call.operation, stop)
    }

    fn copy_file_range(&self, call: Allowed<'_, protocol::CopyFileRange>) -> Answer<u64> {
        let call = call.into_inner();
        self.copy_file_range(&call.caller, call.operation)
    }

    families! {
        lookup(protocol::Lookup<'_>) -> Entry;
        get_attr(protocol::GetAttr) -> Attr;
        get_statx(protocol::GetStatx) -> Statx;
        access(protocol::Access) -> ();
        stat_fs(protocol::StatFs) -> Statfs;
        read_link(protocol::ReadLink, out: &mut Vec<u8>) -> ();
        open_to_map(protocol::SetupMapping, writable: bool) -> MapFile;
        open_dir(protocol::OpenDir) -> OpenReply;
        get_xattr(protocol::GetXattr<'_>, out: &mut Vec<u8>) -> u32;
        list_xattr(ListNames, out: &mut Vec<u8>) -> u32;
    }

    changing_families! {
        set_xattr(protocol::SetXattr<'_>) -> ();
        remove_xattr(protocol::RemoveXattr<'_>) -> ();
    }

    directory_families! {
        sym_link(protocol::SymLink<'_>) of name -> Entry;
        mk_nod(protocol::MkNod<'_>) of name -> Entry;
        mk_dir(protocol::MkDir<'_>) of name -> Entry;
        unlink(protocol::Unlink<'_>) of name -> ();
        rm_dir(protocol::RmDir<'_>) of name -> ();
        tmp_file(protocol::TmpFile) -> (Entry, OpenReply);
    }

    handle_families! {
        flush(protocol::Flush, pace: Pace) -> Paced<()>;
        release(protocol::Release, pace: Pace) -> Paced<()>;
        read(protocol::Read, into: &IoVectors<'_>, pace: Pace) -> Paced<usize>;
        write(protocol::Write, from: &IoVectors<'_>, pace: Pace) -> Paced<usize>;
        fsync(protocol::Fsync) -> Durable;
        get_lock(protocol::GetLock, pace: Pace) -> Paced<Option<FileLock>>;
        set_lock(protocol::SetLock, pace: Pace) -> Paced<Locking>;
        lseek(protocol::Lseek) -> u64;
        inode_flags(InodeFlags) -> u32;
        sync_fs(protocol::SyncFs) -> Durable;
        read_dir(protocol::ReadDir, into: &mut DirentBuffer<'_>) -> ();
        read_dir_plus(protocol::ReadDirPlus, into: &mut DirentBuffer<'_>) -> ();
        fsync_dir(protocol::FsyncDir) -> ();
        release_dir(protocol::ReleaseDir) -> ();
    }
}

impl Places for Passthrough {
    fn node(&self, node: u64) -> Option<RuleId> {
        self.inodes.node(NodeId(node)).ok().map(|node| node.rule.get())
    }

    fn handle(&self, handle: u64) -> Option<RuleId> {
        let handle = Handle(handle);
        if let Ok(file) = self.files.file(handle) {
            // One without a node was opened when there were no rules, and rules never change.
            return Some(file.node.as_ref().map_or(RuleId::NOTHING, |node| node.rule.get()));
        }
        self.files.directory(handle).ok().map(|directory| directory.node.rule.get())
    }
}
