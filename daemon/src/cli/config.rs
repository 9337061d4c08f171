//! What is true: the command line judged as a whole, every default filled in, every contradiction found.
//!
//! Pure: nothing here looks at the host.

use super::args::{self, CacheMode, Cli, Command, FileHandles, LogArgs, LogLevel, MountArgs, RefusedArgs};
use super::args::{Locks, ServeArgs, ShareArgs, When};
use super::compat;
use super::policy::args::PolicyCommand;
use super::sandbox_args::{SandboxConfig, SandboxMode};
use crate::limits;
use crate::sandbox::Isolation;
use crate::window::Settings as WindowSettings;
use pinhole_dax_cache::{ALIGNMENT_SHIFT_MAX, Geometry, Mode, SLOT_LEN};
use pinhole_policy::Profile;
use std::path::PathBuf;
use std::time::Duration;

/// A whole command, ready to be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What to do.
    pub action: Action,
    /// Where messages go.
    pub log: Log,
    /// Lines for the one who typed it: accepted, but not as it may be expected.
    pub notes: Vec<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Print the vhost-user JSON and end.
    PrintCapabilities,
    /// Serve a vhost-user socket.
    Serve(Serve),
    /// Serve /dev/fuse.
    Mount(Mount),
    /// Say something about policies.
    Policy(PolicyCommand),
}

/// Serving a vhost-user socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Serve {
    /// Where the VMM connects.
    pub listen: Listen,
    /// 1 to 36 bytes.
    pub tag: String,
    /// 1 to 63.
    pub request_queues: u16,
    /// Serve the next connection after one has ended.
    pub keep_listening: bool,
    /// Threads at most for requests that wait for the host.
    pub pool_threads: u16,
    /// How long a worker looks for the next request before it sleeps; `None`: as is best on this host.
    pub poll: Option<Duration>,
    /// The DAX window, if there is to be one.
    pub window: Option<WindowSettings>,
    /// The share.
    pub share: Share,
}

/// Where the VMM connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket to make.
    Path {
        /// Its place.
        path: PathBuf,
        /// Who may connect too.
        group: Option<String>,
    },
    /// A listening socket that the caller has passed in.
    Descriptor(u16),
}

/// Serving /dev/fuse.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    /// Where to mount.
    pub mountpoint: PathBuf,
    /// Words for mount(8)'s `-o`, as typed.
    pub options: Vec<String>,
    /// Threads; `None` is for the builder to choose by the processors.
    pub threads: Option<u16>,
    /// The share.
    pub share: Share,
}

/// What is shared and how, whatever the transport.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of one share")]
pub struct Share {
    /// The directory.
    pub directory: PathBuf,
    /// What the guest may do.
    pub policy: PolicyChoice,
    /// Less every change.
    pub read_only: bool,
    /// What the guest may cache of file data.
    pub cache: CacheMode,
    /// For how long it trusts the rest.
    pub timeouts: Timeouts,
    /// It may send writes later.
    pub writeback: bool,
    /// `O_DIRECT` reaches the host.
    pub direct_io: bool,
    /// Shared mappings of uncached files.
    pub mmap: bool,
    /// Who has the locks.
    pub locks: Locks,
    /// Attributes along with directory entries.
    pub readdirplus: bool,
    /// Drop privileged bits here.
    pub killpriv: bool,
    /// The guest may mount the share with mapped ids.
    pub idmap: bool,
    /// Serve extended attributes.
    pub xattr: bool,
    /// Serve POSIX ACLs; implies `xattr`.
    pub posix_acl: bool,
    /// Tell the guest where other file systems begin.
    pub submounts: bool,
    /// Keep `O_NOATIME`.
    pub noatime: bool,
    /// How known files are found again.
    pub file_handles: FileHandles,
    /// Open files allowed to the process.
    pub descriptors: DescriptorLimit,
    /// What stands around the process.
    pub sandbox: SandboxConfig,
}

/// What a guest may do, before any file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyChoice {
    /// A profile.
    Profile(Profile),
    /// What a file says.
    File(PathBuf),
}

/// For how long a guest trusts what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Attributes.
    pub attr: Duration,
    /// Names.
    pub entry: Duration,
    /// Names that are not there.
    pub negative: Duration,
}

/// What to do about `RLIMIT_NOFILE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorLimit {
    /// Raise the soft limit to the hard one.
    Hard,
    /// Leave it.
    Keep,
    /// Set it.
    Exactly(u64),
}

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least severe one written.
    pub level: LogLevel,
    /// To the system log instead of standard error.
    pub syslog: bool,
}

