//! Does each request get exactly its reply, through the real binary and real virtqueues?
#![cfg(test)]

mod large_files;
mod leases;
mod mount;
mod request_path;
mod waiting;
