//! Model of one byte of a file. Linux reads and writes at most one byte atomically with respect to
//! other calls, with or without the page cache.

use super::Object;

/// Value of the last write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Register(pub u8);

/// Call on a register. Each value is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the values")]
pub enum RegisterCall {
    Read(u8),
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

    fn is_unseen(call: &RegisterCall, others: &[&RegisterCall]) -> bool {
        match call {
            RegisterCall::Read(_) => true,
            RegisterCall::Write(value) => !others.contains(&&RegisterCall::Read(*value)),
        }
    }
}
