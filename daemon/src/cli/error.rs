//! Mistakes in the command line.

use crate::transport::vhost_user::TagError;
use std::path::PathBuf;

/// A mistake in the command line. Each message begins with the option and says what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("--shared-dir is missing: give the directory to share, or an image with --prepared")]
    NoDirectory,
    #[error(
        "-o source={}: --shared-dir names another directory, {}: give one of them",
        source_dir.display(), shared_dir.display()
    )]
    TwoDirectories { source_dir: PathBuf, shared_dir: PathBuf },
    #[error("--socket-path is missing: give the socket to create, or --fd N to take over a listening one")]
    NoSocket,
    #[error("{first} and {second} exclude each other: give one")]
    Exclude { first: &'static str, second: &'static str },
    #[error("--socket-path: a path of {len} bytes is too long for the kernel: give at most 107 bytes")]
    SocketPathLong { len: usize },
    #[error(
        "--socket-group {group}: the socket of --fd keeps its owner: give a group with --socket-path only"
    )]
    GroupOfDescriptor { group: String },
    #[error("--tag: {0}")]
    Tag(#[from] TagError),
    #[error("-o {word}: {right}")]
    Compat { word: String, right: String },
    #[error("-o {word}: not a mount option that pinhole knows: use {known}")]
    MountOption { word: String, known: &'static str },
    #[error("--posix-acl needs extended attributes: drop -o no_xattr")]
    AclWithoutXattr,
    #[error("--rlimit-nofile: {limit} is too few: give at least {least}, or 0 to leave the limit alone")]
    FewDescriptors { limit: u64, least: u64 },
    #[error(
        "--dax-window: {} is not a power of two from 2M on: give one such as 256M, or 0 for no window",
        with_unit(*len)
    )]
    WindowLen { len: u64 },
    #[error("{option} needs a window: give --dax-window SIZE too")]
    NoWindow { option: &'static str },
    #[error(
        "{option} (-o timeout=): {seconds} contradicts --cache strict, in which nothing is stale: give 0, or use \
         --cache auto"
    )]
    Stale { option: &'static str, seconds: String },
    #[error("{option} needs an image: give --prepared IMAGE")]
    NoImage { option: &'static str },
    #[error(
        "--prepared: {}: only one image can be served; merge them, the lowest layer first: \
         `pinhole prepare {} -o IMAGE` keeps their files as data files",
        listed(images, ", "),
        listed(images, " ")
    )]
    SeveralImages { images: Vec<PathBuf> },
    #[error("{option} and --prepared exclude each other: {why}")]
    WithImage { option: &'static str, why: &'static str },
    #[error("{option}: {why}")]
    Sandbox { option: &'static str, why: String },
}

/// Returns paths with a text between each two.
fn listed(paths: &[PathBuf], between: &str) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(between)
}

/// Returns a number of bytes as an option takes it, with the largest unit that divides it.
fn with_unit(bytes: u64) -> String {
    let units = [("T", 40_u32), ("G", 30), ("M", 20), ("K", 10), ("", 0)];
    let unit = units.into_iter().find(|(_, shift)| bytes.trailing_zeros() >= *shift).unwrap_or_default();
    format!("{}{}", bytes >> unit.1, unit.0)
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
