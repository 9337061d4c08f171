//! The typed command line, and the text of each option's help.
//!
//! The first paragraph of an option's help is its line in the overview (`--help`), in at most 64
//! columns. Only single values are checked here; [`super::config`] checks the whole.

use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

use super::help::{self, SANDBOX, VIRTIOFSD};
use super::inspect::InspectArgs;
use super::policy::args::{PolicyCommand, ProfileArg};
use super::prepare::PrepareArgs;
use super::prepared_args::PreparedArgs;
use super::sandbox_args::SandboxArgs;
use crate::limits;
use crate::transport::vhost_user::RequestQueues;

/// Shares a host directory with a VM: virtio-fs over a vhost-user socket.
///
/// One process serves one directory to one VM. The VMM (QEMU, crosvm, Cloud Hypervisor, User-mode
/// Linux and others) connects to the socket. In the guest, `mount -t virtiofs TAG /mnt` mounts the
/// directory. The options of virtiofsd are accepted, also in the old `-o` form.
#[derive(Debug, Parser)]
#[command(
    name = "pinhole",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = help::USAGE,
    after_help = help::SERVE_NOTES,
    after_long_help = help::SERVE_LONG_NOTES,
    hide_possible_values = true,
    max_term_width = 100,
    disable_help_flag = true,
    disable_version_flag = true,
    args = help::help_and_version()
)]
pub struct Cli {
    /// The options of `serve`, which may be left out.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// A command other than serving a socket.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands. The usage lines name them, so the list of options does not.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a vhost-user socket (the default).
    #[command(
        hide = true,
        override_usage = "pinhole serve --shared-dir DIR --socket-path SOCKET [OPTIONS]",
        after_help = help::SERVE_NOTES,
        after_long_help = help::SERVE_LONG_NOTES
    )]
    Serve(Box<ServeArgs>),
    /// Mount DIR on MOUNTPOINT through /dev/fuse: the same share, without a VM.
    ///
    /// Stays in the foreground and prints `Mounted DIR on MOUNTPOINT` when the mount is ready.
    /// SIGTERM, SIGINT and `umount MOUNTPOINT` end it. Root mounts by itself; other users need
    /// `fusermount3` (package fuse3).
    // `mount` refuses these options and says why.
    #[command(hide = true, after_help = help::MOUNT_NOTES, after_long_help = help::MOUNT_LONG_NOTES)]
    #[command(mut_arg("sandbox", |option| option.hide(true)))]
    #[command(mut_arg("uid_map", |option| option.hide(true)))]
    #[command(mut_arg("gid_map", |option| option.hide(true)))]
    Mount(Box<MountArgs>),
    /// Make a prepared image: a share whose metadata is computed ahead of time.
    ///
    /// SOURCE is a directory, a tar file (plain, gzip or zstd; `-` is standard input), or
    /// `oci:DIR[:TAG]`, an OCI image layout. IMAGE gets the metadata, as a standard EROFS image.
    /// The data of the files goes to one data file per layer beside it, named by its digest, so
    /// that images that share layers share data files. The same source always gives the same bytes.
    /// The files appear when all are on disk; after an error, nothing is left behind.
    ///
    /// Prints the digest of the image, the number of inodes, and the sizes.
    #[command(hide = true, after_help = help::PREPARE_NOTES)]
    Prepare(Box<PrepareArgs>),
    /// Say what an image holds, and check all of it.
    ///
    /// IMAGE is an image of `pinhole prepare`, or another uncompressed EROFS image with blocks of 4
    /// KiB. Prints its digest and features, the inodes by kind, the data files with their state,
    /// and what a DAX window could map. Every inode, directory, symlink, attribute and extent is
    /// read; each fault is one line that begins with `problem` and names the path.
    #[command(hide = true, after_help = help::INSPECT_NOTES)]
    Inspect(InspectArgs),
    /// Explain policies: what a guest may do, and what that needs of the host.
    #[command(hide = true, arg_required_else_help = false)]
    Policy {
        /// The question.
        #[command(subcommand)]
        question: PolicyCommand,
    },
}

