//! The configuration: the whole command line checked, with all defaults filled in.
//!
//! Pure: this module does not access the host.

use super::args::{CacheArg, Cli, Command, InodeHandlesArg, LocksArg, LogArgs, LogLevel, MountArgs};
use super::args::{ServeArgs, ShareArgs, When};
use super::compat;
use super::error::ConfigError;
use super::inspect::InspectArgs;
use super::policy::args::{PolicyCommand, ProfileArg};
use super::prepare::PrepareArgs;
use super::sandbox_args::SandboxConfig;
use crate::limits;
use crate::prepared::PreparedConfig;
use crate::sandbox::Isolation;
use crate::transport::vhost_user::{RequestQueues, Tag};
use crate::window::{ALIGNMENT_SHIFT, Settings as WindowSettings};
use pinhole_dax_cache::{Geometry, Mode, SLOT_LEN};
use pinhole_policy::Profile;
use std::path::PathBuf;
use std::time::Duration;

/// A checked command.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The action.
    pub action: Action,
    /// The log.
    pub log: LogConfig,
    /// Lines for the user about options that are accepted, but have no effect here.
    pub notes: Vec<String>,
}

/// The action of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Print the vhost-user JSON and end.
    PrintCapabilities,
    /// Serve a vhost-user socket.
    Serve(ServeConfig),
    /// Serve /dev/fuse.
    Mount(MountConfig),
    /// Make a prepared image.
    Prepare(Box<PrepareArgs>),
    /// Say what an image holds.
    Inspect(InspectArgs),
    /// Answer a question about policies.
    Policy(PolicyCommand),
}

/// Serving a vhost-user socket.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeConfig {
    /// The socket to which the VMM connects.
    pub listen: ListenConfig,
    /// Name of the share.
    pub tag: Tag,
    /// Number of request queues, 1 to 63.
    pub request_queues: RequestQueues,
    /// Serve the next connection after one has ended.
    pub keep_listening: bool,
    /// Largest number of threads for requests that wait for the host.
    pub pool_threads: u16,
    /// How long a queue thread polls for the next request before it sleeps. `None`: chosen for the
    /// host.
    pub poll: Option<Duration>,
    /// The DAX window, if there is one.
    pub window: Option<WindowSettings>,
    /// The share.
    pub share: ShareSettings,
}

/// The socket to which the VMM connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenConfig {
    /// A socket to create.
    Path {
        /// Its path.
        path: PathBuf,
        /// A group that may connect too.
        group: Option<String>,
    },
    /// The descriptor of a listening socket that the starter of the process has passed.
    Descriptor(u16),
}

/// Serving /dev/fuse.
#[derive(Clone, Debug, PartialEq)]
pub struct MountConfig {
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// Options of mount(8) after `-o`, as typed.
    pub options: Vec<String>,
    /// Number of threads. `None`: chosen by the number of processors.
    pub threads: Option<u16>,
    /// The share.
    pub share: ShareSettings,
}

/// The share, for each transport.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of one share")]
pub struct ShareSettings {
    /// The shared tree.
    pub source: ShareSource,
    /// The policy.
    pub policy: PolicyChoice,
    /// Refuse every change, even if the policy allows it.
    pub read_only: bool,
    /// The data that the guest may cache.
    pub cache: CacheArg,
    /// How long the guest trusts names and attributes.
    pub timeouts: CacheTimeouts,
    /// The guest may send writes later.
    pub writeback: bool,
    /// `O_DIRECT` reaches the host.
    pub direct_io: bool,
    /// Allow shared mappings of uncached files.
    pub mmap: bool,
    /// The owner of the locks.
    pub locks: LocksArg,
    /// Send attributes along with directory entries.
    pub readdirplus: bool,
    /// Drop privileged bits in the daemon.
    pub killpriv: bool,
    /// The guest may mount the share with mapped ids.
    pub idmap: bool,
    /// Serve extended attributes.
    pub xattr: bool,
    /// Serve POSIX ACLs; implies `xattr`.
    pub posix_acl: bool,
    /// Tell the guest which directories are mount points.
    pub submounts: bool,
    /// Keep `O_NOATIME`.
    pub noatime: bool,
    /// The use of inode handles.
    pub inode_handles: InodeHandlesArg,
    /// The limit of open files of the process.
    pub descriptors: DescriptorLimit,
    /// The sandbox.
    pub sandbox: SandboxConfig,
}

