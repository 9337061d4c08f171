//! A mounted share whose replies a test can delay. When a reply is delayed, the daemon has already
//! carried out the request on the host.

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

/// Requests whose replies can be delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lookup,
    Read,
}

/// A delayed reply. [`DelayedReply::release`] sends the reply to the kernel, and so does `drop`.
pub(crate) struct DelayedReply(Sender<()>);

impl DelayedReply {
    pub(crate) fn release(self) {
        self.0.send(()).unwrap();
    }
}

/// For each [`Kind`], the channel to the test that gets the delayed replies. `None` if replies of
/// this kind are not delayed.
type Delays = Mutex<[Option<Sender<DelayedReply>>; 2]>;

/// Number of serving threads, larger than the number of delayed replies.
const THREADS: NonZero<u16> = NonZero::new(6).unwrap();

/// Directory and its mount, which caches names and attributes for a minute.
pub(crate) struct DelayedShare {
    delays: Arc<Delays>,
    stop: StopMount,
    serving: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl DelayedShare {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pinhole-held-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        create_dirs(&[path("share"), path("mount")]);
        let minute = Duration::from_mins(1);
        let config = ShareConfig {
            entry_timeout: minute,
            announce_submounts: false,
            ..ShareConfig::new(path("share"))
        };
        let delays = Arc::new(Delays::default());
        let behind = Passthrough::new(config).unwrap();
        let wake = Arc::clone(behind.wake_event());
        let layer = Layer { behind, delays: Arc::clone(&delays) };
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
        Self { delays, stop, serving: Some(serving), folder }
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    /// Delays each reply of a kind from now on. The test receives a [`DelayedReply`] for each of
    /// them.
    pub(crate) fn delay(&self, kind: Kind) -> Receiver<DelayedReply> {
        let (to_test, replies) = channel();
        self.delays.lock().unwrap()[kind as usize] = Some(to_test);
        replies
    }

    /// Stops delaying replies of a kind.
    pub(crate) fn stop_delaying(&self, kind: Kind) {
        self.delays.lock().unwrap()[kind as usize] = None;
    }
}

impl Drop for DelayedShare {
    fn drop(&mut self) {
        *self.delays.lock().unwrap() = [None, None];
        self.stop.stop();
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap();
        }
    }
}

fn create_dirs(paths: &[PathBuf]) {
    for path in paths {
        std::fs::create_dir(path).unwrap();
    }
}

/// The mounted file system. It passes each call on to `behind`, and delays replies.
#[derive(Debug)]
struct Layer {
    behind: Passthrough,
    delays: Arc<Delays>,
}

impl Layer {
    /// Returns `answer`. If replies of its kind are delayed, waits until the test releases it.
    fn delay_if_asked<T>(&self, kind: Kind, answer: T) -> T {
        let to_test = self.delays.lock().unwrap()[kind as usize].clone();
        if let Some(to_test) = to_test {
            let (release, is_released) = channel();
            // If the test drops its side of either channel, the reply is not delayed.
            if to_test.send(DelayedReply(release)).is_ok() {
                is_released.recv().unwrap_or_default();
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

/// Defines methods that only call `behind`.
macro_rules! forward {
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
        self.delay_if_asked(Kind::Lookup, FileSystem::lookup(&self.behind, call))
    }

    fn read(
        &self,
        call: Allowed<'_, protocol::Read>,
        into: &IoVectors<'_>,
        pace: Pace,
    ) -> Answer<Paced<usize>> {
        self.delay_if_asked(Kind::Read, FileSystem::read(&self.behind, call, into, pace))
    }

    forward! {
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