/// Options of `serve`.
#[derive(Args, Debug, Default)]
pub struct ServeArgs {
    /// Directory to share.
    #[arg(long, value_name = "DIR", help_heading = "Share")]
    pub shared_dir: Option<PathBuf>,
    /// Name of the share in the guest, 1 to 36 bytes [default: pinhole].
    ///
    /// The guest mounts the share by this name: `mount -t virtiofs TAG DIR`. QEMU ignores it and
    /// uses its own `-device ...,tag=`; crosvm and User-mode Linux take it from here.
    #[arg(long, value_name = "TAG", help_heading = "Share")]
    pub tag: Option<String>,

    /// Socket to create and listen on; a stale one is replaced.
    #[arg(long, value_name = "SOCKET", help_heading = "Socket")]
    pub socket_path: Option<PathBuf>,
    /// The old name of `--socket-path`.
    #[arg(long, value_name = "SOCKET", hide = true)]
    pub socket: Option<PathBuf>,
    /// Group that may connect too; a name or a number.
    #[arg(long, value_name = "GROUP", help_heading = "Socket")]
    pub socket_group: Option<String>,
    /// Descriptor of a listening socket, instead of --socket-path.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Socket")]
    pub fd: Option<u16>,
    /// Wait for the next VMM when one disconnects, instead of exiting.
    #[arg(long, help_heading = "Socket")]
    pub keep_listening: bool,
    /// Print the features as the vhost-user JSON of libvirt and QEMU, and exit.
    #[arg(long, hide_short_help = true, help_heading = "Socket")]
    pub print_capabilities: bool,

    /// Options about the share.
    #[command(flatten)]
    pub share: ShareArgs,

    /// Size of the DAX window, such as 256M; 0 is none [default: 0].
    ///
    /// A power of two from 2M on. The guest maps files through the window: it reads and writes the
    /// pages that the host has in memory, without a copy of its own. That needs `mount -o dax` in
    /// the guest, and a VMM with virtio shared memory (SHMEM of vhost-user). QEMU takes windows up
    /// to 512M. The guest needs 64 bytes of its memory for each 4 KiB. docs/use/dax.md says what
    /// works where.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "DAX")]
    pub dax_window: Option<u64>,
    /// Files that the guest maps: never, auto, always [default: auto].
    ///
    /// Applies where the guest mounts with `-o dax=inode`, which is its default. never: no file, as
    /// without a window. auto: files from --dax-min-size on that can always be mapped as a whole.
    /// always: every file that can be mapped as it is now.
    #[arg(long, value_name = "WHEN", value_enum, help_heading = "DAX")]
    pub dax: Option<When>,
    /// Smallest file that --dax auto maps [default: 1M].
    ///
    /// Each mapped file takes at least 2 MiB of the window.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "DAX")]
    pub dax_min_size: Option<u64>,

    /// Request queues to offer, 1 to 63.
    ///
    /// A guest uses at most one for each of its CPUs, and a VMM may ask for fewer (QEMU:
    /// `num-request-queues=`). A queue that the guest does not use costs nothing.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Limits")]
    #[arg(default_value = "8", value_parser = request_queues_parser())]
    pub num_request_queues: RequestQueues,
    /// Threads for requests that wait for the host, 0 to 256 [default: 8].
    ///
    /// Each request queue has a thread that answers from memory. Requests that wait (a read of data
    /// that is on the disk, fsync, long copies) go to this pool, so that they hold up no request
    /// behind them. The threads are started when there is such a request. 0: each queue thread
    /// waits for its own requests.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Limits")]
    pub thread_pool_size: Option<u32>,
    /// Microseconds to poll a queue before its thread sleeps, 0 to 1000 [default: 30].
    ///
    /// A queue thread polls only while requests have recently come within that time, so an idle
    /// guest costs nothing. Polling saves time where the guest waits for each reply, and keeps a
    /// CPU busy meanwhile. 0: no polling, which is the default on a host with one CPU.
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    #[arg(hide_short_help = true, help_heading = "Limits")]
    #[arg(value_parser = RangedU64ValueParser::<u32>::new().range(0..=limits::POLL_US_MAX))]
    pub poll_us: Option<u32>,

