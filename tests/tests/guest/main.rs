//! Do real Linux guests get the results of a local file system?
#![cfg(test)]

mod cases;
mod conformance;
mod dax;
mod harness;
mod host_view;
mod idmap;
mod kata;
mod leases;
mod pause;
mod posix;
mod prepared;
mod privileged_bits;
mod privileges;
mod profiles;
mod report;
mod rootless;
mod sharing;
mod sharing_dax;
mod vmm;
mod workloads;
