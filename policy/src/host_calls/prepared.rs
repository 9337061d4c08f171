//! The rows that requests need if the share is a prepared image.
//!
//! The daemon has mapped the image and opened its data files before it gives up its rights. A queue
//! thread reads data that is in memory, and tells the guest and the pool. It needs no name of a
//! file, no descriptor, and no memory but what was reserved at the start.

use super::row::{CallRow, Test, Threads};
use super::table::{ALWAYS, any, flags, long, row};
use crate::{Access, Facilities};

const QUEUE: Threads = Threads::QUEUE;
const OFFLOAD: Threads = Threads::OFFLOAD;

/// The calls that carry out requests.
pub(super) const ROWS: &[CallRow] = &[
    row(
        "preadv2",
        QUEUE,
        any(Access::READ),
        &[flags(5, 8, "RWF_NOWAIT: only what is in memory")],
        "read a data file",
    ),
    row(
        "preadv2",
        QUEUE,
        any(Access::READ).with(Facilities::NO_POOL),
        &[flags(5, 0, "no flags")],
        "read a data file",
    ),
    row("preadv2", OFFLOAD, any(Access::READ), &[flags(5, 0, "no flags")], "read a data file from the disk"),
    row(
        "write",
        QUEUE,
        ALWAYS,
        &[long(2, Test::Is(8), "8 bytes: the counter of an event")],
        "notify the guest or another thread",
    ),
    row(
        "rt_sigreturn",
        QUEUE.union(OFFLOAD),
        ALWAYS,
        &[],
        "answer EIO if a page of the image cannot be read",
    ),
];
