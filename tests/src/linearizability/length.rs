//! Model of a file's length: the effect of writes, appends and truncations on it.

use super::Object;

/// Length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Length(pub u64);

/// Call that changes or shows a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthCall {
    /// Truncates or extends to this length.
    Truncate(u64),
    /// Writes one byte at this offset.
    WriteAt(u64),
    /// Appends one byte.
    Append,
    /// Returns this length from stat.
    Stat(u64),
}

impl Object for Length {
    type Call = LengthCall;

    fn after(&self, call: &LengthCall) -> Option<Self> {
        match call {
            LengthCall::Truncate(len) => Some(Self(*len)),
            LengthCall::WriteAt(place) => Some(Self(self.0.max(place + 1))),
            LengthCall::Append => Some(Self(self.0 + 1)),
            LengthCall::Stat(len) => (self.0 == *len).then_some(*self),
        }
    }

    /// Returns true for stat, which changes nothing. A later length may depend on every other call.
    fn is_unseen(call: &LengthCall, _: &[&LengthCall]) -> bool {
        match call {
            LengthCall::Truncate(_) | LengthCall::WriteAt(_) | LengthCall::Append => false,
            LengthCall::Stat(_) => true,
        }
    }
}
