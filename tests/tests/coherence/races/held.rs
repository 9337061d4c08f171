//! A mounted share whose replies can be delayed after the host has been asked.

use pinhole::filesystem::{
    Allowed, Answer, Durable, FileSystem, InodeFlags, ListNames, Locking, MapFile, Pace, Paced, StopCheck,
};
use pinhole::io_vectors::IoVectors;
use pinhole::passthrough::{Passthrough, ShareConfig};
use pinhole::session::{Options, Session};
use pinhole::threads::ThreadSetup;
use pinhole::transport::dev_fuse::{MountRequest, Mounted, Service, StopMount};
use pinhole_policy::{Places, Policy, RuleId};
use pinhole_protocol::{
    self as protocol, Attr, Created, DirentBuffer, Entry, FileLock, InitFlags, InitOffer, OpenReply, Statfs,
    Statx, Timeouts,
};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// Replies that are delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lookup,
    Read,
}

/// A delayed reply. It is released by a message or when this is dropped.
pub(crate) struct Held(Sender<()>);

impl Held {
    pub(crate) fn let_go(self) {
        self.0.send(()).unwrap();
    }
}

/// Receivers of delayed replies, for each kind that is delayed.
type Holds = Mutex<[Option<Sender<Held>>; 2]>;

/// Number of serving threads, larger than the number of delayed replies.
const THREADS: NonZero<u16> = NonZero::new(6).unwrap();

/// Directory and its mount, which caches names and attributes for a minute.
pub(crate) struct HeldBack {
    holds: Arc<Holds>,
    stop: StopMount,
    serving: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl HeldBack {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pinhole-held-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs_dirs(&[path("share"), path("mount")]);
        let minute = Duration::from_mins(1);
        let config = ShareConfig {
            entry_timeout: minute,
            announce_submounts: false,
            ..ShareConfig::new(path("share"))
        };
        let holds = Arc::new(Holds::default());
        let behind = Passthrough::new(config).unwrap();
        let wake = Arc::clone(behind.wake_event());
        let layer = Layer { behind, holds: Arc::clone(&holds) };
        let flags = InitFlags::ASYNC_READ
            | InitFlags::AUTO_INVAL_DATA
            | InitFlags::ATOMIC_O_TRUNC
            | InitFlags::BIG_WRITES
            | InitFlags::INIT_EXT
            | InitFlags::PARALLEL_DIROPS
            | InitFlags::DIRECT_IO_ALLOW_MMAP;
        let options = Options {
            offer: InitOffer {
                flags,
                max_write: 1 << 20,
                max_readahead: 1 << 20,
                time_gran: 1,
                ..InitOffer::default()
            },
            timeouts: Timeouts { entry: minute, attr: minute },
            ..Options::default()
        };
        let session = Arc::new(Session::new(Arc::new(layer), wake, Policy::full(), options));
        let request =
            MountRequest { directory: path("share"), mountpoint: path("mount"), options: Vec::new() };
        let service =
            Service::new(Mounted::new(request).unwrap(), session, ThreadSetup::unconfined().unwrap());
        let stop = service.stop_handle();
        let (ready, is_ready) = channel();
        let serving = std::thread::spawn(move || {
            service.run(THREADS, move || ready.send(()).unwrap()).unwrap();
        });
        is_ready.recv().unwrap();
        Self { holds, stop, serving: Some(serving), folder }
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    pub(crate) fn place(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    /// Delays each reply of a kind from now on.
    pub(crate) fn hold(&self, kind: Kind) -> Receiver<Held> {
        let (tell, told) = channel();
        self.holds.lock().unwrap()[kind as usize] = Some(tell);
        told
    }

    /// Stops delaying replies of a kind.
    pub(crate) fn let_pass(&self, kind: Kind) {
        self.holds.lock().unwrap()[kind as usize] = None;
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        *self.holds.lock().unwrap() = [None, None];
        self.stop.stop();
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap();
        }
    }
}

fn fs_dirs(paths: &[PathBuf]) {
    for path in paths {
        std::fs::create_dir(path).unwrap();
    }
}

/// File system that is mounted. The file system behind it does all the work.
#[derive(Debug)]
struct Layer {
    behind: Passthrough,
    holds: Arc<Holds>,
}

impl Layer {
    /// Waits until the reply is released, if replies of its kind are delayed.
    fn pass<T>(&self, kind: Kind, answer: T) -> T {
        let tell = self.holds.lock().unwrap()[kind as usize].clone();
        if let Some(tell) = tell {
            let (let_go, is_let_go) = channel();
            // If either side is dropped, the reply is released.
            if tell.send(Held(let_go)).is_ok() {
                is_let_go.recv().unwrap_or_default();
            }
        }
        answer
    }
}

impl Places for Layer {
    fn node(&self, node: u64) -> Option<RuleId> {
        self.behind.node(node)
    }