    /// Options about the log.
    #[command(flatten)]
    pub log: LogArgs,
    /// Options that ask for a default.
    #[command(flatten)]
    pub compat: CompatArgs,

    /// The old form of virtiofsd's options, `NAME[=VALUE],...`.
    ///
    /// Known are source, cache, sandbox, modcaps, loglevel, timeout, and, each also with `no_`
    /// before it, xattr, posix_acl, writeback, readdirplus, allow_direct_io, announce_submounts,
    /// killpriv_v2, posix_lock and flock. Either of the last two is `--locks host`, `no_` of both
    /// is `--locks guest`.
    #[arg(short = 'o', value_name = "OPTIONS", hide_short_help = true, help_heading = VIRTIOFSD)]
    pub compat_options: Vec<String>,
    /// No effect: Pinhole always stays in the foreground.
    #[arg(short = 'f', hide = true)]
    pub compat_foreground: bool,
}

/// Options of `mount`.
#[derive(Args, Debug, Default)]
#[command(allow_missing_positional = true)]
pub struct MountArgs {
    /// Directory to share; left out with --prepared.
    #[arg(value_name = "DIR", required_unless_present = "prepared")]
    pub directory: Option<PathBuf>,
    /// Directory to mount it on.
    #[arg(value_name = "MOUNTPOINT", required = true)]
    pub mountpoint: PathBuf,
    /// Mount options of mount(8), separated by commas.
    ///
    /// Known are ro, rw, nosuid, nodev, noexec, noatime, nodiratime, sync and dirsync.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',', help_heading = "Mount")]
    pub options: Vec<String>,
    /// Threads that serve, 1 to 63 [default: one per CPU, at most 4].
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Mount")]
    #[arg(value_parser = RangedU64ValueParser::<u16>::new().range(1..=limits::REQUEST_QUEUES_MAX as u64))]
    pub threads: Option<u16>,
    /// Options about the share.
    #[command(flatten)]
    pub share: ShareArgs,
    /// Options about the log.
    #[command(flatten)]
    pub log: LogArgs,
    /// Options that ask for a default.
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// Options about the share itself, of `serve` and `mount`.
#[derive(Args, Debug, Default)]
#[command(args = refused_options())]
#[expect(clippy::struct_excessive_bools, reason = "one field per flag")]
pub struct ShareArgs {
    /// Options about a prepared image.
    #[command(flatten)]
    pub prepared: PreparedArgs,
    /// Serve extended attributes.
    #[arg(long, help_heading = "Share")]
    pub xattr: bool,
    /// Serve POSIX ACLs: never, auto, always; implies --xattr.
    ///
    /// Without a value: always. auto and always both offer ACLs to the guest's kernel; a kernel
    /// without support goes without. never is the default.
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    #[arg(help_heading = "Share")]
    pub posix_acl: Option<When>,
    /// Owner of file locks: host, guest, none [default: host].
    ///
    /// Applies to flock, fcntl and lockf of the guest's programs. host: the host, so that programs
    /// in other guests and on the host are excluded too. guest: each guest by itself; its locks
    /// mean nothing to others. none: every lock fails with ENOLCK. With --cache exclusive or
    /// always, the default is guest. If the policy does not grant `lock`, host is the same as
    /// guest.
    #[arg(long, value_name = "OWNER", value_enum, help_heading = "Share")]
    pub locks: Option<LocksArg>,
    /// Hide from the guest which directories are mount points.
    ///
    /// Files on such a mount then get other inode numbers.
    #[arg(long, overrides_with = "announce_submounts", hide_short_help = true, help_heading = "Share")]
    pub no_announce_submounts: bool,
    /// Leave set-user-ID, set-group-ID and file capabilities to the guest's kernel.
    ///
    /// That kernel then asks for the attribute before each write.
    #[arg(long, overrides_with = "killpriv_v2", hide_short_help = true, help_heading = "Share")]
    pub no_killpriv_v2: bool,
    /// Let the guest mount the share with mapped ids; needs Linux 6.12 there.
    ///
    /// The guest mounts with `mount -o X-mount.idmap=...`. Its kernel then names the calling user
    /// only in requests that create a file, on all mounts of the share. Set-user-ID and
    /// set-group-ID are dropped for root too where the daemon has to know the user (fallocate,
    /// `copy_file_range`); docs/use/compatibility.md has the list.
    #[arg(long, hide_short_help = true, help_heading = "Share")]
    pub allow_idmap: bool,
    /// Open files with `O_NOATIME` where the guest asks for it.
    ///
    /// Without this option, the flag is ignored.
    #[arg(long, hide_short_help = true, help_heading = "Share")]
    pub preserve_noatime: bool,

