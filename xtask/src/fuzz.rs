//! `cargo xtask fuzz`: every target of fuzz/ for a while, each from its seed corpus.
//!
//! cargo-fuzz runs on a stable compiler without a sanitizer; panics, overflows and the targets' own assertions are
//! what it finds that way.

use std::fs;
use std::path::Path;
use std::process::Command;

use pinhole_tests::guest::Pieces;

use crate::console::say;
use crate::guest::{Part, ensure, remove};
use crate::step::{Failure, Outcome, run};
use crate::workspace;

/// For how long, and what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The seed of its random choices; 0 takes a new one each time
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Only this target
    target: Option<String>,
    /// From an empty corpus, and for a number of inputs rather than seconds
    #[arg(skip)]
    among_tests: bool,
}

impl Arguments {
    /// Every target, from a seed that stays, an empty corpus, and for as many inputs on every machine: a faster one must
    /// not be the first to find what is wrong.
    pub(crate) fn among_tests() -> Self {
        Self { seconds: TEST_SECONDS_MAX, seed: TEST_SEED, target: None, among_tests: true }
    }
}

/// Any number will do, if it is always the same.
const TEST_SEED: u32 = 20_807;

/// A target that is ten times as slow as it was ends all the same.
const TEST_SECONDS_MAX: u32 = 200;

/// How many inputs, where that is given: twenty seconds of the slowest target, which makes a directory for each. To decode a
/// message takes two microseconds.
fn runs(target: &str, arguments: &Arguments) -> Option<u32> {
    arguments.among_tests.then_some(if target == "decode_request" { 2_000_000 } else { 25_000 })
}

pub(crate) fn main(arguments: &Arguments) -> Outcome {
    ensure(&[Part::Tools])?;
    let targets = match &arguments.target {
        Some(target) => vec![target.clone()],
        None => targets(&workspace::root())?,
    };
    build(arguments.target.as_deref())?;
    let mut failed = Vec::new();
    for target in &targets {
        let inputs =
            runs(target, arguments).map_or_else(String::new, |runs| format!("{runs} inputs in at most "));
        say(format!("fuzz target {target}, {inputs}{} s, seed {}", arguments.seconds, arguments.seed));
        if let Err(failure) = one(target, arguments) {
            say(&failure);
            failed.push(target.as_str());
        }
    }
    say(format!("{} passed, {} failed", targets.len() - failed.len(), failed.len()));
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("failed fuzz targets: {}", failed.join(", "))))
    }
}

/// The targets are the files of fuzz/fuzz_targets.
fn targets(root: &Path) -> Outcome<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let files = fs::read_dir(&folder).map_err(Failure::io(format!("cannot list {}", folder.display())))?;
    let mut targets: Vec<String> = files
        .filter_map(Result::ok)
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    if targets.is_empty() {
        return Err(Failure::new(format!("{} has no target", folder.display())));
    }
    Ok(targets)
}

/// Builds one target, or all at once: each by itself would leave a core idle.
fn build(target: Option<&str>) -> Outcome {
    run(cargo_fuzz("build")?.args(target))
}

/// `cargo fuzz VERB`, on a stable compiler and in the build folder. Each crate in sixteen pieces: in one, as cargo-fuzz
/// has it by itself, the big crates would be compiled one after another on one core.
fn cargo_fuzz(verb: &str) -> Outcome<Command> {
    let program = Pieces::locate().tool("cargo-fuzz").map_err(|error| Failure::new(error.to_string()))?;
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        .args(["fuzz", verb, "--sanitizer", "none", "--codegen-units", "16", "--target-dir"])
        .arg(workspace::target().join("fuzz"));
    Ok(command)
}

/// New inputs go to a corpus in the build folder; the seeds, which are part of the project, are only read.
fn one(target: &str, arguments: &Arguments) -> Outcome {
    let mut corpus = workspace::target().join("fuzz-corpus").join(target);
    if arguments.among_tests {
        corpus = workspace::target().join("fuzz-corpus/of-tests").join(target);
        remove(&corpus)?;
    }
    fs::create_dir_all(&corpus).map_err(Failure::io(format!("cannot make {}", corpus.display())))?;
    let root = workspace::root();
    let seeds = root.join("fuzz/corpus").join(target);
    if !seeds.is_dir() {
        return Err(Failure::new(format!("{} is missing: a target needs seeds", seeds.display())));
    }
    let mut command = cargo_fuzz("run")?;
    command
        .arg(target)
        .args([&corpus, &seeds])
        .arg("--")
        .arg(format!("-max_total_time={}", arguments.seconds))
        .arg(format!("-seed={}", arguments.seed))
        .args(runs(target, arguments).map(|runs| format!("-runs={runs}")))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1"]);
    run(&mut command).map_err(|failure| match newest_artifact(&root.join("fuzz/artifacts").join(target)) {
        Some(artifact) => Failure::new(format!(
            "{failure}the input is {artifact}; run it again with `cargo fuzz run --sanitizer none {target} {artifact}`"
        )),
        None => failure,
    })
}

fn newest_artifact(folder: &Path) -> Option<String> {
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let newest = files.max_by_key(|file| file.metadata().and_then(|metadata| metadata.modified()).ok())?;
    Some(newest.path().display().to_string())
}
