//! Part of a guest that is built from crates.io: conformance suites and cargo tools.

use std::path::Path;
use std::{fs, io};

use super::part::remove_folder;
use crate::console::say;
use crate::step::{Failure, Outcome, run_quietly};
use crate::workspace;

/// Package of crates.io that is built on this host.
struct Tool {
    name: &'static str,
    version: &'static str,
    /// Options of `cargo install`.
    options: &'static [&'static str],
}

/// Tools with their versions. A tool whose own speed does not matter is built without optimization,
/// which saves build time: two cores build cargo-deny in 75 s.
const TOOLS: [Tool; 4] = [
    Tool { name: "pjdfstest", version: "0.2.2", options: &["--profile", "dev"] },
    Tool { name: "fsx", version: "0.3.1", options: &[] },
    Tool { name: "cargo-fuzz", version: "0.13.1", options: &["--profile", "dev"] },
    Tool { name: "cargo-deny", version: "0.20.2", options: &["--profile", "dev", "--no-default-features"] },
];

/// Returns the names of all tools.
pub(super) fn names() -> Vec<&'static str> {
    TOOLS.iter().map(|tool| tool.name).collect()
}

/// Returns the key of the part: name, version and options of each tool, one tool a line.
pub(super) fn key() -> String {
    let describe = |tool: &Tool| format!("{} {} {}\n", tool.name, tool.version, tool.options.join(" "));
    TOOLS.iter().map(describe).collect()
}

/// Installs the tools that are missing into `building`, a cargo installation root.
///
/// Tools that are already in `place`, the root in use, are copied. `target_dir` keeps what an
/// interrupted run had compiled.
pub(super) fn build(building: &Path, place: &Path, target_dir: &Path) -> Outcome {
    if place.exists() && !building.exists() {
        copy_installed(place, building)
            .map_err(Failure::io("cannot copy the tools that are already built"))?;
    }
    for tool in &TOOLS {
        say(format!("  building {} {}", tool.name, tool.version));
        // cargo skips a version that is already installed.
        run_quietly(
            workspace::cargo()
                .args(["install", "--quiet", "--locked", tool.name, "--version", tool.version])
                .args(tool.options)
                .arg("--root")
                .arg(building)
                .arg("--target-dir")
                .arg(target_dir)
                .env("CARGO_PROFILE_DEV_DEBUG", "0"),
        )?;
    }
    remove_folder(target_dir)
}

/// Copies the installed programs from `place` to `building`, and the records of cargo that say how
/// each program was built.
fn copy_installed(place: &Path, building: &Path) -> io::Result<()> {
    fs::create_dir_all(building.join("bin"))?;
    for record in [".crates.toml", ".crates2.json"] {
        fs::copy(place.join(record), building.join(record))?;
    }
    for program in fs::read_dir(place.join("bin"))? {
        let program = program?;
        fs::copy(program.path(), building.join("bin").join(program.file_name()))?;
    }
    Ok(())
}
