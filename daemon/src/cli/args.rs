//! The typed command line, and the text of `--help`.
//!
//! Only single values are checked here; [`super::config`] checks the whole.

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

use super::policy::args::{PolicyArgs, ProfileArg};
use super::sandbox_args::SandboxArgs;
use crate::limits;

/// Shares a host directory with a virtual machine: FUSE over virtio (virtio-fs) on a vhost-user socket.
///
/// One process serves one directory to one machine. The machine's VMM (QEMU, crosvm, Cloud Hypervisor, User-mode
/// Linux and others) connects to the socket; in the guest, `mount -t virtiofs TAG /mnt` mounts the directory.
/// Options of virtiofsd are taken as they are, also in the old `-o` form.
#[derive(Debug, Parser)]
#[command(
    name = "pinhole",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "pinhole --shared-dir DIR --socket-path SOCKET [OPTIONS]\n       \
                      pinhole mount DIR MOUNTPOINT [OPTIONS]\n       \
                      pinhole policy explain|check|diff ...\n       \
                      pinhole --print-capabilities",
    after_long_help = EXAMPLES,
    max_term_width = 100
)]
pub struct Cli {
    /// The options of `serve`, which may be left out.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// A command other than serving a socket.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  A share for one machine:
    pinhole --shared-dir /srv/data --socket-path /run/data.sock --tag data
  in QEMU (guest memory must be shared with the daemon):
    -object memory-backend-memfd,id=m,size=1G,share=on -numa node,memdev=m
    -chardev socket,id=c,path=/run/data.sock -device vhost-user-fs-pci,chardev=c,tag=data
  in the guest:
    mount -t virtiofs data /mnt

  A read-only root file system that nobody changes meanwhile:
    pinhole --shared-dir /srv/root --socket-path /run/root.sock --profile rootfs --cache always

  One that only its own rules let anything be done to:
    pinhole --shared-dir /srv/web --socket-path /run/web.sock --policy /etc/pinhole/web.toml

  As Kata Containers starts it, on a listening socket passed in as descriptor 3:
    pinhole --syslog --cache=auto --shared-dir=/run/share --fd=3 --announce-submounts

  Without any machine, through /dev/fuse:
    pinhole mount /srv/data /mnt

Exit status:
  0  the VMM went away, or SIGTERM or SIGINT asked for the end
  1  something on the host failed; the last line on standard error says what
  2  the command line or the policy file is wrong; one line says what is right

Options of virtiofsd that are refused, because leaving them out would change what is shared:
  --xattrmap --security-label=auto|always --translate-uid --translate-gid --migration-*";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a vhost-user socket (the default).
    #[command(override_usage = "pinhole serve --shared-dir DIR --socket-path SOCKET [OPTIONS]")]
    Serve(Box<ServeArgs>),
    /// Mount DIR on MOUNTPOINT through /dev/fuse: the same share, without a machine.
    ///
    /// Stays in the foreground and prints `Mounted DIR on MOUNTPOINT` when it is there; SIGTERM, SIGINT and
    /// `umount MOUNTPOINT` end it. Root mounts by itself; other users need `fusermount3` (package fuse3).
    // These options are refused with the reason.
    #[command(mut_arg("sandbox", |option| option.hide(true)))]
    #[command(mut_arg("uid_map", |option| option.hide(true)))]
    #[command(mut_arg("gid_map", |option| option.hide(true)))]
    Mount(Box<MountArgs>),
    /// Explain policies: what a guest may do, and what that needs of the host.
    #[command(arg_required_else_help = false)]
    Policy(PolicyArgs),
}

/// Options of `serve`.
#[derive(Args, Debug, Default)]
pub struct ServeArgs {
    /// Directory to share.
    #[arg(long, value_name = "DIR", help_heading = "Share")]
    pub shared_dir: Option<PathBuf>,
    /// Name of the share in the guest, 1 to 36 bytes [default: pinhole].
    ///
    /// The guest mounts it by this name: `mount -t virtiofs TAG DIR`. QEMU ignores it and uses its own
    /// `-device ...,tag=`; crosvm and User-mode Linux take it from here.
    #[arg(long, value_name = "TAG", help_heading = "Share")]
    pub tag: Option<String>,

