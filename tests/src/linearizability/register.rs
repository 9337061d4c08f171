//! Model of one byte of a file. One byte is the largest unit that Linux reads and writes atomically
//! with respect to other calls, both with and without the page cache.

use super::Object;

/// Value of the last write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Register(pub u8);

/// Read or write of a register, with the value that it returned or wrote. A client may write each
/// value only once, so that a read of the value shows which write it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    /// Returns this value.
    Read(u8),
    /// Writes this value.
    Write(u8),
}

impl Object for Register {
    type Call = RegisterCall;

    fn after(&self, call: &RegisterCall) -> Option<Self> {
        match call {
            RegisterCall::Read(value) => (self.0 == *value).then_some(*self),
            RegisterCall::Write(value) => Some(Self(*value)),
        }
    }

    /// Returns true for a read, which changes nothing, and for a write whose value no other call
    /// has read.
    fn is_unseen(call: &RegisterCall, others: &[&RegisterCall]) -> bool {
        match call {
            RegisterCall::Read(_) => true,
            RegisterCall::Write(value) => !others.contains(&&RegisterCall::Read(*value)),
        }
    }
}
