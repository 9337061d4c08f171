//! Harness of the integration tests: daemons, guests, VMMs and disks. Mount namespaces protect the
//! host's files from a faulty build.

pub mod child;
pub mod command;
#[cfg(feature = "wire")]
pub mod crash;
pub mod daemon;
#[cfg(feature = "wire")]
pub mod dax_vmm;
pub mod disk_faults;
#[cfg(feature = "wire")]
pub mod frontend;
pub mod guest;
pub mod interruption;
pub mod lease;
pub mod linearizability;
pub mod linux;
pub mod mount_namespace;
pub mod mounted;
mod placement;
pub mod program;
pub mod sharing;
#[cfg(feature = "wire")]
pub mod surface;