    fn handle(&self, handle: u64) -> Option<RuleId> {
        self.behind.handle(handle)
    }
}

/// Methods that only call the file system behind.
macro_rules! passed_on {
    ($($name:ident($operation:ty $(, $argument:ident: $type:ty)*) -> $answer:ty;)*) => {
        $(fn $name(&self, call: Allowed<'_, $operation> $(, $argument: $type)*) -> $answer {
            FileSystem::$name(&self.behind, call $(, $argument)*)
        })*
    };
}

impl FileSystem for Layer {
    fn reset(&self, negotiated: InitFlags) {
        self.behind.reset(negotiated);
    }

    fn lookup(&self, call: Allowed<'_, protocol::Lookup<'_>>) -> Answer<Entry> {
        self.pass(Kind::Lookup, FileSystem::lookup(&self.behind, call))
    }

    fn read(
        &self,
        call: Allowed<'_, protocol::Read>,
        into: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>> {
        self.pass(Kind::Read, FileSystem::read(&self.behind, call, into, pace))
    }

    passed_on! {
        forget(protocol::Forget) -> ();
        get_attr(protocol::GetAttr) -> Answer<Attr>;
        set_attr(protocol::SetAttr, pace: Pace) -> Answer<Paced<Attr>>;
        get_statx(protocol::GetStatx) -> Answer<Statx>;
        access(protocol::Access) -> Answer<()>;
        stat_fs(protocol::StatFs) -> Answer<Statfs>;
        read_link(protocol::ReadLink, out: &mut Vec<u8>) -> Answer<()>;
        sym_link(protocol::SymLink<'_>) -> Answer<Entry>;
        mk_nod(protocol::MkNod<'_>) -> Answer<Entry>;
        mk_dir(protocol::MkDir<'_>) -> Answer<Entry>;
        link(protocol::Link<'_>) -> Answer<Entry>;
        unlink(protocol::Unlink<'_>) -> Answer<()>;
        rm_dir(protocol::RmDir<'_>) -> Answer<()>;
        rename(protocol::Rename<'_>) -> Answer<()>;
        open(protocol::Open, pace: Pace) -> Answer<Paced<OpenReply>>;
        create(protocol::Create<'_>, pace: Pace) -> Answer<Paced<Created>>;
        tmp_file(protocol::TmpFile) -> Answer<Created>;
        flush(protocol::Flush, pace: Pace) -> Answer<Paced<()>>;
        release(protocol::Release, pace: Pace) -> Answer<Paced<()>>;
        write(protocol::Write, from: &IoVectors<'_>, pace: Pace) -> Answer<Paced<usize>>;
        fsync(protocol::Fsync) -> Answer<Durable>;
        get_lock(protocol::GetLock, pace: Pace) -> Answer<Paced<Option<FileLock>>>;
        set_lock(protocol::SetLock, pace: Pace) -> Answer<Paced<Locking>>;
        fallocate(protocol::Fallocate, stop: StopCheck<'_>) -> Answer<Paced<()>>;
        lseek(protocol::Lseek) -> Answer<u64>;
        copy_file_range(protocol::CopyFileRange) -> Answer<u64>;
        sync_fs(protocol::SyncFs) -> Answer<Durable>;
        open_to_map(protocol::SetupMapping, writable: bool) -> Answer<MapFile>;
        open_dir(protocol::OpenDir) -> Answer<OpenReply>;
        read_dir(protocol::ReadDir, into: &mut DirentBuffer<'_>) -> Answer<()>;
        read_dir_plus(protocol::ReadDirPlus, into: &mut DirentBuffer<'_>) -> Answer<()>;
        fsync_dir(protocol::FsyncDir) -> Answer<()>;
        release_dir(protocol::ReleaseDir) -> Answer<()>;
        get_xattr(protocol::GetXattr<'_>, out: &mut Vec<u8>) -> Answer<u32>;
        list_xattr(ListNames, out: &mut Vec<u8>) -> Answer<u32>;
        inode_flags(InodeFlags) -> Answer<u32>;
        set_xattr(protocol::SetXattr<'_>) -> Answer<()>;
        remove_xattr(protocol::RemoveXattr<'_>) -> Answer<()>;
    }
}
