//! Model of a file to which records are only appended: each append is whole, none is lost, and a
//! reader sees the first ones.

use super::Object;

/// The records in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log(Vec<u64>);

/// A call on a log. Records are appended once each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogCall {
    /// One record.
    Append(u64),
    /// All that there are.
    All(Vec<u64>),
    /// How many there are.
    Count(u64),
}

impl Object for Log {
    type Call = LogCall;

    fn after(&self, call: &LogCall) -> Option<Self> {
        match call {
            LogCall::Append(record) => {
                let mut records = self.0.clone();
                records.push(*record);
                Some(Self(records))
            }
            LogCall::All(records) => (self.0 == *records).then(|| self.clone()),
            LogCall::Count(count) => (self.0.len() as u64 == *count).then(|| self.clone()),
        }
    }

    fn is_unseen(call: &LogCall, _: &[&LogCall]) -> bool {
        match call {
            LogCall::Append(_) => false,
            LogCall::All(_) | LogCall::Count(_) => true,
        }
    }
}
