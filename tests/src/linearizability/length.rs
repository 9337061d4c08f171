//! A file's length alone: what writes, appends and truncations make of it.

use super::Object;

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Length(pub u64);

/// A call that changes or shows a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To so many bytes.
    Truncate(u64),
    /// One byte at this place.
    WriteAt(u64),
    /// One byte at the end.
    Append,
    /// What a stat said.
    Stat(u64),
}

impl Object for Length {
    type Call = Call;

    fn after(&self, call: &Call) -> Option<Self> {
        match call {
            Call::Truncate(len) => Some(Self(*len)),
            Call::WriteAt(place) => Some(Self(self.0.max(place + 1))),
            Call::Append => Some(Self(self.0 + 1)),
            Call::Stat(len) => (self.0 == *len).then_some(*self),
        }
    }

    fn is_unseen(call: &Call, _: &[&Call]) -> bool {
        match call {
            Call::Truncate(_) | Call::WriteAt(_) | Call::Append => false,
            Call::Stat(_) => true,
        }
    }
}
