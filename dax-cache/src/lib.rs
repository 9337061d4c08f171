//! The table of a DAX window: which range of which file is mapped at which place in the window.
//!
//! The crate does no I/O and never accesses the memory of the window.
//!
//! - [`Mappings`] is the table. It takes SETUPMAPPING and REMOVEMAPPING requests and returns, step
//!   by step, the messages for the front-end (`SHMEM_MAP` and `SHMEM_UNMAP` of the vhost-user
//!   specification).
//! - [`Capabilities`] says what a front-end can do.
//! - [`Candidate::decide`] decides whether a file is offered to the guest for mapping.
//! - [`model`] has a front-end for tests.
//!
//! # Rules of the table
//!
//! Linux (`fs/fuse/dax.c`) divides the window into slots of 2 MiB. It maps whole slots only, always
//! at the same offsets. Before it uses a slot for another file, it sends a REMOVEMAPPING for the
//! old mapping. If that fails, Linux only logs a warning and uses the slot anyway. Other
//! drivers may behave differently, and a hostile guest may send any request.
//!
//! - **The mapping exists already** (same place, node and file offset, and at least the requested
//!   rights): success without a message to the front-end.
//! - **Read-only becomes writable** in place if the front-end replaces an existing mapping by a new
//!   one. Otherwise the old mapping is removed first, and restored if the front-end refuses the new
//!   mapping. In between, the other processors of the guest find nothing in the range.
//!   [`Capabilities::map_writable`] says when to avoid this by mapping writable from the start.
//! - **Another mapping in the range** is removed first. Each removal names the exact range of one
//!   mapping, because QEMU accepts no other range. If the front-end then refuses the new mapping,
//!   the range stays empty: the guest has given up the old mapping, and `mmap(MAP_FIXED)` behaves
//!   the same.
//! - **A mapping partly inside and partly outside** the range of a SETUPMAPPING, or of an entry of
//!   a REMOVEMAPPING: EINVAL, and nothing changes. To remove the whole mapping would take memory
//!   away from a guest that did not ask for it. To keep a part, the front-end would have to split a
//!   mapping, which QEMU cannot do. After the error, the guest knows that its mappings are
//!   unchanged. Linux never sends such a request.
//! - **No mapping to remove**: success, as in all other servers. An entry that is empty or outside
//!   the window is EINVAL. No length stands for the whole window. An old virtiofsd could send QEMU
//!   such a length, but FUSE never had one.
//! - **A failed unmap** leaves the range taken, because the front-end may still have the mapping.
//!   The range counts against the budget and never satisfies a request. Another mapping is recorded
//!   over it only if the front-end has accepted exactly the same range and is known to refuse or
//!   replace existing mappings ([`Overlap`]). In both cases the acceptance shows that the old
//!   mapping is gone.
//! - **Several entries**: all are checked before the first is removed. After that, a failure does
//!   not stop the removal of the others, because Linux regards all as removed in any case.
//!
//! The node in the header of a REMOVEMAPPING is ignored, because the window belongs to the guest as
//! a whole.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod candidate;
mod capabilities;
mod error;
mod geometry;
mod mappings;
pub mod model;
mod table;

pub use candidate::{Candidate, Decision, FileKind, Mode, Unmappable};
pub use capabilities::{Capabilities, Overlap, QEMU_MAPPINGS_MAX, REPLACING_MAPPINGS_MAX};
pub use error::{DaxError, Failure};
pub use geometry::{
    ALIGNMENT_SHIFT_MAX, ALIGNMENT_SHIFT_MIN, Geometry, GeometryError, Mapping, SLOT_LEN, Wanted, WindowRange,
};
pub use mappings::{Action, FrontEnd, Mapper, Mappings, Next, Step};