/// The shared tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareSource {
    /// A directory of the host.
    Directory(PathBuf),
    /// A prepared image.
    Prepared(PreparedConfig),
}

/// The choice of a policy, before any file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyChoice {
    /// A profile.
    Profile(Profile),
    /// A policy file.
    File(PathBuf),
}

/// How long a guest trusts names and attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTimeouts {
    /// Attributes.
    pub attr: Duration,
    /// Names.
    pub entry: Duration,
    /// Names that do not exist.
    pub negative: Duration,
}

/// The value of `RLIMIT_NOFILE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorLimit {
    /// Raise the soft limit to the hard one.
    Hard,
    /// Keep the limit.
    Keep,
    /// Set the limit.
    Exactly(u64),
}

/// The log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe messages that are written.
    pub level: LogLevel,
    /// Write to the system log instead of standard error.
    pub syslog: bool,
}

/// Smallest `--rlimit-nofile`. Half of it is for the daemon itself, which is enough for a VMM with
/// a few queues and memory regions.
const DESCRIPTORS_MIN: u64 = 512;
/// Largest length of a socket's path in bytes: `sun_path` has 108 bytes, one of them the NUL.
const SOCKET_PATH_MAX: usize = 107;
const DAY: Duration = Duration::from_hours(24);

impl Config {
    /// Checks a command line.
    ///
    /// # Errors
    /// [`ConfigError`], one line for the user.
    pub fn new(cli: Cli) -> Result<Self, ConfigError> {
        match cli.command {
            Some(Command::Serve(args)) => Self::serve(*args),
            Some(Command::Mount(args)) => Self::mount(*args),
            Some(Command::Prepare(args)) => Ok(Self::without_share(Action::Prepare(args))),
            Some(Command::Inspect(args)) => Ok(Self::without_share(Action::Inspect(args))),
            Some(Command::Policy { question }) => Ok(Self::without_share(Action::Policy(question))),
            None => Self::serve(cli.serve),
        }
    }

    /// Returns the configuration of a command that serves nothing.
    fn without_share(action: Action) -> Self {
        Self { action, log: log(&LogArgs::default()), notes: Vec::new() }
    }

    fn serve(mut args: ServeArgs) -> Result<Self, ConfigError> {
        let no_xattr =
            args.compat_options.iter().flat_map(|list| list.split(',')).any(|word| word == "no_xattr");
        compat::apply(&mut args)?;
        let log = log(&args.log);
        if args.print_capabilities {
            return Ok(Self { action: Action::PrintCapabilities, log, notes: Vec::new() });
        }
        if no_xattr && !args.share.xattr && acl_wanted(&args.share) {
            return Err(ConfigError::AclWithoutXattr);
        }
        if no_xattr && !args.share.xattr && !args.share.prepared.prepared.is_empty() {
            let why = "the attributes of an image are always served: leave it out";
            return Err(ConfigError::WithImage { option: "-o no_xattr", why });
        }
        let source = source(args.shared_dir.take(), "--shared-dir", &args.share)?;
        let listen = listen(&mut args)?;
        let tag = Tag::new(args.tag.as_deref().unwrap_or("pinhole"))?;
        let mut notes = notes(&args.share);
        let pool_threads = pool_threads(args.thread_pool_size, &mut notes);
        let (request_queues, keep_listening) = (args.num_request_queues, args.keep_listening);
        let poll = args.poll_us.map(|us| Duration::from_micros(us.into()));
        let window = window(args.dax_window, args.dax, args.dax_min_size)?;
        let share = share(source, &args.share, Isolation::Namespace)?;
        if let (DescriptorLimit::Exactly(limit), Some(window)) = (share.descriptors, &window) {
            let least = descriptors_with(window);
            if limit < least {
                return Err(ConfigError::FewDescriptors { limit, least });
            }
        }
        let serve =
            ServeConfig { listen, tag, request_queues, keep_listening, pool_threads, poll, window, share };
        Ok(Self { action: Action::Serve(serve), log, notes })
    }

