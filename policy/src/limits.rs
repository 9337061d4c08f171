//! How much of the host one guest may take. Absent: as much as the daemon's own limits let it.

use crate::Access;
use std::num::NonZero;

/// A figure; `None`: no limit of the policy's.
pub type Limit = Option<NonZero<u64>>;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Things; a plain number in a policy file.
    Count,
    /// Bytes; also with a unit in a policy file.
    Bytes,
}

/// One table makes the fields, their names in policy files, and what is told of them.
macro_rules! limits {
    ($($field:ident, $name:literal, $measure:ident, $of:expr, $what:literal, $past:literal;)*) => {
        /// The limits of a policy.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = concat!($what, "; past it ", $past, ".")] pub $field: Limit,)*
        }

        /// Every limit, in the order of its field.
        pub const LIMITS: &[LimitRow] = &[
            $(LimitRow {
                name: $name,
                measure: Measure::$measure,
                of: $of,
                what: $what,
                past: $past,
                get: |limits| limits.$field,
                set: |limits, limit| limits.$field = limit,
            },)*
        ];
    };
}

/// A limit in words.
#[derive(Clone, Copy, Debug)]
pub struct LimitRow {
    /// Its stable name, in kebab case.
    pub name: &'static str,
    /// What it counts.
    pub measure: Measure,
    /// The operations of which one must be granted somewhere, or there is nothing to count; empty: any will do.
    pub of: Access,
    /// What of, as half a sentence.
    pub what: &'static str,
    /// What happens past it.
    pub past: &'static str,
    /// Its figure.
    pub get: fn(&Limits) -> Limit,
    pub(crate) set: fn(&mut Limits, Limit),
}

/// What writes bytes that the daemon sees.
const WRITES: Access = Access::WRITE.union(Access::APPEND).union(Access::COPY_RANGE);
/// What puts bytes on the host's disk: data, values of attributes, targets of links.
const PUTS: Access = WRITES.union(Access::SYMLINK).union(Access::XATTR_WRITES).union(Access::ACL_WRITE);
/// What opens a file or a directory.
const OPENS: Access = Access::READ.union(Access::LIST).union(Access::OPENS_TO_WRITE);
/// What can make a file longer.
const LENGTHENS: Access = WRITES.union(Access::TRUNCATE).union(Access::FALLOCATES);
const ANY: Access = Access::empty();

limits! {
    open_handles, "open-handles", Count, OPENS, "Files and directories open at once", "ENFILE";
    live_inodes, "live-inodes", Count, ANY, "Files that the guest knows at once", "ENFILE";
    locks, "locks", Count, Access::LOCK, "File locks held at once", "ENOLCK";
    queued_requests, "queued-requests", Count, ANY,
        "Requests that wait for the host at once, besides one of each queue", "the guest waits";
    dirty_bytes, "dirty-bytes", Bytes, WRITES, "Bytes written and not yet on the host's disk",
        "the guest's writes wait for the disk";
    write_bytes_per_second, "write-bytes-per-second", Bytes, PUTS, "Bytes written a second",
        "the guest's writes wait";
    operations_per_second, "operations-per-second", Count, ANY, "Operations a second", "the guest waits";
    file_size, "file-size", Bytes, LENGTHENS, "Bytes of the biggest file", "EFBIG";
    listing_names, "listing-names", Count, Access::LIST, "Names that one request for a listing goes through",
        "the rest comes with the next";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_set_and_read_under_its_own_name() {
        for (index, row) in LIMITS.iter().enumerate() {
            let mut limits = Limits::default();
            (row.set)(&mut limits, NonZero::new(7));
            for (other, read) in LIMITS.iter().enumerate() {
                assert_eq!((read.get)(&limits).is_some(), other == index, "{} {}", row.name, read.name);
            }
        }
    }
}
