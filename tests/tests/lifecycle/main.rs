//! Does the daemon start, stop, pause and end correctly, whatever its VMM and its host do
//! meanwhile?
#![cfg(test)]

mod at_rest;
mod crashes;
mod log;
mod memory;
mod pauses;
mod sessions;
mod sockets;
mod stops;