    /// What the guest caches: strict, auto, exclusive [default: auto].
    ///
    /// This decides how late the guest sees changes by other guests and the host. strict: nothing;
    /// each access asks the host, and nothing is ever stale. auto: data until the next open, names
    /// and attributes for a second. exclusive: everything, also that a name does not exist, for a
    /// tree that only this guest changes.
    ///
    /// virtiofsd's modes are accepted too. never: strict without shared mappings. always:
    /// exclusive, but names that do not exist are looked up again. metadata: names and attributes,
    /// but no data. docs/use/coherence.md has the rules.
    #[arg(long, value_name = "MODE", value_enum, default_value_t, hide_default_value = true)]
    #[arg(help_heading = "Cache")]
    pub cache: CacheArg,
    /// How long the guest trusts attributes [default: by --cache].
    ///
    /// In seconds. strict and never: 0; auto: 1; other modes: 86400.
    #[arg(long, allow_negative_numbers = true, value_name = "SEC", value_parser = parse_seconds, help_heading = "Cache")]
    pub attr_timeout: Option<f64>,
    /// How long it trusts a name that it knows [default: by --cache].
    ///
    /// In seconds, with the same defaults as --attr-timeout.
    #[arg(long, allow_negative_numbers = true, value_name = "SEC", value_parser = parse_seconds, help_heading = "Cache")]
    pub entry_timeout: Option<f64>,
    /// How long it trusts that a name is missing [default: by --cache].
    ///
    /// In seconds. exclusive: 86400; other modes: 0.
    #[arg(long, allow_negative_numbers = true, value_name = "SEC", value_parser = parse_seconds, help_heading = "Cache")]
    pub negative_timeout: Option<f64>,
    /// Let the guest collect writes and send them later.
    ///
    /// Needs a cache mode that caches data. Another guest or the host sees such a write only after
    /// an fsync, a close or about 30 seconds. This guest does not see when others make a file
    /// longer that it knows. Use it for files that only this guest writes.
    #[arg(long, help_heading = "Cache")]
    pub writeback: bool,
    /// Open the host's file with O_DIRECT where the guest does.
    ///
    /// Without it, `O_DIRECT` bypasses the guest's page cache only.
    #[arg(long, help_heading = "Cache")]
    pub allow_direct_io: bool,
    /// Allow shared mappings under --cache never and metadata.
    ///
    /// The other modes always allow them (`MAP_SHARED`). Without a DAX window such a mapping is the
    /// guest's own copy, whatever the mode: stores of another guest appear in it late or never.
    #[arg(long, hide_short_help = true, help_heading = "Cache")]
    pub allow_mmap: bool,
    /// Do not send attributes along with the entries of a directory.
    ///
    /// They are also not sent to a guest that may keep no entry (`--entry-timeout 0`, as with
    /// `--cache strict`): it would ask for each of them again.
    #[arg(long, hide_short_help = true, help_heading = "Cache")]
    pub no_readdirplus: bool,

