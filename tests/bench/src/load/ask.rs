//! Data and expected reply of one request.

/// Length of `fuse_entry_out`, in bytes.
pub(super) const ENTRY_LEN: usize = 128;

/// Length of `fuse_attr_out`, in bytes.
pub(super) const ATTR_LEN: usize = 104;

/// Length of `fuse_open_out`, in bytes.
pub(super) const OPENED_LEN: usize = 16;

/// Errno of a missing name (`errno.h`).
pub(super) const ENOENT: i32 = 2;

/// Errno of an operation that the daemon does not have.
pub(super) const ENOSYS: i32 = 38;

/// Data beside the arguments of a request, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// No data.
    None,
    /// Data of a WRITE.
    Out(usize),
    /// Data of a READ.
    In(usize),
    /// Data of a READDIRPLUS.
    Listing(usize),
}

/// Expected reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Success with this length in bytes.
    Body(usize),
    /// Success with at most this length in bytes.
    AtMost(usize),
    /// The name does not exist.
    Missing,
    /// `fuse_open_out`, or ENOSYS: the guest opens files and directories by itself from then on, as
    /// Linux does.
    Opened,
}

/// Data and expected reply of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// Length of the fixed part of the reply, in bytes.
    pub(super) reply_len: usize,
    pub(super) data: Data,
    pub(super) expect: Expect,
}

impl Ask {
    /// Expects a reply without a body.
    pub(super) const fn none() -> Self {
        Self::body(0)
    }

    /// Expects a reply of fixed length.
    pub(super) const fn body(len: usize) -> Self {
        Self { reply_len: len, data: Data::None, expect: Expect::Body(len) }
    }

    /// Expects the reply to OPEN or OPENDIR.
    pub(super) const fn opened() -> Self {
        Self { reply_len: OPENED_LEN, data: Data::None, expect: Expect::Opened }
    }

    /// Expects `len` bytes of a file.
    pub(super) const fn data_in(len: usize) -> Self {
        Self { reply_len: 0, data: Data::In(len), expect: Expect::Body(len) }
    }

    /// Sends `len` bytes to a file.
    pub(super) const fn data_out(len: usize) -> Self {
        Self { reply_len: 8, data: Data::Out(len), expect: Expect::Body(8) }
    }
}

/// Action after a reply.
#[derive(Clone, Copy, Debug)]
pub(super) enum NextStep {
    /// Send the message that was written.
    Send(Ask),
    /// The operation is complete.
    Done,
}
