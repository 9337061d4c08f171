//! Command line of `cargo xtask crash`.

use std::num::NonZero;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pinhole_tests::command::step::{Failure, Outcome};
use pinhole_tests::command::workspace;
use pinhole_tests::disk_faults::FileSystem;

use crate::case::Case;
use crate::disk::states::Bounds;
use crate::drive::subject::{Subject, Tested};
use crate::generate::chance;
use crate::generate::sequences::{self, Selection, Shard};
use crate::litmus;
use crate::program::Program;

/// Folder of the litmus files, from the root of the workspace.
const LITMUS: &str = "tests/crash/litmus";

/// Options of `cargo xtask crash`. Without a subject, `pinhole` is tested in its cache modes.
#[derive(Debug, Args)]
pub(crate) struct CrashArguments {
    /// File systems, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "ext4")]
    pub(crate) fs: Vec<Kind>,
    /// Test a FUSE server: a command with {dir} and {mountpoint}
    #[arg(long, value_name = "COMMAND", help_heading = "Subjects")]
    pub(crate) mount: Vec<String>,
    /// Test a vhost-user daemon: a command with {dir} and {socket}, and perhaps {virtiofsd}
    #[arg(long, value_name = "COMMAND", help_heading = "Subjects")]
    pub(crate) daemon: Vec<String>,
    /// Test the file system itself: a second run must keep the facts of the first one
    #[arg(long, help_heading = "Subjects")]
    pub(crate) native: bool,
    /// Test the file system without any sync, which must lose data
    #[arg(long, help_heading = "Subjects")]
    pub(crate) native_unsynced: bool,
    /// Modes in which pinhole is tested
    #[arg(long, value_name = "MODES", value_delimiter = ',', help_heading = "Subjects")]
    pub(crate) cache: Vec<CacheMode>,
    /// How pinhole is reached
    #[arg(long, value_name = "WAY", default_value = "daemon", help_heading = "Subjects")]
    pub(crate) via: Via,
    /// Play this program: operations separated by `;`, after those of the setup and the word `run`
    #[arg(long, value_name = "TEXT", help_heading = "Programs")]
    pub(crate) program: Vec<Program>,
    /// Play this litmus file, or all of a folder
    #[arg(long, alias = "replay", value_name = "PATH", help_heading = "Programs")]
    pub(crate) litmus: Vec<PathBuf>,
    /// Play all programs of so many operations
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2), help_heading = "Programs")]
    pub(crate) depth: Option<u8>,
    /// Play only part I of N parts of them
    #[arg(
        long,
        value_name = "I/N",
        default_value = "1/1",
        hide_default_value = true,
        help_heading = "Programs"
    )]
    pub(crate) shard: Shard,
    /// Play only so many of them, chosen by --seed
    #[arg(long, value_name = "N", help_heading = "Programs")]
    pub(crate) sample: Option<usize>,
    /// Play so many random programs
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = "Programs")]
    pub(crate) random: usize,
    /// Number of operations of a random program
    #[arg(long, value_name = "N", default_value_t = 6, help_heading = "Programs")]
    pub(crate) length: usize,
    /// Largest number of crash states for each program
    #[arg(long, value_name = "N", default_value_t = 12, help_heading = "Bounds")]
    pub(crate) states: usize,
    /// Number that selects crash states and random programs
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Bounds")]
    pub(crate) seed: u64,
    /// Threads [default: one per CPU]
    #[arg(long, value_name = "N", help_heading = "Bounds")]
    pub(crate) threads: Option<NonZero<usize>>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) json: Option<PathBuf>,
    /// Write the results as Markdown
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) markdown: Option<PathBuf>,
    /// Only measure how many crash states are checked in a second
    #[arg(long)]
    pub(crate) rate: bool,
}

/// File system by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    /// Returns the file system.
    pub(crate) const fn file_system(self) -> FileSystem {
        match self {
            Self::Ext4 => FileSystem::Ext4,
            Self::Xfs => FileSystem::Xfs,
            Self::Btrfs => FileSystem::Btrfs,
        }
    }
}

/// Way to reach pinhole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// vhost-user, with a guest that has no cache.
    Daemon,
    /// /dev/fuse, with the caches of this host's kernel.
    Mount,
}