    /// What the guest may do: full, share, rootfs [default: share].
    ///
    /// full: all that POSIX offers on a share. share: full without device nodes, overlayfs
    /// whiteouts and the extended attributes trusted.* and security.*. rootfs: read, map, stat and
    /// list; changes fail with EROFS, ioctls with ENOTTY. prepared: the same for an image
    /// (--prepared), where it is the default. `pinhole policy explain --profile share` prints the
    /// whole profile.
    #[arg(long, value_name = "PROFILE", value_enum, help_heading = SANDBOX)]
    pub profile: Option<ProfileArg>,
    /// Policy file (TOML), instead of a profile.
    ///
    /// Says what the guest may do, where, and how much of it. It begins with a profile, allows and
    /// denies single operations, and has rules by path and limits. docs/use/policy.md describes it;
    /// `pinhole policy explain --policy FILE` prints what it grants.
    #[arg(long, value_name = "FILE", conflicts_with = "profile", help_heading = SANDBOX)]
    pub policy: Option<PathBuf>,
    /// Refuse every change with EROFS.
    ///
    /// Takes from the profile or the policy every operation that changes something. --profile
    /// rootfs differs: it also lacks fsync and locks, which a tree to run programs from does not
    /// need, and it grants reads of `security.*` attributes, which programs with file capabilities
    /// do need.
    #[arg(long, help_heading = SANDBOX)]
    pub readonly: bool,
    /// Options about the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Open files of the daemon; 0 keeps the limit [default: hard limit].
    ///
    /// Files that the guest has open need descriptors, and so do files that it used recently; the
    /// daemon closes the latter to open the former. At the limit, less a reserve, the guest gets
    /// ENFILE and the daemon continues.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Limits")]
    pub rlimit_nofile: Option<u64>,
    /// How the daemon finds files again: never, prefer, mandatory [default: prefer].
    ///
    /// prefer: by inode handles of the host, which need no descriptor for a file that is not in
    /// use. They need CAP_DAC_READ_SEARCH and a file system that supports them. Otherwise, or with
    /// never, the daemon finds an unused file by its name in its directory, and each directory
    /// holds a descriptor; so does every file where inode numbers do not last (FUSE, SMB, 9P, FAT).
    /// mandatory: a shared directory without inode handles is refused.
    #[arg(long, value_name = "WHEN", value_enum, hide_short_help = true, help_heading = "Limits")]
    pub inode_file_handles: Option<InodeHandlesArg>,
}

/// Options of virtiofsd that ask for a default, of `serve` and `mount`. They only cancel
/// the opposite option before them.
#[derive(Args, Debug, Default)]
pub struct CompatArgs {
    /// Tell the guest which directories are mount points (the default).
    ///
    /// The guest then shows them with device numbers of their own, so that two files with one inode
    /// number are not taken for one file. A mounted single file gets an inode number of its own
    /// instead.
    #[arg(long, overrides_with = "no_announce_submounts", hide_short_help = true, help_heading = VIRTIOFSD)]
    pub announce_submounts: bool,
    /// Drop set-user-ID, set-group-ID and file capabilities in the daemon (the default).
    ///
    /// The daemon drops them on write, truncate and chown.
    #[arg(long, overrides_with = "no_killpriv_v2", hide_short_help = true, help_heading = VIRTIOFSD)]
    pub killpriv_v2: bool,
}

/// What to do without `--xattrmap`.
pub(super) const XATTRMAP: &str = "attributes keep their names; leave it out, or share without --xattr";

/// Returns the options of virtiofsd that Pinhole does not have and that cannot be ignored. Each is
/// an error that says what to do, except `--security-label=never`.
fn refused_options() -> [Arg; 8] {
    const IDS: &str =
        "the guest's ids are the host's; --uid-map and --gid-map map them for the whole process";
    const MIGRATION: &str = "a running share cannot be migrated yet; leave it out";
    let options = [
        ("xattrmap", XATTRMAP),
        ("security-label", "new files get the label that the host gives them; leave it out"),
        ("translate-uid", IDS),
        ("translate-gid", IDS),
        ("migration-mode", MIGRATION),
        ("migration-on-error", MIGRATION),
        ("migration-verify-handles", MIGRATION),
        ("migration-confirm-paths", MIGRATION),
    ];
    options.map(|(name, instead)| {
        let is_label = name == "security-label";
        let is_harmless = move |value: &str| is_label && value == "never";
        let refuse =
            move |value: &str| is_harmless(value).then_some(()).ok_or(format!("not supported: {instead}"));
        let option = Arg::new(name).long(name).value_name("VALUE").hide(true).require_equals(is_label);
        option.num_args(0..=1).default_missing_value("").value_parser(refuse)
    })
}

/// Options about the log, of `serve` and `mount`.
#[derive(Args, Debug, Default)]
pub struct LogArgs {
    /// Log level: off, error, warn, info, debug, trace [default: info].
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t, hide_default_value = true)]
    #[arg(help_heading = "Log")]
    pub log_level: LogLevel,
    /// Write messages to the system log instead of standard error.
    #[arg(long, help_heading = "Log")]
    pub syslog: bool,
    /// The same as `--log-level debug`.
    #[arg(short = 'd', hide_short_help = true, help_heading = VIRTIOFSD)]
    pub debug: bool,
}

