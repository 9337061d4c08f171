//! What the project wants of each row, and whether a run shows it.

use super::samples::{Comparison, Spread};

/// Beside whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// The peer at its best.
    Peer,
    /// The peer at its best without a pool.
    Poolless,
    /// Bare host calls.
    Native,
    /// Nobody: the figure itself.
    Nobody,
}

/// A limit to a ratio, or to a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What is wanted of one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aim {
    /// The row, word for word.
    pub(crate) row: String,
    pub(crate) against: Against,
    pub(crate) bound: Bound,
}

impl Bound {
    /// Whether `value` keeps to it.
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// The number itself.
    pub(crate) const fn limit(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => limit,
        }
    }
}

impl Aim {
    /// The value that the aim speaks of; `None` where the run has none.
    pub(crate) fn value(&self, comparison: &Comparison) -> Option<Spread> {
        match self.against {
            Against::Peer => comparison.peer.map(|(_, beside)| beside.ratio),
            Against::Poolless => comparison.poolless.map(|beside| beside.ratio),
            Against::Native => comparison.native.map(|beside| beside.ratio),
            Against::Nobody => Some(comparison.pinhole),
        }
    }

    /// Whether it speaks of a ratio.
    pub(crate) fn is_ratio(&self) -> bool {
        self.against != Against::Nobody
    }

    /// In words; `unit` is the figure's.
    pub(crate) fn words(&self, unit: &str) -> String {
        let bound = match self.bound {
            Bound::AtMost(limit) => format!("at most {limit}"),
            Bound::AtLeast(limit) => format!("at least {limit}"),
        };
        match self.against {
            Against::Peer => format!("{bound}x"),
            Against::Poolless => format!("{bound}x, without a pool"),
            Against::Native => format!("{bound} of native"),
            Against::Nobody => format!("{bound} {unit}"),
        }
    }
}

/// Rows that touch no file data, at each depth that they are measured at.
const METADATA: [(&str, &[u32]); 6] = [
    ("getattr", &[1, 8, 32]),
    ("lookup-hit", &[1, 8, 32]),
    ("lookup-miss", &[1, 8, 32]),
    ("open-release", &[1, 8, 32]),
    ("create-unlink", &[1, 8, 32]),
    ("readdirplus", &[1]),
];

/// Rows of the wire whose operations a second have a factor.
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

/// Rows of a guest that fill or read many small files.
const GUEST_SMALL: [&str; 3] =
    ["guest: read 20,000 small files", "guest: create 5,000 files", "guest: unpack 3,000 files"];

/// Of every row of a guest, and of those.
const GUEST: (f64, f64) = (1.0, 1.3);

/// Of those where the guest caches nothing: most of the time is the guest's own, asking for everything.
const GUEST_SMALL_STRICT: f64 = 1.2;

/// What a daemon takes: the beginning of a row's name, beside whom, and the bound.
const COST: [(&str, Against, Bound); 3] = [
    ("cost: PSS idle, default sandbox", Against::Peer, Bound::AtMost(1.0)),
    ("cost: start to ready, default sandbox", Against::Peer, Bound::AtMost(0.6)),
    // Bytes.
    ("cost: PSS an inode at 100000,", Against::Nobody, Bound::AtMost(200.0)),
];

/// Every aim, for a run with these rows.
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
    fn a_bound_holds_its_own_limit() {
        assert!(Bound::AtMost(0.6).is_met(0.6));
        assert!(!Bound::AtMost(0.6).is_met(0.61));
        assert!(Bound::AtLeast(2.5).is_met(2.5));
        assert!(!Bound::AtLeast(2.5).is_met(2.49));
    }

    #[test]
    fn a_guests_row_has_an_aim_and_one_with_small_files_a_higher_one() {
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
    fn no_aim_is_named_twice() {
        let all = wire();
        for (at, aim) in all.iter().enumerate() {
            let again =
                all.iter().skip(at + 1).any(|other| other.row == aim.row && other.against == aim.against);
            assert!(!again, "{}", aim.row);
        }
    }
}
