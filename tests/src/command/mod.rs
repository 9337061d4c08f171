//! Parts of the project's own commands, for the crates `xtask` and `pinhole-bench`: output, child
//! processes, and the folders of the workspace.

pub mod console;
pub mod step;
pub mod workspace;
