//! Mistakes in the command line.

/// A mistake in the command line. Each message names the argument and says what is right.
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
