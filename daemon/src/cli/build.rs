//! `Config` -> built objects: the only part of the command line that touches the host.

use super::args::CacheArg;
use super::config::{
    Action, Config, ListenConfig, MountConfig, PolicyChoice, ServeConfig, ShareSettings, ShareSource,
};
use super::inspect::{self, InspectCommandError};
use super::offer::{directory_options, image_options, with_locks};
use super::policy::{self, AnswerError, NamedBy, PolicyFileError};
use super::prepare::{self, PrepareCommandError};
use super::signals::HeldSignals;
use super::{capabilities, confine, descriptors, group, log, report, signals};
use crate::file_id::{DeviceId, FileId};
use crate::filesystem::FileSystem;
use crate::limits;
use crate::passthrough::{self, Passthrough, Surroundings};
use crate::prepared::{Prepared, PreparedFiles};
use crate::sandbox::{SandboxError, Side};
use crate::session::Session;
use crate::sync::relay;
use crate::sys::descriptors::close_strays;
use crate::sys::memory::{self, Shrinks};
use crate::sys::signals::set_process_actions;
use crate::threads::ThreadSetup;
use crate::transport::{dev_fuse, vhost_user};
use crate::window::{self, Window};
use pinhole_policy::host_calls::Threads;
use pinhole_policy::{Access, Facilities, Limits, Policy, Profile};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use std::io;
use std::num::NonZero;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A failure that ends the process.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Prepare(#[from] PrepareCommandError),
    #[error(transparent)]
    Inspect(#[from] InspectCommandError),
    #[error(transparent)]
    Host(#[from] passthrough::OpenError),
    #[error(transparent)]
    Image(#[from] crate::prepared::ImageError),
    #[error(
        "--policy {}: rules by path do not apply to a prepared image, whose files the guest names by their place: leave \
         out the rules",
        .0.display()
    )]
    PathRules(PathBuf),
    #[error(
        "--policy {}: its profile prepared is for an image: give --prepared IMAGE, or use the profile rootfs",
        .0.display()
    )]
    NoImage(PathBuf),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    VhostUser(#[from] vhost_user::ServeError),
    #[error(transparent)]
    Mount(#[from] dev_fuse::MountError),
    #[error(transparent)]
    DevFuse(#[from] dev_fuse::FuseError),
    #[error("{0}")]
    Option(io::Error),
    #[error(
        "--dax-window: cannot make a memory file: {0}; allow memfd_create and the files of /proc/self/fd"
    )]
    Scratch(io::Error),
    #[error(
        "host: cannot start the control thread: {0}; raise the limit on threads (TasksMax, RLIMIT_NPROC)"
    )]
    Control(io::Error),
    #[error("host: cannot reserve memory: {0}; raise the limits on memory, or lower --thread-pool-size")]
    Memory(io::Error),
    #[error("host: cannot prepare to serve: {0}; check the limits and the seccomp profile of this process")]
    Io(#[from] io::Error),
}

impl RunError {
    /// Returns whether the command line or the policy file is wrong.
    pub(super) const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Policy(_) | Self::PathRules(_) | Self::NoImage(_) | Self::Answer(AnswerError::Policy(_))
        ) || matches!(self, Self::Prepare(error) if error.is_usage())
    }
}

