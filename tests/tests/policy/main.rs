//! Does the daemon do what its command line, its policy and its sandbox say, and nothing else?
#![cfg(test)]

mod combinations;
mod command;
mod command_line;
mod denied;
mod host_calls;
mod layers;
mod limits;
mod paths;
mod sandbox;
mod system_calls;
mod traced;
