//! Is data still there after a power loss, a disk error or the kill of a process?
#![cfg(test)]

mod crash;
mod disk_errors;
mod power_loss;
mod syncs;
