//! Folders of the workspace, and the cargo that runs this command.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the folder of the top `Cargo.toml`.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Returns `path` from the root of the workspace, or all of a path outside it.
pub fn within(path: &Path) -> &Path {
    path.strip_prefix(root()).unwrap_or(path)
}

/// Returns a command that starts the cargo which runs this program, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Returns the build folder: `target`, or the value of `CARGO_TARGET_DIR`.
pub fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