    /// Socket to make and listen on; a stale one is replaced.
    #[arg(long, value_name = "SOCKET", help_heading = "Connection")]
    pub socket_path: Option<PathBuf>,
    /// The old name of `--socket-path`.
    #[arg(long, value_name = "SOCKET", hide = true)]
    pub socket: Option<PathBuf>,
    /// Group that may connect to the socket too; a name or a number.
    #[arg(long, value_name = "GROUP", help_heading = "Connection")]
    pub socket_group: Option<String>,
    /// Descriptor of a listening socket to take over, instead of `--socket-path`.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Connection")]
    pub fd: Option<u16>,
    /// Wait for the next connection when a VMM goes away; without it, that ends the process.
    #[arg(long, help_heading = "Connection")]
    pub keep_listening: bool,
    /// Request queues to offer, 1 to 63.
    ///
    /// A guest uses at most one for each of its processors, and a VMM may ask for fewer than this (QEMU:
    /// `num-request-queues=`). A queue that nobody uses costs nothing.
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 8,
        help_heading = "Connection"
    )]
    #[arg(value_parser = RangedU64ValueParser::<u16>::new().range(1..=limits::REQUEST_QUEUES_MAX as u64))]
    pub num_request_queues: u16,
    /// Threads for requests that wait for the host, 0 to 256 [default: 8].
    ///
    /// Each request queue has a worker that answers what is in memory. What is not (a read of data that is on the
    /// disk, fsync, long copies) goes to these threads, so that it holds up nothing behind it; they are started when
    /// there is such a request. 0: each worker waits for its own requests.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Connection")]
    pub thread_pool_size: Option<u32>,
    /// Microseconds for which a queue's worker looks for the next request before it sleeps, 0 to 1000 [default: 30].
    ///
    /// It does so only while requests have lately come within that time, so a guest that is idle costs nothing. It
    /// saves time where the guest waits for each answer, and costs a processor while it does. 0: never, which is the
    /// default where there is one processor.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Connection")]
    #[arg(value_parser = RangedU64ValueParser::<u32>::new().range(0..=limits::POLL_US_MAX))]
    pub poll_us: Option<u32>,
    /// Bytes of a DAX window through which the guest maps files, a power of two from 2M on, such as 256M; 0: none (the
    /// default).
    ///
    /// The guest then reads and writes the pages that the host has in memory, without a copy of its own, where it mounts
    /// with `-o dax` and the VMM has virtio shared memory (SHMEM of vhost-user). QEMU takes windows up to 512M. The guest
    /// needs 64 bytes of its memory for each 4 KiB. docs/use/dax.md says what works where.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "DAX")]
    pub dax_window: Option<u64>,
    /// Which files the guest is told to map where it mounts with `-o dax=inode`, which is its default [default: auto].
    ///
    /// never: none, as without a window. auto: those from --dax-min-size on that can always be mapped as a whole. always:
    /// every file that can be mapped as it is now.
    #[arg(long, value_name = "WHEN", value_enum, help_heading = "DAX")]
    pub dax: Option<When>,
    /// From how many bytes on a file is mapped under `--dax auto` [default: 1M].
    ///
    /// Each mapped file takes 2 MiB of the window at least.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "DAX")]
    pub dax_min_size: Option<u64>,
    /// Print what this program can do as the vhost-user JSON of libvirt and QEMU, and exit.
    #[arg(long, help_heading = "Connection")]
    pub print_capabilities: bool,

    /// Options about the share.
    #[command(flatten)]
    pub share: ShareArgs,
    /// Options about messages.
    #[command(flatten)]
    pub log: LogArgs,

    /// virtiofsd's old form of its options, `NAME[=VALUE],...`.
    ///
    /// Known are source, cache, sandbox, modcaps, loglevel, timeout, and, each also with `no_` before it, xattr,
    /// posix_acl, writeback, readdirplus, allow_direct_io, announce_submounts, killpriv_v2, posix_lock, flock (either of the
    /// last two is `--locks host`, `no_` of both is `--locks guest`).
    #[arg(short = 'o', value_name = "OPTIONS", help_heading = "Accepted for virtiofsd")]
    pub compat_options: Vec<String>,
    /// No effect: Pinhole always stays in the foreground.
    #[arg(short = 'f', hide = true)]
    pub compat_foreground: bool,
}

