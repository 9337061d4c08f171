//! The typed arguments of `pinhole policy`, and the text of its help.

use clap::{Args, Subcommand, ValueEnum};
use pinhole_policy::{ACCESSES, Access, suggested};
use std::path::PathBuf;

/// A question about policies.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum PolicyCommand {
    /// Print what a policy grants, and what it needs of the host.
    ///
    /// Prints the granted operations, the denied operations and the error that each of them
    /// returns, the rules by path, and the limits. Then prints what the policy needs of the host:
    /// system calls by kind of thread, capabilities and Landlock rights. Each system call is listed
    /// with the conditions on its arguments and with the operations that need it. The answer is for
    /// a daemon that root starts with the default options and --xattr.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
    /// Say whether an operation is allowed at a path, and by which rule.
    ///
    /// For an operation on a name (create, mkdir, unlink, rename, ...), give the path of the name.
    /// A file with several hard links may be used only as the rules of all its names allow.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Say how two policies differ.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(DiffArgs),
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  pinhole policy explain
  pinhole policy explain prepared
  pinhole policy explain --policy /etc/pinhole/web.toml --json

Exit status:
  0  the policy was explained
  2  the command line or the policy file is wrong; one line says where, and what is accepted";

const CHECK_EXAMPLES: &str = "\
Examples:
  pinhole policy check web.toml --path /etc/passwd --operation write
  pinhole policy check rootfs --path / --operation list

Exit status:
  0  the operation is allowed
  1  it is denied, or not served by this version
  2  the command line or the policy file is wrong; one line says where, and what is accepted";

const DIFF_EXAMPLES: &str = "\
Examples:
  pinhole policy diff full share
  pinhole policy diff share web.toml

Exit status:
  0  both grant the same
  1  they differ
  2  the command line or a policy file is wrong; one line says where, and what is accepted";

/// A profile, as an option takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "explained at --profile")]
pub enum ProfileArg {
    Full,
    #[default]
    Share,
    Rootfs,
    Prepared,
}

impl From<ProfileArg> for pinhole_policy::Profile {
    fn from(profile: ProfileArg) -> Self {
        match profile {
            ProfileArg::Full => Self::Full,
            ProfileArg::Share => Self::Share,
            ProfileArg::Rootfs => Self::Rootfs,
            ProfileArg::Prepared => Self::Prepared,
        }
    }
}

/// Options of `policy explain`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ExplainArgs {
    /// A policy file, or the name of a profile.
    #[arg(value_name = "FILE", conflicts_with_all = ["profile", "policy"])]
    pub subject: Option<PathBuf>,
    /// The profile to explain.
    #[arg(long, value_name = "PROFILE", value_enum, default_value_t)]
    pub profile: ProfileArg,
    /// The policy file to explain.
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    pub policy: Option<PathBuf>,
    /// Explain the policy under --readonly: without operations that change something.
    #[arg(long)]
    pub readonly: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `policy check`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CheckArgs {
    /// A policy file, or the name of a profile.
    #[arg(value_name = "FILE")]
    pub policy: PathBuf,
    /// The path, from the share's root.
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    pub path: SharePath,
    /// The operation; `pinhole policy explain` lists them.
    #[arg(long, value_name = "OPERATION", value_parser = parse_operation)]
    pub operation: Access,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `policy diff`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct DiffArgs {
    /// A policy file, or the name of a profile.
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The other policy file, or the name of a profile.
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A path of a share: its components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharePath(pub Vec<String>);

impl std::fmt::Display for SharePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.0.join("/"))
    }
}

fn parse_path(text: &str) -> Result<SharePath, String> {
    let below = text.strip_prefix('/').ok_or("a path begins with /, the root of the share")?;
    if below.is_empty() {
        return Ok(SharePath(Vec::new()));
    }
    let components: Vec<_> = below.split('/').map(str::to_owned).collect();
    if components.iter().any(|name| matches!(name.as_str(), "" | "." | "..")) {
        return Err("no component is empty, . or ..".to_owned());
    }
    Ok(SharePath(components))
}

fn parse_operation(text: &str) -> Result<Access, String> {
    Access::named(text).ok_or_else(|| {
        let known: Vec<_> = ACCESSES.iter().map(|row| row.name).collect();
        format!("unknown operation {}", suggested(text, &known))
    })
}