    fn mount(args: MountArgs) -> Result<Self, ConfigError> {
        let known = crate::transport::dev_fuse::MOUNT_OPTIONS;
        if let Some(word) = args.options.iter().find(|word| !known.split(", ").any(|name| name == *word)) {
            return Err(ConfigError::MountOption { word: word.clone(), known });
        }
        let (notes, log) = (notes(&args.share), log(&args.log));
        if args.share.sandbox.mode.is_some_and(|how| how != Isolation::None) {
            let why = "`pinhole mount` has no isolation, so that other processes see the mount: leave the option out";
            return Err(ConfigError::Sandbox { option: "--sandbox", why: why.to_owned() });
        }
        let source = source(args.directory, "DIR", &args.share)?;
        let share = share(source, &args.share, Isolation::None)?;
        let MountArgs { mountpoint, mut options, threads, .. } = args;
        if matches!(share.source, ShareSource::Prepared(_)) {
            if options.iter().any(|option| option == "rw") {
                let why = "an image cannot be changed: leave it out";
                return Err(ConfigError::WithImage { option: "-o rw", why });
            }
            // So that opening a file for writing fails, not only writing it.
            options.push("ro".to_owned());
        }
        Ok(Self { action: Action::Mount(MountConfig { mountpoint, options, threads, share }), log, notes })
    }
}

fn listen(args: &mut ServeArgs) -> Result<ListenConfig, ConfigError> {
    if args.socket.is_some() && args.socket_path.is_some() {
        return Err(ConfigError::Exclude { first: "--socket", second: "--socket-path" });
    }
    let path = args.socket_path.take().or_else(|| args.socket.take());
    match (path, args.fd, args.socket_group.take()) {
        (None, None, _) => Err(ConfigError::NoSocket),
        (Some(_), Some(_), _) => Err(ConfigError::Exclude { first: "--fd", second: "--socket-path" }),
        (None, Some(_), Some(group)) => Err(ConfigError::GroupOfDescriptor { group }),
        (None, Some(descriptor), None) => Ok(ListenConfig::Descriptor(descriptor)),
        (Some(path), None, group) => match path.as_os_str().len() {
            0..=SOCKET_PATH_MAX => Ok(ListenConfig::Path { path, group }),
            len => Err(ConfigError::SocketPathLong { len }),
        },
    }
}

/// Returns the window, or `None` if there is none or no file may be mapped.
fn window(
    len: Option<u64>,
    dax: Option<When>,
    threshold: Option<u64>,
) -> Result<Option<WindowSettings>, ConfigError> {
    let Some(len) = len.filter(|len| *len != 0) else {
        return match (dax, threshold) {
            (Some(When::Auto | When::Always), _) => Err(ConfigError::NoWindow { option: "--dax" }),
            (_, Some(_)) => Err(ConfigError::NoWindow { option: "--dax-min-size" }),
            (None | Some(When::Never), None) => Ok(None),
        };
    };
    let mode = match dax {
        Some(When::Never) => return Ok(None),
        None | Some(When::Auto) => Mode::Auto,
        Some(When::Always) => Mode::Always,
    };
    let geometry = Geometry::new(len, ALIGNMENT_SHIFT).map_err(|_invalid| ConfigError::WindowLen { len })?;
    let threshold = threshold.unwrap_or(limits::DAX_MIN_SIZE_DEFAULT);
    Ok(Some(WindowSettings { geometry, mode, threshold }))
}

/// Returns the smallest `--rlimit-nofile` with a window. QEMU describes each mapping as a memory
/// region, which takes a descriptor, up to 509 of them. Half of the limit is for the daemon itself.
fn descriptors_with(window: &WindowSettings) -> u64 {
    const REGIONS_MAX: u64 = 509;
    let slots = window.geometry.window_len() / SLOT_LEN;
    DESCRIPTORS_MIN.saturating_add(slots.min(REGIONS_MAX).saturating_mul(2))
}

