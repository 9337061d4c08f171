//! `Config` -> built objects: the only part of the command line that touches the host.

use super::args::{CacheArg, LocksArg};
use super::config::{Action, Config, ListenConfig, MountConfig, ServeConfig, ShareSettings};
use super::inspect::{self, InspectCommandError};
use super::policy::{self, AnswerError, NamedBy, PolicyFileError};
use super::prepare::{self, PrepareCommandError};
use super::{capabilities, confine, descriptors, group, log, report, signals};
use crate::file_id::{DeviceId, FileId};
use crate::limits;
use crate::passthrough::{self, Passthrough, Surroundings};
use crate::sandbox::{SandboxError, Side};
use crate::session::{self, LockMode, Session};
use crate::sync::relay;
use crate::sys::descriptors::close_strays;
use crate::sys::memory;
use crate::sys::signals::set_process_actions;
use crate::transport::{dev_fuse, vhost_user};
use crate::window::{self, Window};
use pinhole_policy::host_calls::Threads;
use pinhole_policy::{Access, Facilities, Limits, Policy};
use pinhole_protocol::{InitFlags, InitOffer, Timeouts};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use std::io;
use std::num::NonZero;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
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
    #[error("host: cannot prepare to serve: {0}; check the limits and the seccomp profile of this process")]
    Io(#[from] io::Error),
}