/// A command line that means nothing; each names the argument and says what is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("--shared-dir is missing: give the directory to share")]
    NoDirectory,
    #[error("-o source= and --shared-dir name two directories: give one")]
    TwoDirectories,
    #[error("no socket: give --socket-path SOCKET to make one, or --fd N to take over a listening one")]
    NoSocket,
    #[error("{first} and {second} exclude each other: give one")]
    Exclude { first: &'static str, second: &'static str },
    #[error("--socket-path: {len} bytes are too long: the kernel takes at most 107")]
    SocketPathLong { len: usize },
    #[error("--socket-group is for a socket made by --socket-path; the one of --fd keeps its owner")]
    GroupOfDescriptor,
    #[error("--tag: {len} bytes: a tag has 1 to 36 bytes, none of them NUL")]
    Tag { len: usize },
    #[error("-o {word}: {right}")]
    Compat { word: String, right: String },
    #[error("-o {word}: not a mount option that pinhole knows: use {known}")]
    MountOption { word: String, known: &'static str },
    #[error("--posix-acl needs extended attributes: drop -o no_xattr")]
    AclWithoutXattr,
    #[error(
        "--rlimit-nofile: {limit} is too few: at least {least} are needed, or 0 to leave the limit alone"
    )]
    FewDescriptors { limit: u64, least: u64 },
    #[error("--dax-window: {len} bytes are no window: give a power of two from 2M on, or 0 for none")]
    WindowLen { len: u64 },
    #[error("{option} needs a window: give --dax-window SIZE too")]
    NoWindow { option: &'static str },
    #[error(
        "{option} (-o timeout=) contradicts --cache strict, in which nothing is stale: leave it out, or use --cache auto"
    )]
    Stale { option: &'static str },
    #[error("{option} is not supported: {instead}")]
    Refused { option: &'static str, instead: &'static str },
    #[error("{option}: {why}")]
    Sandbox { option: &'static str, why: String },
}

/// Least `--rlimit-nofile`: half of it is the daemon's own, enough for a VMM with a few queues and memory regions.
const DESCRIPTORS_MIN: u64 = 512;
/// `sun_path` has 108 bytes, one of them the NUL.
const SOCKET_PATH_MAX: usize = 107;
/// The tag field of the device's configuration (virtio 1.3, 5.11.4).
const TAG_MAX: usize = 36;
const DAY: Duration = Duration::from_hours(24);

impl Config {
    /// Judges a command line.
    ///
    /// # Errors
    /// [`ConfigError`], one line for the one who typed it.
    pub fn new(cli: Cli) -> Result<Self, ConfigError> {
        match cli.command {
            Some(Command::Serve(args)) => Self::serve(*args),
            Some(Command::Mount(args)) => Self::mount(*args),
            Some(Command::Policy(args)) => Ok(Self {
                action: Action::Policy(args.command),
                log: log(&LogArgs::default()),
                notes: Vec::new(),
            }),
            None => Self::serve(cli.serve),
        }
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
        let directory = args.shared_dir.take().ok_or(ConfigError::NoDirectory)?;
        let listen = listen(&mut args)?;
        let tag = args.tag.unwrap_or_else(|| "pinhole".to_owned());
        if tag.is_empty() || tag.len() > TAG_MAX || tag.contains('\0') {
            return Err(ConfigError::Tag { len: tag.len() });
        }
        let mut notes = notes(&args.share);
        let pool_threads = pool_threads(args.thread_pool_size, &mut notes);
        let (request_queues, keep_listening) = (args.num_request_queues, args.keep_listening);
        let poll = args.poll_us.map(|us| Duration::from_micros(us.into()));
        let window = window(args.dax_window, args.dax, args.dax_min_size)?;
        let share = share(directory, &args.share, Isolation::Namespace)?;
        if let (DescriptorLimit::Exactly(limit), Some(window)) = (share.descriptors, &window) {
            let least = descriptors_with(window);
            if limit < least {
                return Err(ConfigError::FewDescriptors { limit, least });
            }
        }
        let serve = Serve { listen, tag, request_queues, keep_listening, pool_threads, poll, window, share };
        Ok(Self { action: Action::Serve(serve), log, notes })
    }

    fn mount(args: MountArgs) -> Result<Self, ConfigError> {
        let known = crate::transport::dev_fuse::MOUNT_OPTIONS;
        if let Some(word) = args.options.iter().find(|word| !known.split(", ").any(|name| name == *word)) {
            return Err(ConfigError::MountOption { word: word.clone(), known });
        }
        let (notes, log) = (notes(&args.share), log(&args.log));
        if args.share.sandbox.mode.is_some_and(|how| how != SandboxMode::None) {
            let why = "`pinhole mount` has none: its mount is made for everybody outside, and is taken away from there";
            return Err(ConfigError::Sandbox { option: "--sandbox", why: why.to_owned() });
        }
        let share = share(args.directory, &args.share, Isolation::None)?;
        let MountArgs { mountpoint, options, threads, .. } = args;
        Ok(Self { action: Action::Mount(Mount { mountpoint, options, threads, share }), log, notes })
    }
}

fn listen(args: &mut ServeArgs) -> Result<Listen, ConfigError> {
    if args.socket.is_some() && args.socket_path.is_some() {
        return Err(ConfigError::Exclude { first: "--socket", second: "--socket-path" });
    }
    let path = args.socket_path.take().or_else(|| args.socket.take());
    match (path, args.fd) {
        (None, None) => Err(ConfigError::NoSocket),
        (Some(_), Some(_)) => Err(ConfigError::Exclude { first: "--fd", second: "--socket-path" }),
        (None, Some(_)) if args.socket_group.is_some() => Err(ConfigError::GroupOfDescriptor),
        (None, Some(descriptor)) => Ok(Listen::Descriptor(descriptor)),
        (Some(path), None) => {
            let len = path.as_os_str().len();
            if len > SOCKET_PATH_MAX {
                return Err(ConfigError::SocketPathLong { len });
            }
            Ok(Listen::Path { path, group: args.socket_group.take() })
        }
    }
}

/// The window that is to be; one from which no file may be mapped is none.
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
    if Geometry::new(len, ALIGNMENT_SHIFT_MAX).is_err() {
        return Err(ConfigError::WindowLen { len });
    }
    Ok(Some(WindowSettings { len, mode, threshold: threshold.unwrap_or(limits::DAX_MIN_SIZE_DEFAULT) }))
}