fn pool_threads(wanted: Option<u32>, notes: &mut Vec<String>) -> u16 {
    let most = limits::POOL_THREADS_MAX;
    let wanted = wanted.unwrap_or(limits::POOL_THREADS_DEFAULT.into());
    if wanted > most.into() {
        notes.push(format!("--thread-pool-size: {wanted} is too many: {most} threads are used"));
    }
    u16::try_from(wanted).unwrap_or(most).min(most)
}

/// Returns the shared tree: the given directory, or an image.
fn source(
    directory: Option<PathBuf>,
    option: &'static str,
    args: &ShareArgs,
) -> Result<ShareSource, ConfigError> {
    match (args.prepared.config()?, directory) {
        (None, Some(_)) if args.profile == Some(ProfileArg::Prepared) => {
            Err(ConfigError::NoImage { option: "--profile prepared" })
        }
        (None, Some(directory)) => Ok(ShareSource::Directory(directory)),
        (None, None) => Err(ConfigError::NoDirectory),
        (Some(_), Some(_)) => Err(ConfigError::Exclude { first: option, second: "--prepared" }),
        (Some(image), None) => {
            check_with_image(args)?;
            Ok(ShareSource::Prepared(image))
        }
    }
}

/// Refuses the options that have no meaning with an image.
///
/// # Errors
/// [`ConfigError::WithImage`].
fn check_with_image(args: &ShareArgs) -> Result<(), ConfigError> {
    const WRITES: &str = "an image cannot be changed: leave it out";
    const KEPT: &str = "an image does not change, so the guest keeps all of it: leave it out";
    const NO_FILES: &str = "no file of the host is opened for the guest: leave it out";
    const OWNERS: &str = "an image has owners of its own: leave it out";
    let rows = [
        ("--writeback", args.writeback, WRITES),
        ("--profile full", args.profile == Some(ProfileArg::Full), WRITES),
        ("--profile share", args.profile == Some(ProfileArg::Share), WRITES),
        ("--cache strict", args.cache == CacheArg::Strict, KEPT),
        ("--cache never", args.cache == CacheArg::Never, KEPT),
        ("--cache metadata", args.cache == CacheArg::Metadata, KEPT),
        ("--allow-direct-io", args.allow_direct_io, NO_FILES),
        ("--preserve-noatime", args.preserve_noatime, NO_FILES),
        ("--inode-file-handles", args.inode_file_handles.is_some(), NO_FILES),
        (
            "--locks host",
            args.locks == Some(LocksArg::Host),
            "no file of the host can be locked: give --locks guest or none",
        ),
        ("--uid-map", !args.sandbox.uid_map.is_empty(), OWNERS),
        ("--gid-map", !args.sandbox.gid_map.is_empty(), OWNERS),
    ];
    match rows.into_iter().find(|(_, given, _)| *given) {
        Some((option, _, why)) => Err(ConfigError::WithImage { option, why }),
        None => Ok(()),
    }
}

fn share(source: ShareSource, args: &ShareArgs, isolation: Isolation) -> Result<ShareSettings, ConfigError> {
    never_stale(args)?;
    let prepared = matches!(source, ShareSource::Prepared(_));
    // An image does not change at all.
    let cache = if prepared { CacheArg::Exclusive } else { args.cache };
    let default = if prepared { ProfileArg::Prepared } else { ProfileArg::default() };
    let uncached = uncached(cache);
    let descriptors = match args.rlimit_nofile {
        None => DescriptorLimit::Hard,
        Some(0) => DescriptorLimit::Keep,
        Some(limit) if limit < DESCRIPTORS_MIN => {
            return Err(ConfigError::FewDescriptors { limit, least: DESCRIPTORS_MIN });
        }
        Some(limit) => DescriptorLimit::Exactly(limit),
    };
    let (posix_acl, timeouts) = (acl_wanted(args), timeouts(cache, args));
    Ok(ShareSettings {
        source,
        policy: PolicyChoice::of(args.policy.as_ref(), args.profile.unwrap_or(default)),
        read_only: args.readonly || prepared,
        cache,
        timeouts,
        writeback: args.writeback && !uncached,
        direct_io: args.allow_direct_io,
        mmap: !matches!(cache, CacheArg::Never | CacheArg::Metadata) || args.allow_mmap,
        locks: args.locks.unwrap_or_else(|| locks(cache)),
        // A guest that may keep no entry would ask for each again.
        readdirplus: !args.no_readdirplus && !timeouts.entry.is_zero(),
        killpriv: !args.no_killpriv_v2,
        idmap: args.allow_idmap,
        xattr: args.xattr || posix_acl || prepared,
        posix_acl,
        submounts: !args.no_announce_submounts,
        noatime: args.preserve_noatime,
        inode_handles: args.inode_file_handles.unwrap_or(InodeHandlesArg::Prefer),
        descriptors,
        sandbox: SandboxConfig::new(&args.sandbox, isolation)?,
    })
}

