//! The daemon: the only crate that touches guest memory, sockets and host files.
//!
//! A request goes from `transport` (a checked descriptor chain) to `session` (decode, state, policy
//! check, dispatch, reply) and from there to a `filesystem`. `passthrough` is the file system that
//! serves a host directory, and `prepared` the one that serves an image; `window` is the DAX
//! window. `cli` turns the command line into a configuration and builds the rest.
//! `docs/internals/architecture.md` follows a request through all of it.

pub mod cli;
pub mod file_id;
pub mod filesystem;
pub mod guest_view;
pub mod io_vectors;
pub mod limits;
pub mod log_budget;
pub mod passthrough;
pub mod prepared;
pub mod sandbox;
pub mod session;
pub mod sync;
mod sys;
pub mod threads;
pub mod transport;
pub mod window;