/// Least `--rlimit-nofile` with a window: QEMU describes each mapping as memory, of which each region takes a descriptor, up
/// to 509 of them, and half of the limit is the daemon's own.
fn descriptors_with(window: &WindowSettings) -> u64 {
    const REGIONS_MAX: u64 = 509;
    DESCRIPTORS_MIN.saturating_add((window.len / SLOT_LEN).min(REGIONS_MAX).saturating_mul(2))
}

fn pool_threads(wanted: Option<u32>, notes: &mut Vec<String>) -> u16 {
    let Some(wanted) = wanted else { return limits::POOL_THREADS_DEFAULT };
    match u16::try_from(wanted) {
        Ok(threads) if threads <= limits::POOL_THREADS_MAX => threads,
        Ok(_) | Err(_) => {
            notes.push(format!(
                "--thread-pool-size: taken as {}, the most there are",
                limits::POOL_THREADS_MAX
            ));
            limits::POOL_THREADS_MAX
        }
    }
}

fn share(directory: PathBuf, args: &ShareArgs, isolation: Isolation) -> Result<Share, ConfigError> {
    refuse(&args.refused)?;
    never_stale(args)?;
    let uncached = uncached(args.cache);
    let descriptors = match args.rlimit_nofile {
        None => DescriptorLimit::Hard,
        Some(0) => DescriptorLimit::Keep,
        Some(limit) if limit < DESCRIPTORS_MIN => {
            return Err(ConfigError::FewDescriptors { limit, least: DESCRIPTORS_MIN });
        }
        Some(limit) => DescriptorLimit::Exactly(limit),
    };
    let (posix_acl, timeouts) = (acl_wanted(args), timeouts(args));
    Ok(Share {
        directory,
        policy: PolicyChoice::of(args.policy.as_ref(), args.profile),
        read_only: args.readonly,
        cache: args.cache,
        timeouts,
        writeback: args.writeback && !uncached,
        direct_io: args.allow_direct_io,
        mmap: !matches!(args.cache, CacheMode::Never | CacheMode::Metadata) || args.allow_mmap,
        locks: args.locks.unwrap_or_else(|| locks(args.cache)),
        // A guest that may keep no entry asks for each again.
        readdirplus: !args.no_readdirplus && !timeouts.entry.is_zero(),
        killpriv: !args.no_killpriv_v2,
        idmap: args.allow_idmap,
        xattr: args.xattr || posix_acl,
        posix_acl,
        submounts: !args.no_announce_submounts,
        noatime: args.preserve_noatime,
        file_handles: args.inode_file_handles.unwrap_or(FileHandles::Prefer),
        descriptors,
        sandbox: SandboxConfig::new(&args.sandbox, isolation)?,
    })
}