/// Options of `mount`.
#[derive(Args, Debug, Default)]
pub struct MountArgs {
    /// Directory to share.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Directory to mount it on.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,
    /// Mount options as of mount(8): ro, rw, nosuid, nodev, noexec, noatime, nodiratime, sync, dirsync.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',', help_heading = "Mount")]
    pub options: Vec<String>,
    /// Threads that serve requests, 1 to 63 [default: one for each processor, at most 4].
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Mount")]
    #[arg(value_parser = RangedU64ValueParser::<u16>::new().range(1..=limits::REQUEST_QUEUES_MAX as u64))]
    pub threads: Option<u16>,
    /// Options about the share.
    #[command(flatten)]
    pub share: ShareArgs,
    /// Options about messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options about the share itself, of `serve` and `mount`.
#[derive(Args, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one field a flag")]
pub struct ShareArgs {
    /// What the guest may do.
    ///
    /// full: all that POSIX offers on a share. share: that, but no device nodes, no overlayfs whiteouts and no
    /// extended attributes trusted.* or security.*. rootfs: read, map, stat and list; every change is EROFS.
    /// `pinhole policy explain --profile share` says it in full.
    #[arg(long, value_name = "PROFILE", value_enum, default_value_t, help_heading = "Share")]
    pub profile: ProfileArg,
    /// A policy file (TOML) that says what the guest may do, where, and how much of it.
    ///
    /// It begins with a profile, allows and denies single operations, has rules by path and limits.
    /// docs/use/policy.md describes it; `pinhole policy explain --policy FILE` says what it comes to.
    #[arg(long, value_name = "FILE", conflicts_with = "profile", help_heading = "Share")]
    pub policy: Option<PathBuf>,
    /// Refuse every change: the guest gets EROFS. Takes from the profile or the policy what changes anything.
    ///
    /// --profile rootfs is narrower: of what changes nothing it leaves out fsync and locks, which a tree to run programs
    /// from does not need, and it lets `security.*` attributes be read, which programs with file capabilities do.
    #[arg(long, help_heading = "Share")]
    pub readonly: bool,
    /// Serve extended attributes.
    #[arg(long, help_heading = "Share")]
    pub xattr: bool,
    /// Serve POSIX access control lists (implies `--xattr`): never, auto or always [without a value: always].
    ///
    /// auto and always both offer them to the guest's kernel; one that knows none goes without.
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    #[arg(help_heading = "Share")]
    pub posix_acl: Option<When>,
    /// Tell the guest which directories are mount points (the default).
    ///
    /// The guest then shows them with device numbers of their own, so that two files with one inode number are not
    /// taken for one file. A mounted single file gets an inode number of its own instead.
    #[arg(long, overrides_with = "no_announce_submounts", help_heading = "Share")]
    pub announce_submounts: bool,
    /// Do not tell the guest which directories are mount points; what is on them gets other inode numbers.
    #[arg(long, overrides_with = "announce_submounts", help_heading = "Share")]
    pub no_announce_submounts: bool,
    /// Drop set-user-id, set-group-id and file capabilities here, on write, truncate and chown (the default).
    #[arg(long, overrides_with = "no_killpriv_v2", help_heading = "Share")]
    pub killpriv_v2: bool,
    /// Leave dropping them to the guest's kernel, which asks for the attribute before each write.
    #[arg(long, overrides_with = "killpriv_v2", help_heading = "Share")]
    pub no_killpriv_v2: bool,
    /// Let the guest mount the share with mapped ids (`mount -o X-mount.idmap=...`); Linux 6.12 or later.
    ///
    /// The guest's kernel then names the calling user only in requests that make a file, on all mounts of the share.
    /// Set-user-id and set-group-id are dropped for root too where the daemon has to know the user (fallocate,
    /// `copy_file_range`); docs/use/compatibility.md has the list.
    #[arg(long, help_heading = "Share")]
    pub allow_idmap: bool,
    /// Open files with `O_NOATIME` where the guest asked for it; without it, the flag is ignored.
    #[arg(long, help_heading = "Share")]
    pub preserve_noatime: bool,

