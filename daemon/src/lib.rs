//! The daemon: the only crate that touches guest memory, sockets and host files.
//!
//! One request goes `transport` (a checked descriptor chain) -> `session` (decode, state, gate, operate, answer) ->
//! `host` (the file system), and its answer goes back the same way. `cli` turns what was typed into what is true and
//! builds the rest. `docs/internals/architecture.md` follows a request through all of it.

pub mod bell;
pub mod cli;
pub mod guest_view;
mod handoff;
pub mod host;
pub mod io_vectors;
pub mod limits;
pub mod log_budget;
pub mod sandbox;
pub mod session;
pub mod transport;
mod unshare;