impl PolicyChoice {
    pub(super) fn of(file: Option<&PathBuf>, profile: args::Profile) -> Self {
        file.map_or_else(|| Self::Profile(profile.into()), |path| Self::File(path.clone()))
    }
}

fn timeouts(args: &ShareArgs) -> Timeouts {
    let by_mode = match args.cache {
        CacheMode::Strict | CacheMode::Never => Duration::ZERO,
        CacheMode::Auto => Duration::from_secs(1),
        CacheMode::Exclusive | CacheMode::Always | CacheMode::Metadata => DAY,
    };
    // Where nobody else makes a file, a name that was not there is not there.
    let absent = if args.cache == CacheMode::Exclusive { DAY } else { Duration::ZERO };
    let or = |given: Option<f64>, default| {
        given.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(default)
    };
    Timeouts {
        attr: or(args.attr_timeout, by_mode),
        entry: or(args.entry_timeout, by_mode),
        negative: or(args.negative_timeout, absent),
    }
}

/// `strict` is a promise; a time for which something may be stale takes it back. virtiofsd's `never` is none: there the
/// time counts, as the old `-o timeout=` does with `-o cache=none`.
fn never_stale(args: &ShareArgs) -> Result<(), ConfigError> {
    let times = [
        ("--attr-timeout", args.attr_timeout),
        ("--entry-timeout", args.entry_timeout),
        ("--negative-timeout", args.negative_timeout),
    ];
    let stale =
        |(option, seconds): (_, Option<f64>)| seconds.is_some_and(|time| time > 0.0).then_some(option);
    match times.into_iter().find_map(stale).filter(|_| args.cache == CacheMode::Strict) {
        Some(option) => Err(ConfigError::Stale { option }),
        None => Ok(()),
    }
}

/// Who has the locks unless it is said: where one guest has the tree to itself, nobody else need be asked.
const fn locks(cache: CacheMode) -> Locks {
    match cache {
        CacheMode::Exclusive | CacheMode::Always => Locks::Guest,
        CacheMode::Strict | CacheMode::Auto | CacheMode::Metadata | CacheMode::Never => Locks::Host,
    }
}

fn acl_wanted(args: &ShareArgs) -> bool {
    matches!(args.posix_acl, Some(When::Auto | When::Always))
}

fn refuse(args: &RefusedArgs) -> Result<(), ConfigError> {
    const IDS: &str = "the guest's user and group ids are the host's; --uid-map and --gid-map map them for the whole process";
    const MIGRATION: &str = "a running share cannot be migrated yet; leave it out";
    let label = matches!(args.security_label, Some(When::Auto | When::Always));
    let rows = [
        (
            args.xattrmap.is_some(),
            "--xattrmap",
            "attributes keep their names; leave it out, or share without --xattr",
        ),
        (label, "--security-label", "new files get the label that the host gives them; leave it out"),
        (!args.translate_uid.is_empty(), "--translate-uid", IDS),
        (!args.translate_gid.is_empty(), "--translate-gid", IDS),
        (args.migration_mode.is_some(), "--migration-mode", MIGRATION),
        (args.migration_on_error.is_some(), "--migration-on-error", MIGRATION),
        (args.migration_verify_handles, "--migration-verify-handles", MIGRATION),
        (args.migration_confirm_paths, "--migration-confirm-paths", MIGRATION),
    ];
    match rows.into_iter().find(|(given, ..)| *given) {
        Some((_, option, instead)) => Err(ConfigError::Refused { option, instead }),
        None => Ok(()),
    }
}

/// Whether file data bypasses the guest's page cache.
const fn uncached(cache: CacheMode) -> bool {
    match cache {
        CacheMode::Auto | CacheMode::Exclusive | CacheMode::Always => false,
        CacheMode::Strict | CacheMode::Never | CacheMode::Metadata => true,
    }
}

/// What is accepted without being done.
fn notes(args: &ShareArgs) -> Vec<String> {
    let uncached = uncached(args.cache);
    let refuses = matches!(args.cache, CacheMode::Never | CacheMode::Metadata);
    let rows = [
        (args.allow_mmap && !refuses, "--allow-mmap", "not needed: with this --cache mappings always work"),
        (
            args.writeback && uncached,
            "--writeback",
            "without effect: with this --cache there is no guest cache to write back, use auto or exclusive",
        ),
    ];
    rows.into_iter()
        .filter(|(given, ..)| *given)
        .map(|(_, option, note)| format!("{option}: {note}"))
        .collect()
}

const fn log(args: &LogArgs) -> Log {
    let level = if args.debug { LogLevel::Debug } else { args.log_level };
    Log { level, syslog: args.syslog }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
