//! Expectations about the answer to one request.

/// Bytes of `fuse_entry_out`.
pub(super) const ENTRY_LEN: usize = 128;

/// Bytes of `fuse_attr_out`.
pub(super) const ATTR_LEN: usize = 104;

pub(super) const ENOENT: i32 = 2;

/// Data beside a request's arguments, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    None,
    /// Of a WRITE.
    Out(usize),
    /// Of a READ.
    In(usize),
    /// Of a READDIRPLUS.
    Listing(usize),
}

/// Which answer is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Success with so many bytes.
    Body(usize),
    /// Success with so many bytes or fewer.
    AtMost(usize),
    /// The name is not there.
    Missing,
}

/// What goes with a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// Room for the fixed part of the answer.
    pub(super) answer_len: usize,
    pub(super) data: Data,
    pub(super) expect: Expect,
}

impl Ask {
    pub(super) const fn none() -> Self {
        Self::body(0)
    }

    /// A fixed answer.
    pub(super) const fn body(len: usize) -> Self {
        Self { answer_len: len, data: Data::None, expect: Expect::Body(len) }
    }

    /// Whole blocks from a file.
    pub(super) const fn data_in(len: usize) -> Self {
        Self { answer_len: 0, data: Data::In(len), expect: Expect::Body(len) }
    }

    /// Data to a file.
    pub(super) const fn data_out(len: usize) -> Self {
        Self { answer_len: 8, data: Data::Out(len), expect: Expect::Body(8) }
    }
}

/// What follows an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// The message just written.
    Send(Ask),
    /// Nothing: the operation is complete.
    Done,
}
