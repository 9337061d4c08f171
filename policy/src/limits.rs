//! How much of the host one guest may take. Absent: as much as the daemon's own limits let it.

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
    ($($field:ident, $name:literal, $measure:ident, $what:literal, $past:literal;)*) => {
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
    /// What of, as half a sentence.
    pub what: &'static str,
    /// What happens past it.
    pub past: &'static str,
    /// Its figure.
    pub get: fn(&Limits) -> Limit,
    pub(crate) set: fn(&mut Limits, Limit),
}

limits! {
    open_handles, "open-handles", Count, "Files and directories open at once", "ENFILE";
    live_inodes, "live-inodes", Count, "Files that the guest knows at once", "ENFILE";
    locks, "locks", Count, "File locks held at once", "ENOLCK";
    queued_requests, "queued-requests", Count, "Requests taken from the guest and not yet answered",
        "the guest waits";
    dirty_bytes, "dirty-bytes", Bytes, "Bytes written and not yet on the host's disk",
        "the guest's writes wait for the disk";
    write_bytes_per_second, "write-bytes-per-second", Bytes, "Bytes written a second",
        "the guest's writes wait";
    operations_per_second, "operations-per-second", Count, "Operations a second", "the guest waits";
    file_size, "file-size", Bytes, "Bytes of the biggest file", "EFBIG";
    listing_names, "listing-names", Count, "Names that one request for a listing goes through",
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