/// Runs the action until it is done or a signal ends it.
pub(super) fn run(config: Config) -> Result<ExitCode, RunError> {
    let given = match &config.action {
        Action::Serve(ServeConfig { listen: ListenConfig::Descriptor(number), .. }) => Some(*number),
        Action::Serve(_)
        | Action::Mount(_)
        | Action::Prepare(_)
        | Action::Inspect(_)
        | Action::Policy(_)
        | Action::PrintCapabilities => None,
    };
    let strays = close_strays(given);
    // Before the first message: the log may be larger than the file size limit of this process.
    set_process_actions()?;
    log::start(config.log)?;
    log::catch_panics();
    if let Err(error) = strays {
        tracing::warn!("sandbox: descriptors that this process was started with stay open: {error}");
    }
    for note in &config.notes {
        report::problem(note);
    }
    match config.action {
        Action::PrintCapabilities => {
            report::answer(capabilities::JSON).map_err(AnswerError::Io)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Prepare(args) => Ok(prepare::run(*args)?),
        Action::Inspect(args) => Ok(inspect::run(args)?),
        Action::Policy(command) => Ok(policy::answer(&command)?),
        Action::Serve(serve) => run_serve(serve, log::facilities()),
        Action::Mount(mount) => run_mount(mount, log::facilities()),
    }
}

fn run_serve(serve: ServeConfig, log: Facilities) -> Result<ExitCode, RunError> {
    memory::use_one_heap(heap_shrinks(&serve.share))
        .map_err(SandboxError::rights("the allocator to one heap"))?;
    let policy = with_locks(policy(&serve.share)?, serve.share.locks);
    let pool_requests_max = pool_requests_max(policy.limits());
    // Made now, because the sandbox forbids memory files.
    let memory_devices = memory_devices();
    let (listen, socket_name) = match serve.listen {
        ListenConfig::Path { path, group } => {
            let group = group.as_deref().map(group::resolve).transpose().map_err(RunError::Option)?;
            (vhost_user::ListenAt::Path { path, group }, Facilities::SOCKET_NAME)
        }
        ListenConfig::Descriptor(number) => {
            (vhost_user::ListenAt::Descriptor(RawFd::from(number)), Facilities::empty())
        }
    };
    let descriptors_max = descriptors::settle(serve.share.descriptors).map_err(RunError::Option)?;
    let no_pool = if serve.pool_threads == 0 { Facilities::NO_POOL } else { Facilities::empty() };
    warn_without_effect(policy.limits(), no_pool);
    let (policy, window) = match serve.window {
        Some(settings) => {
            let scratch = scratch_file().map_err(RunError::Scratch)?;
            (counted_writes_only(policy), Some(Window::new(settings, scratch)))
        }
        None => (policy, None),
    };
    let plan = confine::plan(&serve.share, &policy, no_pool | log | socket_name);
    let facilities = plan.facilities;
    // Checked first, so that no socket has to be removed if the share is wrong.
    plan.look()?;
    let image = open_image(&serve.share)?;
    let mut listener = vhost_user::SocketListener::bind(&listen)?;
    memory::give_back_free_memory();
    let inside = match plan.isolate()? {
        Side::Outside(supervisor) => {
            drop(image);
            confine::supervise(supervisor, &listener.into_name())
        }
        Side::Inside(inside) => inside,
    };
    listener.leave_name();
    confine::keep_capabilities(facilities)?;
    let confined = inside.confine()?;
    confine::log_missing(&confined);
    let options = vhost_user::DeviceOptions {
        threads: confined.threads.clone(),
        tag: Some(serve.tag),
        request_queues: serve.request_queues,
        keep_listening: serve.keep_listening,
        pool_threads: serve.pool_threads,
        pool_requests_max,
        poll: vhost_user::PollBudget::measured(serve.poll.unwrap_or_else(poll_by_processors)),
        memory_devices,
    };
    let mut signals = signals::hold()?;
    if let Some(mut image) = image {
        signals.watch(image.take_changes())?;
        // The C library prepares its first thread with calls that the filter forbids.
        options.threads.check().map_err(RunError::Control)?;
        // No thread needs a directory of the host.
        drop(confined);
        memory::reserve(reserved_for(&options)).map_err(RunError::Memory)?;
        let session = image_session(image, &serve.share, policy, window.is_some());
        return serve_socket(session, window, (listener, options, signals));
    }
    let surroundings = confine::surroundings(confined, facilities)?;
    let session = build_session(serve.share, (policy, descriptors_max), surroundings)?;
    serve_socket(session, window, (listener, options, signals))
}

/// Returns when the heap shrinks. Threads that serve an image may not change its length.
fn heap_shrinks(share: &ShareSettings) -> Shrinks {
    match &share.source {
        ShareSource::Directory(_) => Shrinks::ByItself,
        ShareSource::Prepared(_) => Shrinks::OnDemand,
    }
}

/// Returns how many bytes to reserve for the threads that serve an image.
fn reserved_for(options: &vhost_user::DeviceOptions) -> usize {
    let threads = options.queues().saturating_add(usize::from(options.pool_threads));
    let of_threads = threads.saturating_mul(limits::IMAGE_HEAP_LEN_PER_THREAD);
    of_threads.saturating_add(limits::IMAGE_HEAP_LEN)
}

/// Serves a socket until it is done or a signal ends it.
fn serve_socket<F: FileSystem + 'static>(
    session: Session<F>,
    window: Option<Window>,
    (listener, options, signals): (vhost_user::SocketListener, vhost_user::DeviceOptions, HeldSignals),
) -> Result<ExitCode, RunError> {
    let session = Arc::new(match window {
        Some(window) => session.with_window(Arc::new(window)),
        None => session,
    });
    let stop = vhost_user::Stop::new()?;
    memory::give_back_free_memory();
    // All objects are made. From here on, the process reads input of a guest.
    options.threads.confine(Threads::CONTROL)?;
    let on_signal = stop.clone();
    signals.start_control(&options.threads, move || on_signal.request()).map_err(RunError::Control)?;
    // Managers of VMMs wait for exactly this line of virtiofsd, so it does not go through the log.
    report::line("Waiting for vhost-user socket connection...");
    let served = vhost_user::serve(&listener, &session, &options, &stop);
    relay::flush();
    Ok(served.map(|()| ExitCode::SUCCESS)?)
}

