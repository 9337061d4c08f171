//! Model of one byte of a file: the largest piece that Linux reads and writes in one step beside
//! others, with or without the page cache.

use super::Object;

/// What was written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Register(pub u8);

/// A call on a register. Values are written once each.
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
