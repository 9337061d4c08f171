//! Is data still there after a loss of power, a disk error or a killed process?
#![cfg(test)]

mod crash;
mod disk_errors;
mod power_loss;
mod syncs;