impl RunError {
    /// Returns whether the command line or the policy file is wrong.
    pub(super) const fn is_usage(&self) -> bool {
        matches!(self, Self::Policy(_) | Self::Answer(AnswerError::Policy(_)))
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
    memory::use_one_heap().map_err(SandboxError::rights("the allocator to one heap"))?;
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
    let mut listener = vhost_user::SocketListener::bind(&listen)?;
    memory::give_back_free_memory();
    let inside = match plan.isolate()? {
        Side::Outside(supervisor) => confine::supervise(supervisor, &listener.into_name()),
        Side::Inside(inside) => inside,
    };
    listener.leave_name();
    confine::keep_capabilities(facilities)?;
    let surroundings = confine::surroundings(inside.confine()?, facilities);
    let options = vhost_user::DeviceOptions {
        threads: surroundings.threads.clone(),
        tag: Some(serve.tag),
        request_queues: serve.request_queues,
        keep_listening: serve.keep_listening,
        pool_threads: serve.pool_threads,
        pool_requests_max,
        poll: vhost_user::PollBudget::measured(serve.poll.unwrap_or_else(poll_by_processors)),
        memory_devices,
    };
    let signals = signals::hold()?;
    let session = build_session(serve.share, (policy, descriptors_max), surroundings)?;
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
    memory::use_one_heap().map_err(SandboxError::rights("the allocator to one heap"))?;
    let request = dev_fuse::MountRequest {
        directory: mount.share.directory.clone(),
        mountpoint: mount.mountpoint,
        options: mount.options,
    };
    let ready = format!("Mounted {} on {}", request.directory.display(), request.mountpoint.display());
    let thread_count = mount.threads.and_then(NonZero::new).unwrap_or_else(threads_by_processors);
    let policy = with_locks(policy(&mount.share)?, mount.share.locks);
    let descriptors_max = descriptors::settle(mount.share.descriptors).map_err(RunError::Option)?;
    // The share comes before the mount, so that no mount has to be removed if the share is wrong.
    // This process removes the mount, so it keeps that right. Its serving threads give it up.
    let besides = Facilities::DEV_FUSE | Facilities::NO_POOL | log;
    warn_without_effect(policy.limits(), besides);
    let plan = confine::plan(&mount.share, &policy, besides);
    confine::keep_capabilities(plan.facilities)?;
    let surroundings = confine::surroundings(plan.for_threads()?, plan.facilities);
    let threads = surroundings.threads.clone();
    let signals = signals::hold()?;
    let session = Arc::new(build_session(mount.share, (policy, descriptors_max), surroundings)?);
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

fn policy(share: &ShareSettings) -> Result<Policy, PolicyFileError> {
    let policy = policy::load(&share.policy, NamedBy::Option)?;
    Ok(if share.read_only { policy.without_mutations() } else { policy })
}

/// Warns of a limit without an effect: without a pool, a thread waits for each request before it
/// takes the next.
fn warn_without_effect(limits: &Limits, besides: Facilities) {
    if besides.contains(Facilities::NO_POOL) && limits.queued_requests.is_some() {
        tracing::warn!("queued-requests has no effect without a pool: each thread has one request at a time");
    }
}

/// Removes the right to lock from the policy if locks do not reach the host.
fn with_locks(policy: Policy, locks: LocksArg) -> Policy {
    match locks {
        LocksArg::Host => policy,
        LocksArg::Guest | LocksArg::None => policy.without(Access::LOCK),
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

fn build_session(
    share: ShareSettings,
    (policy, descriptors_max): (Policy, u64),
    surroundings: Surroundings,
) -> Result<Session<Passthrough>, RunError> {
    let options = session_options(&share, policy.granted_anywhere());
    let (inode_handles, holes) = (confine::inode_handles(&share), holes_told(&share, &policy));
    let config = passthrough::ShareConfig {
        descriptors_max,
        limits: *policy.limits(),
        syncs: policy.granted_anywhere().contains(Access::FSYNC),
        rules: policy.paths().cloned(),
        shared_dir: share.directory,
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

fn session_options(share: &ShareSettings, granted: Access) -> session::Options {
    session::Options {
        offer: InitOffer {
            flags: offered_flags(share, granted),
            // The guest's own value is smaller and wins.
            max_readahead: limits::WRITE_LEN_MAX,
            max_write: limits::WRITE_LEN_MAX,
            // A ring holds no more requests. The guest reports congestion at three quarters.
            max_background: limits::QUEUE_SIZE_MAX,
            congestion_threshold: limits::QUEUE_SIZE_MAX / 4 * 3,
            time_gran: 1,
            ..InitOffer::default()
        },
        timeouts: Timeouts { entry: share.timeouts.entry, attr: share.timeouts.attr },
        negative_timeout: share.timeouts.negative,
        locks: if share.locks == LocksArg::None { LockMode::Refuse } else { LockMode::Host },
        assumed: None,
    }
}

/// Returns the flags that INIT offers, for the rights that the policy grants anywhere. The window
/// adds those of DAX. Passthrough and io_uring are not served. EXPORT_SUPPORT would ask for lookups
/// of "." and "..". A guest without the flags for locks keeps its locks to itself.
fn offered_flags(share: &ShareSettings, granted: Access) -> InitFlags {
    let locks = match share.locks {
        LocksArg::Host => granted.contains(Access::LOCK),
        LocksArg::Guest => false,
        // The guest asks, and gets an error.
        LocksArg::None => true,
    };
    let is_exclusive = matches!(share.cache, CacheArg::Exclusive | CacheArg::Always);
    let when = |wanted: bool, flags: InitFlags| if wanted { flags } else { InitFlags::empty() };
    InitFlags::ASYNC_READ
        | InitFlags::ASYNC_DIO
        | InitFlags::ATOMIC_O_TRUNC
        | InitFlags::BIG_WRITES
        | InitFlags::MAX_PAGES
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::INIT_EXT
        | InitFlags::CREATE_SUPP_GROUP
        // The guest drops data when new attributes show a change by another guest or the host. With
        // `exclusive` there are no such changes.
        | when(!is_exclusive, InitFlags::AUTO_INVAL_DATA)
        | when(is_exclusive, InitFlags::CACHE_SYMLINKS)
        | when(share.readdirplus, InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO)
        | when(share.killpriv, InitFlags::HANDLE_KILLPRIV_V2)
        | when(share.idmap, InitFlags::ALLOW_IDMAP)
        | when(share.submounts, InitFlags::SUBMOUNTS)
        | when(share.writeback, InitFlags::WRITEBACK_CACHE)
        | when(share.mmap, InitFlags::DIRECT_IO_ALLOW_MMAP)
        | when(locks, InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS)
        | when(share.xattr, InitFlags::SETXATTR_EXT)
        // A default ACL of the parent replaces the umask, so the guest must not apply its umask.
        | when(share.posix_acl, InitFlags::POSIX_ACL | InitFlags::DONT_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser;

    fn offered(words: &str) -> session::Options {
        let words = format!("pinhole --shared-dir / --socket-path /s {words}");
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        let Action::Serve(serve) = Config::new(cli).unwrap().action else { panic!("{words}") };
        let policy = with_locks(policy(&serve.share).unwrap(), serve.share.locks);
        session_options(&serve.share, policy.granted_anywhere())
    }

    #[test]
    fn each_switch_changes_what_init_offers() {
        let plain = offered("").offer.flags;
        for (words, flag) in [
            ("--posix-acl", InitFlags::POSIX_ACL | InitFlags::DONT_MASK | InitFlags::SETXATTR_EXT),
            ("--writeback", InitFlags::WRITEBACK_CACHE),
            ("--allow-idmap", InitFlags::ALLOW_IDMAP),
            ("--cache exclusive", InitFlags::CACHE_SYMLINKS),
            ("--cache always", InitFlags::CACHE_SYMLINKS),
        ] {
            assert!(offered(words).offer.flags.contains(flag), "{words}");
            assert!(!plain.contains(flag), "{words}");
        }
        for (words, flag) in [
            ("--no-readdirplus", InitFlags::DO_READDIRPLUS),
            ("--cache strict", InitFlags::DO_READDIRPLUS),
            ("--entry-timeout 0", InitFlags::DO_READDIRPLUS),
            ("--cache never", InitFlags::DIRECT_IO_ALLOW_MMAP),
            ("--cache metadata", InitFlags::DIRECT_IO_ALLOW_MMAP),
            ("--no-killpriv-v2", InitFlags::HANDLE_KILLPRIV_V2),
            ("--no-announce-submounts", InitFlags::SUBMOUNTS),
            ("--cache exclusive", InitFlags::AUTO_INVAL_DATA),
            ("--cache always", InitFlags::AUTO_INVAL_DATA),
        ] {
            assert!(!offered(words).offer.flags.intersects(flag), "{words}");
            assert!(plain.contains(flag), "{words}");
        }
    }

    #[test]
    fn locks_are_offered_if_served_or_refused() {
        let locks = InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS;
        for words in ["", "--cache never", "--locks host --cache always", "--locks none --profile rootfs"] {
            assert!(offered(words).offer.flags.contains(locks), "{words}");
        }
        for words in ["--locks guest", "--cache always", "--profile rootfs"] {
            assert!(!offered(words).offer.flags.intersects(locks), "{words}");
        }
        assert_eq!(offered("--locks none").locks, LockMode::Refuse);
    }
}