fn run_mount(mount: MountConfig, log: Facilities) -> Result<ExitCode, RunError> {
    memory::use_one_heap(Shrinks::ByItself).map_err(SandboxError::rights("the allocator to one heap"))?;
    let source = match &mount.share.source {
        ShareSource::Directory(directory) => directory.clone(),
        ShareSource::Prepared(config) => config.image.clone(),
    };
    let request =
        dev_fuse::MountRequest { directory: source, mountpoint: mount.mountpoint, options: mount.options };
    let thread_count = mount.threads.and_then(NonZero::new).unwrap_or_else(threads_by_processors);
    let policy = with_locks(policy(&mount.share)?, mount.share.locks);
    let descriptors_max = descriptors::settle(mount.share.descriptors).map_err(RunError::Option)?;
    // The share comes before the mount, so that no mount has to be removed if the share is wrong.
    // This process removes the mount, so it keeps that right. Its serving threads give it up.
    let besides = Facilities::DEV_FUSE | Facilities::NO_POOL | log;
    warn_without_effect(policy.limits(), besides);
    let plan = confine::plan(&mount.share, &policy, besides);
    let image = open_image(&mount.share)?;
    confine::keep_capabilities(plan.facilities)?;
    let confined = plan.for_threads()?;
    confine::log_missing(&confined);
    let threads = confined.threads.clone();
    let mut signals = signals::hold()?;
    if let Some(mut image) = image {
        signals.watch(image.take_changes())?;
        threads.check().map_err(RunError::Control)?;
        let session = image_session(image, &mount.share, policy, false);
        return serve_mount(session, request, (threads, thread_count, signals));
    }
    let surroundings = confine::surroundings(confined, plan.facilities)?;
    let session = build_session(mount.share, (policy, descriptors_max), surroundings)?;
    serve_mount(session, request, (threads, thread_count, signals))
}

/// Mounts and serves until the mount is removed or a signal ends it.
fn serve_mount<F: FileSystem + 'static>(
    session: Session<F>,
    request: dev_fuse::MountRequest,
    (threads, thread_count, signals): (ThreadSetup, NonZero<u16>, HeldSignals),
) -> Result<ExitCode, RunError> {
    let ready = format!("Mounted {} on {}", request.directory.display(), request.mountpoint.display());
    let session = Arc::new(session);
    let service = dev_fuse::Service::new(dev_fuse::Mounted::new(request)?, session, threads.clone());
    let stop = service.stop_handle();
    signals.start_control(&threads, move || stop.stop()).map_err(RunError::Control)?;
    Ok(service.run(thread_count, || report::line(ready)).map(|()| ExitCode::SUCCESS)?)
}

/// Returns how long a queue thread polls. On the only processor, polling would keep the guest from
/// sending requests.
fn poll_by_processors() -> Duration {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    if processors > 1 { limits::POLL_DEFAULT } else { Duration::ZERO }
}

fn threads_by_processors() -> NonZero<u16> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = u16::try_from(processors).unwrap_or(u16::MAX).min(limits::MOUNT_THREADS_DEFAULT_MAX);
    NonZero::new(threads).unwrap_or(NonZero::<u16>::MIN)
}

fn policy(share: &ShareSettings) -> Result<Policy, RunError> {
    let policy = policy::load(&share.policy, NamedBy::Option)?;
    if let (ShareSource::Prepared(_), PolicyChoice::File(path), Some(_)) =
        (&share.source, &share.policy, policy.paths())
    {
        return Err(RunError::PathRules(path.clone()));
    }
    if let (ShareSource::Directory(_), PolicyChoice::File(path), Profile::Prepared) =
        (&share.source, &share.policy, policy.profile())
    {
        return Err(RunError::NoImage(path.clone()));
    }
    Ok(if share.read_only { policy.without_mutations() } else { policy })
}

/// Opens the image, if the share is one. The files are opened before rights are given up.
fn open_image(share: &ShareSettings) -> Result<Option<PreparedFiles>, RunError> {
    match &share.source {
        ShareSource::Directory(_) => Ok(None),
        ShareSource::Prepared(config) => Ok(Some(PreparedFiles::open(config)?)),
    }
}

/// Warns of a limit without an effect: without a pool, a thread waits for each request before it
/// takes the next.
fn warn_without_effect(limits: &Limits, besides: Facilities) {
    if besides.contains(Facilities::NO_POOL) && limits.queued_requests.is_some() {
        tracing::warn!("queued-requests has no effect without a pool: each thread has one request at a time");
    }
}

/// Removes writable mappings from a policy that limits writes, because stores through a mapping are
/// not counted.
fn counted_writes_only(policy: Policy) -> Policy {
    let counts = policy.limits().write_bytes_per_second.is_some();
    if !counts || !policy.granted_anywhere().contains(Access::MAP_WRITE) {
        return policy;
    }
    tracing::warn!(
        "write-bytes-per-second does not count stores through a mapping: no file is mapped writable (map-write)"
    );
    policy.without(Access::MAP_WRITE)
}

