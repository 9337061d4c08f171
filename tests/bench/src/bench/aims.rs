//! Aims of the project for each row, and whether a run meets them.

use super::samples::{Comparison, Spread};

/// Contestant that pinhole is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// virtiofsd with its best setting.
    Peer,
    /// virtiofsd with its best setting without a thread pool.
    Poolless,
    /// Bare host calls.
    Native,
    /// No contestant: the aim limits the figure itself.
    Limit,
}

/// Limit of a ratio or of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// Largest value.
    AtMost(f64),
    /// Smallest value.
    AtLeast(f64),
}

/// Aim for one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aim {
    /// Exact name of the row.
    pub(crate) row: String,
    pub(crate) against: Against,
    pub(crate) bound: Bound,
}

impl Bound {
    /// Returns whether `value` is within the limit.
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// Returns the number of the limit.
    pub(crate) const fn limit(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => limit,
        }
    }
}

impl Aim {
    /// Returns the value that the aim limits, or `None` if the run has none.
    pub(crate) fn value(&self, comparison: &Comparison) -> Option<Spread> {
        match self.against {
            Against::Peer => comparison.peer.map(|(_, beside)| beside.ratio),
            Against::Poolless => comparison.poolless.map(|beside| beside.ratio),
            Against::Native => comparison.native.map(|beside| beside.ratio),
            Against::Limit => Some(comparison.pinhole),
        }
    }

    /// Returns whether the aim limits a ratio.
    pub(crate) fn is_ratio(&self) -> bool {
        self.against != Against::Limit
    }

    /// Returns the aim in words. `unit` is the unit of the figure.
    pub(crate) fn words(&self, unit: &str) -> String {
        let bound = match self.bound {
            Bound::AtMost(limit) => format!("at most {limit}"),
            Bound::AtLeast(limit) => format!("at least {limit}"),
        };
        match self.against {
            Against::Peer => format!("{bound}x"),
            Against::Poolless => format!("{bound}x, without a thread pool"),
            Against::Native => format!("{bound} of native"),
            Against::Limit => format!("{bound} {unit}"),
        }
    }
}

/// Rows without file data, with their depths.
const METADATA: [(&str, &[u32]); 6] = [
    ("getattr", &[1, 8, 32]),
    ("lookup-hit", &[1, 8, 32]),
    ("lookup-miss", &[1, 8, 32]),
    ("open-release", &[1, 8, 32]),
    ("create-unlink", &[1, 8, 32]),
    ("readdirplus", &[1]),
];

/// Rows of the part `wire` with the aimed ratio of operations per second.
const RATES: [(&str, u32, f64); 12] = [
    ("getattr", 32, 2.5),
    ("lookup-hit", 32, 2.5),
    ("open-release", 32, 2.5),
    ("read-4k-rand", 1, 1.5),
    ("read-4k-rand", 32, 2.0),
    ("read-1m-seq", 1, 1.0),
    ("write-1m-seq", 1, 1.0),
    ("small-file", 1, 2.0),
    ("small-file", 32, 2.0),
    ("create-unlink", 1, 1.3),
    ("create-unlink", 32, 1.3),
    ("readdirplus", 1, 2.0),
];

/// Rows of the part `guest` that create or read many small files.
const GUEST_SMALL: [&str; 3] =
    ["guest: read 20,000 small files", "guest: create 5,000 files", "guest: unpack 3,000 files"];

/// Aimed ratios for all rows of the part `guest`, and for those in [`GUEST_SMALL`].
const GUEST: (f64, f64) = (1.0, 1.3);

/// Aimed ratio for [`GUEST_SMALL`] with `--cache strict`: most of the time is spent in the guest,
/// which then sends a request for each operation.
const GUEST_SMALL_STRICT: f64 = 1.2;

/// Aims of the part `cost`: start of a row's name, contestant, and limit.
const COST: [(&str, Against, Bound); 3] = [
    ("cost: PSS idle, default sandbox", Against::Peer, Bound::AtMost(1.0)),
    ("cost: start to ready, default sandbox", Against::Peer, Bound::AtMost(0.6)),
    // In bytes.
    ("cost: PSS an inode at 100000,", Against::Limit, Bound::AtMost(200.0)),
];

/// Returns all aims for a run with these rows.
pub(crate) fn all<'r>(rows: impl Iterator<Item = &'r str>) -> Vec<Aim> {
    let mut all = wire();
    for row in rows {
        if row.starts_with("guest: ") {
            let small = GUEST_SMALL.iter().any(|start| row.starts_with(start));
            let least = match (small, row.ends_with("(cache strict)")) {
                (true, true) => GUEST_SMALL_STRICT,
                (true, false) => GUEST.1,
                (false, _) => GUEST.0,
            };
            all.push(Aim { row: row.to_owned(), against: Against::Peer, bound: Bound::AtLeast(least) });
        }
        let cost = COST.iter().filter(|(start, ..)| row.starts_with(start));
        all.extend(cost.map(|(_, against, bound)| Aim {
            row: row.to_owned(),
            against: *against,
            bound: *bound,
        }));
    }
    all
}

/// Returns the aims of the part `wire`.
fn wire() -> Vec<Aim> {
    let mut all = Vec::new();
    let mut aim = |row: String, against, bound| all.push(Aim { row, against, bound });
    for row in ["getattr", "lookup-hit", "open-release"] {
        aim(format!("{row}, depth 1: p50"), Against::Peer, Bound::AtMost(0.6));
    }
    for (row, depth, factor) in RATES {
        aim(format!("{row}, depth {depth}: op/s"), Against::Peer, Bound::AtLeast(factor));
    }
    for row in ["read-1m-seq", "write-1m-seq"] {
        aim(format!("{row}, depth 1: op/s"), Against::Native, Bound::AtLeast(0.8));
    }
    for (row, depths) in METADATA {
        for depth in depths {
            aim(format!("{row}, depth {depth}: CPU"), Against::Peer, Bound::AtMost(0.5));
        }
    }
    aim("getattr-beside-cold: p99".to_owned(), Against::Poolless, Bound::AtMost(0.2));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_includes_its_limit() {
        assert!(Bound::AtMost(0.6).is_met(0.6));
        assert!(!Bound::AtMost(0.6).is_met(0.61));
        assert!(Bound::AtLeast(2.5).is_met(2.5));
        assert!(!Bound::AtLeast(2.5).is_met(2.49));
    }

    #[test]
    fn guest_rows_with_small_files_have_higher_aims() {
        let strict = "guest: read 20,000 small files (cache strict)";
        let rows =
            ["guest: stat, cold", "guest: read 20,000 small files (cache auto)", "cost: descriptors", strict];
        let aims = all(rows.into_iter());
        let of = |row: &str| aims.iter().find(|aim| aim.row == row).map(|aim| aim.bound);
        assert_eq!(of(rows[0]), Some(Bound::AtLeast(1.0)));
        assert_eq!(of(rows[1]), Some(Bound::AtLeast(1.3)));
        assert_eq!(of(rows[2]), None);
        assert_eq!(of(strict), Some(Bound::AtLeast(1.2)));
    }

    #[test]
    fn no_aim_is_listed_twice() {
        let all = wire();
        for (at, aim) in all.iter().enumerate() {
            let again =
                all.iter().skip(at + 1).any(|other| other.row == aim.row && other.against == aim.against);
            assert!(!again, "{}", aim.row);
        }
    }
}
