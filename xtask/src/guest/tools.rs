//! The part that is built from crates.io: conformance suites and cargo's companions.

use std::path::Path;

use crate::console::say;
use crate::step::{Outcome, run_quietly};
use crate::workspace;

struct Tool {
    name: &'static str,
    version: &'static str,
    options: &'static [&'static str],
}

/// Built without optimization where the program only drives others: that way two cores build cargo-deny in 75 s.
const TOOLS: [Tool; 4] = [
    Tool { name: "pjdfstest", version: "0.2.2", options: &["--profile", "dev"] },
    Tool { name: "fsx", version: "0.3.1", options: &["--profile", "dev"] },
    Tool { name: "cargo-fuzz", version: "0.13.1", options: &["--profile", "dev"] },
    Tool { name: "cargo-deny", version: "0.20.2", options: &["--profile", "dev", "--no-default-features"] },
];

pub(super) fn names() -> Vec<&'static str> {
    TOOLS.iter().map(|tool| tool.name).collect()
}

pub(super) fn key() -> String {
    let describe = |tool: &Tool| format!("{} {} {}\n", tool.name, tool.version, tool.options.join(" "));
    TOOLS.iter().map(describe).collect()
}

/// Installs what is not yet in `place`, a cargo installation root. `build` keeps what an interrupted run had built.
pub(super) fn build(place: &Path, build: &Path) -> Outcome {
    for tool in &TOOLS {
        say(format!("  building {} {}", tool.name, tool.version));
        // cargo itself sees that the version is already installed.
        run_quietly(
            workspace::cargo()
                .args(["install", "--quiet", "--locked", tool.name, "--version", tool.version])
                .args(tool.options)
                .arg("--root")
                .arg(place)
                .arg("--target-dir")
                .arg(build)
                .env("CARGO_PROFILE_DEV_DEBUG", "0"),
        )?;
    }
    super::remove(build)
}