/// Makes the file on which front-ends are probed. No filter allows memory files later.
fn scratch_file() -> io::Result<window::ScratchFile> {
    let writable = memory_file()?;
    rustix::fs::ftruncate(&writable, window::ScratchFile::LEN)?;
    let number = format!("/proc/self/fd/{}", writable.as_raw_fd());
    let read_only = rustix::fs::open(number, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let id = FileId::of(&writable)?;
    Ok(window::ScratchFile { writable, read_only, id })
}

fn memory_file() -> io::Result<OwnedFd> {
    let made = |flags| rustix::fs::memfd_create(c"pinhole-window", flags);
    let (plain, sealed) = (MemfdFlags::CLOEXEC, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL);
    // Linux before 6.3 refuses the second flag. Later versions warn if it is missing.
    Ok(made(sealed).or_else(|_unknown| made(plain))?)
}

/// Returns the devices of the kernel's memory files, also of those with huge pages.
fn memory_devices() -> Vec<DeviceId> {
    const SIZES: [MemfdFlags; 9] = [
        MemfdFlags::HUGE_64KB,
        MemfdFlags::HUGE_1MB,
        MemfdFlags::HUGE_2MB,
        MemfdFlags::HUGE_16MB,
        MemfdFlags::HUGE_32MB,
        MemfdFlags::HUGE_512MB,
        MemfdFlags::HUGE_1GB,
        MemfdFlags::HUGE_2GB,
        MemfdFlags::HUGE_16GB,
    ];
    let huge = |size| MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | size;
    // The kernel allocates no page before it is touched.
    let huge = SIZES.iter().filter_map(|size| rustix::fs::memfd_create(c"pinhole-huge", huge(*size)).ok());
    let files = memory_file().into_iter().chain(huge);
    files.filter_map(|file| FileId::of(file).ok()).map(|id| id.device).collect()
}

/// Returns how many requests may be in the pool at once.
fn pool_requests_max(limits: &Limits) -> usize {
    limits.queued_requests.and_then(|limit| usize::try_from(limit.get()).ok()).unwrap_or(usize::MAX)
}

/// Builds a session that serves the open image. `has_window`: it gets a DAX window.
fn image_session(
    files: PreparedFiles,
    share: &ShareSettings,
    policy: Policy,
    has_window: bool,
) -> Session<Prepared> {
    let prepared = Arc::new(Prepared::new(files, has_window));
    Session::new(prepared, Arc::default(), policy, image_options(share))
}

fn build_session(
    share: ShareSettings,
    (policy, descriptors_max): (Policy, u64),
    surroundings: Surroundings,
) -> Result<Session<Passthrough>, RunError> {
    let options = directory_options(&share, policy.granted_anywhere());
    let (inode_handles, holes) = (confine::inode_handles(&share), holes_told(&share, &policy));
    let config = passthrough::ShareConfig {
        descriptors_max,
        limits: *policy.limits(),
        syncs: policy.granted_anywhere().contains(Access::FSYNC),
        rules: policy.paths().cloned(),
        shared_dir: match share.source {
            ShareSource::Directory(directory) => directory,
            ShareSource::Prepared(config) => config.image,
        },
        cache: match share.cache {
            CacheArg::Strict | CacheArg::Never | CacheArg::Metadata => passthrough::GuestCaching::Strict,
            CacheArg::Auto => passthrough::GuestCaching::Auto,
            CacheArg::Exclusive | CacheArg::Always => passthrough::GuestCaching::Exclusive,
        },
        entry_timeout: share.timeouts.entry,
        direct_io: share.direct_io,
        xattr: share.xattr,
        posix_acl: share.posix_acl,
        announce_submounts: share.submounts,
        preserve_noatime: share.noatime,
        holes,
        inode_handles,
    };
    let filesystem = Passthrough::within(config, surroundings)?;
    let wake = Arc::clone(filesystem.wake_event());
    Ok(Session::new(Arc::new(filesystem), wake, policy, options))
}

/// Returns which holes the guest may know. That depends on the data that its kernel may not have
/// sent: stores through shared mappings, and with a writeback cache all writes. In the modes
/// without FOPEN_KEEP_CACHE each open sends that data.
fn holes_told(share: &ShareSettings, policy: &Policy) -> passthrough::Holes {
    let keeps = matches!(share.cache, CacheArg::Exclusive | CacheArg::Always);
    if !policy.granted_anywhere().intersects(Access::OPENS_TO_WRITE) {
        passthrough::Holes::All
    } else if keeps || share.writeback {
        passthrough::Holes::None
    } else if share.mmap {
        passthrough::Holes::ToReaders
    } else {
        passthrough::Holes::All
    }
}
