//! Which file range sits where in the DAX window. Pure: no I/O, no knowledge of guests or hosts.
//!
//! [`Mappings`] is the table: it takes what SETUPMAPPING and REMOVEMAPPING ask for and says, step by step, what the
//! front-end has to be told (`SHMEM_MAP`, `SHMEM_UNMAP` of the vhost-user specification). [`Capabilities`] is what a
//! front-end has shown that it can do, [`Candidate::judge`] whether a file should be offered for mapping at all, and
//! [`model`] a front-end to test against. Nothing here touches memory of the window, and no byte of it.
//!
//! # The rules of the table
//!
//! Linux (`fs/fuse/dax.c`) cuts the window into slots of 2 MiB, asks for a slot as a whole, always at the same offset,
//! and gives it to another file when it has removed the first, or believes so: it warns of a REMOVEMAPPING that failed
//! and uses the slot again. Other drivers may do otherwise, hostile ones do anything.
//!
//! - **What is there already** (same place, node and file offset, no more rights than given) is answered without a
//!   message to the front-end.
//! - **Read-only becomes writable** in place where the front-end replaces a mapping by one over it; else the old is
//!   taken out first, and put back if the new one is refused. Between the two the guest's other processors find nothing
//!   in the range; [`Capabilities::map_writable`] says when to avoid that by mapping writable from the beginning.
//! - **Something else in the way** is taken out first, each mapping exactly as it was made, since QEMU unmaps nothing
//!   else. If the new one is then refused, the range stays empty: the guest has given up what was there, and
//!   `mmap(MAP_FIXED)` behaves the same.
//! - **A mapping that sticks out** of the range of a SETUPMAPPING or of an entry of a REMOVEMAPPING: EINVAL, and nothing
//!   is changed. To take out the whole mapping would pull memory from under a guest that was not told; to keep its rest
//!   would need the front-end to cut a mapping in two, which QEMU does not. A guest that gets the error knows what it
//!   has, and Linux never asks for it.
//! - **Nothing there** to remove is success, as with every peer. An entry of no length or outside of the window is
//!   EINVAL; no length means "all" (that was a message between an old virtiofsd and QEMU, never one of FUSE).
//! - **An unmap that fails** leaves the range taken: the front-end may or may not have it still. It counts, it is never
//!   answered as there, and nothing else is recorded over it unless the front-end has accepted the very same range
//!   anew and is known to refuse or to replace what was there ([`Overlap`]): then that shows that the old is gone.
//! - **Several entries**: all are checked before one is removed; then a failure does not keep the rest from being
//!   removed, since Linux takes them all for removed whatever the answer is.
//!
//! Whose node the header of a REMOVEMAPPING names is not looked at: the window belongs to the guest as a whole.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod candidate;
mod capabilities;
mod error;
mod geometry;
mod mappings;
pub mod model;
mod table;

pub use candidate::{Candidate, FileKind, Judgement, Mode, Unmappable};
pub use capabilities::{Capabilities, Overlap, QEMU_MAPPINGS_MAX, REPLACING_MAPPINGS_MAX};
pub use error::{DaxError, Failure};
pub use geometry::{
    ALIGNMENT_SHIFT_MAX, ALIGNMENT_SHIFT_MIN, Geometry, GeometryError, Mapping, SLOT_LEN, Wanted, WindowRange,
};
pub use mappings::{Action, FrontEnd, Mapper, Mappings, Next, Step};