/// Cache mode of pinhole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheMode {
    Strict,
    Auto,
    Exclusive,
    /// `auto` with `--writeback`.
    Writeback,
    Never,
}

impl CacheMode {
    /// Returns pinhole in this mode.
    fn tested(self, program: &impl std::fmt::Display, via: Via) -> Tested {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let options = self.options();
        // The guest at the wire has no cache that could collect writes.
        match if self == Self::Writeback { Via::Mount } else { via } {
            Via::Daemon => Tested::new(
                &format!("pinhole {name}"),
                &format!("--cache={name}"),
                Subject::Daemon(format!(
                    "{program} --shared-dir {{dir}} --socket-path {{socket}} --xattr {options}"
                )),
            ),
            Via::Mount => Tested::new(
                &format!("pinhole mount {name}"),
                &format!("--via=mount --cache={name}"),
                Subject::Mount(format!("{program} mount --xattr {options} {{dir}} {{mountpoint}}")),
            ),
        }
    }

    /// Returns the options of pinhole.
    const fn options(self) -> &'static str {
        match self {
            Self::Strict => "--cache=strict",
            Self::Auto => "--cache=auto",
            Self::Exclusive => "--cache=exclusive",
            Self::Writeback => "--cache=auto --writeback",
            Self::Never => "--cache=never",
        }
    }
}

impl CrashArguments {
    /// Returns the subjects.
    ///
    /// # Errors
    /// Fails if pinhole was not built.
    pub(crate) fn subjects(&self) -> Outcome<Vec<Tested>> {
        let mut subjects = Vec::new();
        if self.native {
            subjects.push(Tested::new("native", "--native", Subject::Native));
        }
        if self.native_unsynced {
            subjects.push(Tested::new("native without syncs", "--native-unsynced", Subject::NativeUnsynced));
        }
        for command in &self.mount {
            subjects.push(Tested::new(
                command,
                &format!("--mount '{command}'"),
                Subject::Mount(command.clone()),
            ));
        }
        for command in &self.daemon {
            subjects.push(Tested::new(
                command,
                &format!("--daemon '{command}'"),
                Subject::Daemon(command.clone()),
            ));
        }
        let modes = if subjects.is_empty() && self.cache.is_empty() {
            &[CacheMode::Strict, CacheMode::Auto][..]
        } else {
            &self.cache
        };
        for mode in modes {
            subjects.push(mode.tested(&pinhole()?.display(), self.via));
        }
        Ok(subjects)
    }

    /// Returns the cases. Without any option, all litmus files and all programs of one operation.
    ///
    /// # Errors
    /// Fails with the first mistake in a litmus file.
    pub(crate) fn cases(&self) -> Outcome<Vec<Case>> {
        let is_default =
            self.program.is_empty() && self.litmus.is_empty() && self.depth.is_none() && self.random == 0;
        let mut cases = Vec::new();
        for path in &self.litmus {
            cases.extend(litmus::read(path)?);
        }
        if is_default {
            cases.extend(litmus::read(&workspace::root().join(LITMUS))?);
        }
        let mut programs = self.program.clone();
        let selection = Selection { shard: self.shard, sample: self.sample, seed: self.seed };
        let depth = self.depth.or(is_default.then_some(1));
        programs.extend(depth.into_iter().flat_map(|depth| sequences::programs(depth, selection)));
        programs.extend(chance::programs(self.random, self.length, self.seed));
        cases.extend(programs.into_iter().map(Case::generated));
        Ok(cases)
    }

    /// Returns the bounds on the crash states of a program.
    pub(crate) const fn bounds(&self) -> Bounds {
        Bounds { states: self.states, seed: self.seed }
    }

    /// Returns the number of threads.
    pub(crate) fn threads(&self) -> usize {
        self.threads
            .map_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get), NonZero::get)
    }
}

/// Returns the program `pinhole`: `PINHOLE_BIN`, or the one beside this program.
fn pinhole() -> Outcome<PathBuf> {
    if let Some(named) = std::env::var_os("PINHOLE_BIN") {
        return Ok(named.into());
    }
    let own = std::env::current_exe().map_err(Failure::io("cannot find this program"))?;
    let path = own.with_file_name("pinhole");
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(format!("{} is missing: start the suite with `cargo xtask crash`", path.display())))
}