impl PolicyChoice {
    pub(super) fn of(file: Option<&PathBuf>, profile: ProfileArg) -> Self {
        file.map_or_else(|| Self::Profile(profile.into()), |path| Self::File(path.clone()))
    }
}

fn timeouts(cache: CacheArg, args: &ShareArgs) -> CacheTimeouts {
    let by_mode = match cache {
        CacheArg::Strict | CacheArg::Never => Duration::ZERO,
        CacheArg::Auto => Duration::from_secs(1),
        CacheArg::Exclusive | CacheArg::Always | CacheArg::Metadata => DAY,
    };
    // If only this guest creates files, a name that was missing is still missing.
    let absent = if cache == CacheArg::Exclusive { DAY } else { Duration::ZERO };
    let or = |given: Option<f64>, default| {
        given.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(default)
    };
    CacheTimeouts {
        attr: or(args.attr_timeout, by_mode),
        entry: or(args.entry_timeout, by_mode),
        negative: or(args.negative_timeout, absent),
    }
}

/// Refuses timeouts with `strict`, which promises that nothing is stale. virtiofsd's `never`
/// promises nothing: there a timeout counts, as the old `-o timeout=` does with `-o cache=none`.
fn never_stale(args: &ShareArgs) -> Result<(), ConfigError> {
    let times = [
        ("--attr-timeout", args.attr_timeout),
        ("--entry-timeout", args.entry_timeout),
        ("--negative-timeout", args.negative_timeout),
    ];
    let mut given = times.into_iter().filter_map(|(option, seconds)| Some((option, seconds?)));
    match given.find(|(_, seconds)| *seconds > 0.0).filter(|_| args.cache == CacheArg::Strict) {
        Some((option, seconds)) => Err(ConfigError::Stale { option, seconds: seconds.to_string() }),
        None => Ok(()),
    }
}

/// Returns the default owner of the locks: the guest itself if no other guest uses the tree.
const fn locks(cache: CacheArg) -> LocksArg {
    match cache {
        CacheArg::Exclusive | CacheArg::Always => LocksArg::Guest,
        CacheArg::Strict | CacheArg::Auto | CacheArg::Metadata | CacheArg::Never => LocksArg::Host,
    }
}

fn acl_wanted(args: &ShareArgs) -> bool {
    matches!(args.posix_acl, Some(When::Auto | When::Always))
}

/// Returns whether file data bypasses the guest's page cache.
const fn uncached(cache: CacheArg) -> bool {
    match cache {
        CacheArg::Auto | CacheArg::Exclusive | CacheArg::Always => false,
        CacheArg::Strict | CacheArg::Never | CacheArg::Metadata => true,
    }
}

/// Returns a line for each option that is accepted and has no effect.
fn notes(args: &ShareArgs) -> Vec<String> {
    let uncached = uncached(args.cache);
    let refuses = matches!(args.cache, CacheArg::Never | CacheArg::Metadata);
    let rows = [
        (args.allow_mmap && !refuses, "--allow-mmap: not needed: with this --cache mappings always work"),
        (
            args.writeback && uncached,
            "--writeback: without effect: with this --cache there is no guest cache to write back, use auto or \
             exclusive",
        ),
    ];
    rows.into_iter().filter(|(given, _)| *given).map(|(_, note)| note.to_owned()).collect()
}

const fn log(args: &LogArgs) -> LogConfig {
    let level = if args.debug { LogLevel::Debug } else { args.log_level };
    LogConfig { level, syslog: args.syslog }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
