//! Model of a file to which records are only appended: each append is whole, no append is lost, and
//! a reader sees the first records without a gap.

use super::Object;

/// Records in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log(Vec<u64>);

/// Call on a log. A client may append each record only once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogCall {
    /// Appends one record.
    Append(u64),
    /// Reads the whole log, which has these records.
    All(Vec<u64>),
    /// Reads the number of records.
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

    /// Returns true for reads, which change nothing. Later reads depend on every append.
    fn is_unseen(call: &LogCall, _: &[&LogCall]) -> bool {
        match call {
            LogCall::Append(_) => false,
            LogCall::All(_) | LogCall::Count(_) => true,
        }
    }
}
