//! Limits on what one guest may use of the host.
//!
//! Where a policy sets no limit, only the daemon's own limits apply.

use crate::Access;
use std::num::NonZero;

/// The value of a limit, or `None` if the policy does not set it.
pub type Limit = Option<NonZero<u64>>;

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitUnit {
    /// A plain number.
    Count,
    /// A number of bytes. Policy files may add a unit, such as MiB.
    Bytes,
}

/// Defines the fields, their names in policy files and their descriptions in one table.
macro_rules! limits {
    ($($field:ident, $name:literal, $unit:ident, $operations:expr, $what:literal, $past:literal;)*) => {
        /// The limits of a policy.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = concat!($what, ". Beyond it: ", $past, ".")] pub $field: Limit,)*
        }

        /// Every limit, in the order of the fields.
        pub const LIMITS: &[LimitRow] = &[
            $(LimitRow {
                name: $name,
                unit: LimitUnit::$unit,
                operations: $operations,
                what: $what,
                past: $past,
                get: |limits| limits.$field,
                set: |limits, limit| limits.$field = limit,
            },)*
        ];
    };
}

/// A limit and its description.
#[derive(Clone, Copy, Debug)]
pub struct LimitRow {
    /// Stable name, in kebab case.
    pub name: &'static str,
    /// Unit.
    pub unit: LimitUnit,
    /// Operations that count. If none of them is granted anywhere, the limit has no effect. An
    /// empty set means all operations.
    pub operations: Access,
    /// What the limit counts, as a phrase without a period.
    pub what: &'static str,
    /// What happens beyond the limit: an errno, or a phrase without a period.
    pub past: &'static str,
    /// Returns the value of the limit.
    pub get: fn(&Limits) -> Limit,
    /// Replaces the value of the limit.
    pub(crate) set: fn(&mut Limits, Limit),
}

/// Operations that write data through the daemon.
const WRITES: Access = Access::WRITE.union(Access::APPEND).union(Access::COPY_RANGE);
/// Operations that put bytes on the host's disk: data, values of attributes, targets of links.
const WRITES_TO_DISK: Access =
    WRITES.union(Access::SYMLINK).union(Access::XATTR_WRITES).union(Access::ACL_WRITE);
/// Operations that open a file or a directory.
const OPENS: Access = Access::READ.union(Access::LIST).union(Access::OPENS_TO_WRITE);
/// Operations that can extend a file.
const LENGTHENS: Access = WRITES.union(Access::TRUNCATE).union(Access::FALLOCATES);
/// All operations, in the form that a row uses for them: the empty set.
const ANY: Access = Access::empty();

limits! {
    open_handles, "open-handles", Count, OPENS, "Files and directories open at once", "ENFILE";
    live_inodes, "live-inodes", Count, ANY, "Files that the guest knows at once", "ENFILE";
    locks, "locks", Count, Access::LOCK, "File locks held at once", "ENOLCK";
    queued_requests, "queued-requests", Count, ANY,
        "Requests that wait for the host at once, besides one of each queue", "the guest waits";
    write_bytes_per_second, "write-bytes-per-second", Bytes, WRITES_TO_DISK, "Bytes written per second",
        "the guest's writes wait";
    operations_per_second, "operations-per-second", Count, ANY, "Operations per second", "the guest waits";
    file_size, "file-size", Bytes, LENGTHENS, "Bytes of the largest file", "EFBIG";
    listing_names, "listing-names", Count, Access::LIST, "Names that one listing request goes through",
        "the rest comes with the next";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_sets_and_reads_its_own_field() {
        for (index, row) in LIMITS.iter().enumerate() {
            let mut limits = Limits::default();
            (row.set)(&mut limits, NonZero::new(7));
            for (other, read) in LIMITS.iter().enumerate() {
                assert_eq!((read.get)(&limits).is_some(), other == index, "{} {}", row.name, read.name);
            }
        }
    }
}
