//! The sandbox: restrictions that hold even if a guest takes control of the daemon.
//!
//! The order is fixed:
//!
//! 1. [`Plan::isolate`] needs all rights and a process of one thread. It splits the process in two,
//!    and gives the serving one namespaces and a root directory that is the share.
//! 2. [`Inside::confine`] drops capabilities, and sets limits and Landlock rules. It comes before
//!    the first file of the share is opened, and before there is a second thread.
//! 3. [`Filters`] come last, one for each kind of thread, before the first byte of a guest is read.
//!
//! The supervisor, which stays outside, has given up its rights by then too
//! ([`UnconfinedSupervisor::confine`]). The tables in `policy` say which rights a share needs; no
//! code here names an operation of a guest.

mod capabilities;
mod error;
mod filter;
mod id_maps;
mod landlock;
mod missing;
mod namespaces;
mod plan;
mod privileges;
mod processes;
mod supervisor;
mod threads;

pub use capabilities::{CapabilityChanges, CapabilityError};
pub use error::SandboxError;
pub use filter::{Filters, OnForbidden};
pub use id_maps::{IdMap, IdMapError, IdMaps};
pub use missing::{Layers, MissingFeature};
pub use namespaces::HostPlaces;
pub use plan::{Isolation, Plan};
pub use processes::{Confined, Inside, Side};
pub use supervisor::{ServingExit, Supervisor, UnconfinedSupervisor};