    /// What the guest may cache, and so what it may see late of what other guests and the host change.
    ///
    /// strict: nothing; each access asks the host, and nothing is ever stale. auto: data until the next open, names and
    /// attributes for a second. exclusive: everything, also that a name is not there, for a tree that only this guest
    /// changes. virtiofsd's words: never is strict without shared mappings, always is exclusive that asks again for names
    /// that are not there, metadata keeps names and attributes, but no data. docs/use/coherence.md has the rules.
    #[arg(long, value_name = "MODE", value_enum, default_value_t, help_heading = "Caching")]
    pub cache: CacheArg,
    /// Seconds for which the guest trusts attributes [default: strict and never 0, auto 1, others 86400].
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "Caching")]
    pub attr_timeout: Option<f64>,
    /// Seconds for which the guest trusts a name that it has looked up [default: as --attr-timeout's].
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "Caching")]
    pub entry_timeout: Option<f64>,
    /// Seconds for which the guest trusts that a name is not there [default: exclusive 86400, others 0].
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "Caching")]
    pub negative_timeout: Option<f64>,
    /// Let the guest collect writes and send them later; needs a cache mode that caches data.
    ///
    /// Another guest or the host sees such a write only after an fsync, a close or some 30 seconds. And this guest does
    /// not see how long others make a file that it knows: for files that only this guest writes.
    #[arg(long, help_heading = "Caching")]
    pub writeback: bool,
    /// Open the host's file with `O_DIRECT` where the guest's program did.
    ///
    /// Without it, `O_DIRECT` bypasses the guest's page cache only.
    #[arg(long, help_heading = "Caching")]
    pub allow_direct_io: bool,
    /// Allow shared mappings (`MAP_SHARED`) under `--cache never` and `--cache metadata`.
    ///
    /// The other modes always do. Without a DAX window such a mapping is the guest's own copy in spite of the mode: what
    /// another guest stores shows late in it, or never.
    #[arg(long, help_heading = "Caching")]
    pub allow_mmap: bool,
    /// Who has the locks that the guest's programs take (flock, fcntl, lockf) [default: host; with --cache exclusive or always: guest].
    ///
    /// host: the host, so that programs in other guests and on the host are excluded too. guest: each guest by itself; its
    /// locks mean nothing to others. none: nobody, every lock fails with ENOLCK. Where the policy grants no `lock`, host is as
    /// guest.
    #[arg(long, value_name = "WHERE", value_enum, help_heading = "Share")]
    pub locks: Option<LocksArg>,
    /// Do not send attributes along with the entries of a directory.
    ///
    /// Nor are they sent to a guest that may keep no entry (`--entry-timeout 0`, as with `--cache strict`): it would ask
    /// for each of them again.
    #[arg(long, help_heading = "Caching")]
    pub no_readdirplus: bool,

    /// Open files allowed to this process; 0 leaves the limit alone [default: the hard limit].
    ///
    /// Files that the guest has open take them, and files that it has lately used; the latter are closed for the
    /// former. At the limit, less a reserve, the guest gets ENFILE and everything goes on.
    #[arg(long, allow_negative_numbers = true, value_name = "N", help_heading = "Process")]
    pub rlimit_nofile: Option<u64>,
    /// How files that the guest knows are found again [default: prefer].
    ///
    /// prefer: by the host's file handles, which takes no descriptor for a file that is not in use. They need
    /// CAP_DAC_READ_SEARCH and a file system that has them. Without them, or with never, a file out of use is found
    /// by its name in its directory, and a directory holds a descriptor; so does every file where inode numbers do
    /// not last (FUSE, SMB, 9P, FAT). mandatory: a shared directory without
    /// file handles is not served.
    #[arg(long, value_name = "WHEN", value_enum, help_heading = "Process")]
    pub inode_file_handles: Option<InodeHandlesArg>,
    /// Options about the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Options of virtiofsd that would change what is shared.
    #[command(flatten)]
    pub refused: RefusedArgs,
}

/// Options of virtiofsd that Pinhole does not have and that cannot be ignored.
#[derive(Args, Debug, Default)]
#[expect(missing_docs, reason = "virtiofsd's own names")]
pub struct RefusedArgs {
    #[arg(long, hide = true, value_name = "RULES")]
    pub xattrmap: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pub security_label: Option<When>,
    #[arg(long, hide = true)]
    pub translate_uid: Vec<String>,
    #[arg(long, hide = true)]
    pub translate_gid: Vec<String>,
    #[arg(long, hide = true)]
    pub migration_mode: Option<String>,
    #[arg(long, hide = true)]
    pub migration_on_error: Option<String>,
    #[arg(long, hide = true)]
    pub migration_verify_handles: bool,
    #[arg(long, hide = true)]
    pub migration_confirm_paths: bool,
}

/// Options about messages, of every command.
#[derive(Args, Debug, Default)]
pub struct LogArgs {
    /// Least severe message to write.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t, help_heading = "Log")]
    pub log_level: LogLevel,
    /// Write messages to the system log instead of standard error.
    #[arg(long, help_heading = "Log")]
    pub syslog: bool,
    /// The same as `--log-level debug`.
    #[arg(short = 'd', help_heading = "Log")]
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

/// A hundred years. The kernel's arithmetic on jiffies does not overflow by far.
const SECONDS_MAX: f64 = 100.0 * 366.0 * 86_400.0;
const SECONDS_RIGHT: &str = "give seconds as a number from 0 to 3162240000, such as 0.5";

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