/// Whether to offer a feature to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "virtiofsd's own words")]
pub enum When {
    Never,
    Auto,
    Always,
}

/// A cache mode, as `--cache` takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "explained at --cache")]
pub enum CacheArg {
    Strict,
    #[default]
    Auto,
    Exclusive,
    #[value(alias = "none")]
    Never,
    Metadata,
    Always,
}

/// The owner of locks, as `--locks` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "explained at --locks")]
pub enum LocksArg {
    Host,
    Guest,
    None,
}

/// The use of inode handles, as `--inode-file-handles` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "virtiofsd's own words")]
pub enum InodeHandlesArg {
    Never,
    #[value(alias = "fallback")]
    Prefer,
    Mandatory,
}

/// The least severe messages that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the levels of the log crate")]
pub enum LogLevel {
    Off,
    #[value(alias = "err")]
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Parses a number of seconds from 0 to a hundred years.
pub(super) fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_not_a_number| SECONDS_RIGHT.to_owned())?;
    if (0.0..=SECONDS_MAX).contains(&seconds) { Ok(seconds) } else { Err(SECONDS_RIGHT.to_owned()) }
}

/// A hundred years, far below the overflow of the kernel's jiffies.
const SECONDS_MAX: f64 = 100.0 * 366.0 * 86_400.0;
const SECONDS_RIGHT: &str = "give seconds as a number from 0 to 3162240000, such as 0.5";

fn request_queues_parser() -> impl TypedValueParser<Value = RequestQueues> {
    let range = RangedU64ValueParser::<u16>::new().range(1..=limits::REQUEST_QUEUES_MAX as u64);
    range.try_map(|count| RequestQueues::new(usize::from(count)))
}

/// Parses a number of bytes, or of KiB, MiB, GiB or TiB with the suffix K, M, G or T.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count = digits.parse::<u64>().ok().filter(|_| plain);
    count.and_then(|count| count.checked_mul(1 << shift)).ok_or_else(|| SIZE_RIGHT.to_owned())
}

const SIZE_RIGHT: &str = "give a number of bytes, or of units with K, M, G or T behind it, such as 256M";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_size_may_have_a_unit() {
        let right = [("0", 0), ("4096", 4096), ("2M", 2 << 20), ("1G", 1 << 30), ("8T", 8 << 40)];
        for (text, size) in right {
            assert_eq!(parse_size(text), Ok(size));
        }
        for wrong in ["", "M", "-1", "+1", "1.5G", "1MiB", "1m", "99999999999T", " 1", "0x10"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_option_has_help() {
        for argument in Cli::command().get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{argument}");
            assert!(argument.get_help_heading().is_some(), "{argument}");
        }
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        for wrong in ["-1", "nan", "inf", "1s", "", "1e30"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
        assert!((parse_seconds("0.25").unwrap() - 0.25).abs() < f64::EPSILON);
    }
}
