//! `cargo xtask fuzz`: runs every target of fuzz/ for a limited time, starting from its seed
//! corpus.
//!
//! cargo-fuzz runs on a stable compiler without a sanitizer. It then finds panics, overflows and
//! failed assertions of the targets.

use std::fs;
use std::path::Path;
use std::process::Command;

use pinhole_tests::guest::Parts;

use crate::console::say;
use crate::guest::{Part, ensure, remove_folder};
use crate::step::{Failure, Outcome, run};
use crate::workspace;

/// Selects the targets and the time.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArguments {
    /// Time for each target, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Seed of the random choices; 0 picks a new seed each time
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Run only this target
    target: Option<String>,
    /// Whether this is the check `fuzz` of `cargo xtask test`. Such a run starts from the seeds
    /// alone, without the inputs that earlier runs found. It stops after a fixed number of inputs.
    #[arg(skip)]
    as_check: bool,
}

impl FuzzArguments {
    /// Returns the arguments of the check `fuzz` in `cargo xtask test`: every target, a fixed seed,
    /// no inputs from earlier runs, and the same number of inputs on every host. So a faster host
    /// finds no fault that a slower host misses.
    pub(crate) fn as_check() -> Self {
        Self { seconds: TEST_SECONDS_MAX, seed: TEST_SEED, target: None, as_check: true }
    }
}

/// Seed for `cargo xtask test`: an arbitrary number that never changes.
const TEST_SEED: u32 = 20_807;

/// Time limit of a target in `cargo xtask test`, in seconds: ten times what the slowest
/// target needs.
const TEST_SECONDS_MAX: u32 = 200;

/// Returns the number of inputs after which `target` stops, or `None` if only the time limits it.
///
/// 25,000 inputs take 20 s in the slowest target, which creates a directory for each input. The
/// target `decode_request` needs 2 us for an input.
fn inputs_max(target: &str, arguments: &FuzzArguments) -> Option<u32> {
    arguments.as_check.then_some(if target == "decode_request" { 2_000_000 } else { 25_000 })
}

/// Runs the selected targets, one after another.
pub(crate) fn main(arguments: &FuzzArguments) -> Outcome {
    ensure(&[Part::Tools])?;
    let targets = match &arguments.target {
        Some(target) => vec![target.clone()],
        None => targets(&workspace::root())?,
    };
    build(arguments.target.as_deref())?;
    let mut failed = Vec::new();
    for target in &targets {
        let inputs = inputs_max(target, arguments)
            .map_or_else(String::new, |count| format!("{count} inputs, at most "));
        say(format!("fuzz target {target}: {inputs}{} s, seed {}", arguments.seconds, arguments.seed));
        if let Err(failure) = run_target(target, arguments) {
            say(&failure);
            failed.push(target.as_str());
        }
    }
    say(format!("fuzz targets: {} passed, {} failed", targets.len() - failed.len(), failed.len()));
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("failed fuzz targets: {}", failed.join(", "))))
    }
}

/// Returns the names of the targets: the files of fuzz/fuzz_targets.
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
        return Err(Failure::new(format!("{} contains no target", folder.display())));
    }
    Ok(targets)
}

/// Builds one target, or all in one build: separate builds would leave a core idle.
fn build(target: Option<&str>) -> Outcome {
    run(cargo_fuzz("build")?.args(target))
}

/// Returns the command `cargo fuzz VERB` for a stable compiler and the build folder.
///
/// Each crate is compiled in 16 codegen units. With one unit, the default of cargo-fuzz, a single
/// core would compile the big crates one after another.
fn cargo_fuzz(verb: &str) -> Outcome<Command> {
    let program = Parts::locate().tool("cargo-fuzz").map_err(|error| Failure::new(error.to_string()))?;
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        .args(["fuzz", verb, "--sanitizer", "none", "--codegen-units", "16", "--target-dir"])
        .arg(workspace::target().join("fuzz"));
    Ok(command)
}

/// Runs one target. New inputs go to a corpus in the build folder. The seeds, which are part of the
/// project, stay as they are.
fn run_target(target: &str, arguments: &FuzzArguments) -> Outcome {
    let mut corpus = workspace::target().join("fuzz-corpus").join(target);
    if arguments.as_check {
        corpus = workspace::target().join("fuzz-corpus/of-tests").join(target);
        remove_folder(&corpus)?;
    }
    fs::create_dir_all(&corpus).map_err(Failure::io(format!("cannot create {}", corpus.display())))?;
    let root = workspace::root();
    let seeds = root.join("fuzz/corpus").join(target);
    if !seeds.is_dir() {
        return Err(Failure::new(format!(
            "{} is missing: each fuzz target needs a folder of seed inputs",
            seeds.display()
        )));
    }
    let mut command = cargo_fuzz("run")?;
    command
        .arg(target)
        .args([&corpus, &seeds])
        .arg("--")
        .arg(format!("-max_total_time={}", arguments.seconds))
        .arg(format!("-seed={}", arguments.seed))
        .args(inputs_max(target, arguments).map(|inputs| format!("-runs={inputs}")))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1"]);
    run(&mut command).map_err(|failure| match newest_artifact(&root.join("fuzz/artifacts").join(target)) {
        Some(artifact) => Failure::new(format!(
            "{failure}The failing input is {artifact}. To run it again: \
             `cargo fuzz run --sanitizer none {target} {artifact}`"
        )),
        None => failure,
    })
}

/// Returns the path of the newest file in a folder of failing inputs.
fn newest_artifact(folder: &Path) -> Option<String> {
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let newest = files.max_by_key(|file| file.metadata().and_then(|metadata| metadata.modified()).ok())?;
    Some(newest.path().display().to_string())
}
