//! Comparison of two builds of pinhole (`--against`): the contestants `pinhole` and `before` take
//! turns, and each row gets a verdict.
//!
//! A row is slower by more than its spread if pinhole was slower in every turn: the smallest and
//! the largest ratio are both on the slower side of 1. For two equal builds, this happens by chance
//! in one of 2^turns rows. Faster rows are counted in the same way. Their number shows how many of
//! the slower rows may be chance.

use std::fmt;

use super::figure::Better;
use super::report::{figure, times};
use super::samples::{Comparison, Spread};
use crate::table::Table;

/// Metrics of the part `wire` that are compared. The rarer latencies and the memory vary too much
/// for a verdict.
const METRICS: [&str; 3] = ["op/s", "p50", "CPU"];

/// Result of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowVerdict {
    /// Slower in every turn.
    Slower,
    /// Faster in every turn.
    Faster,
    /// Neither.
    Same,
}

impl fmt::Display for RowVerdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Slower => "SLOWER",
            Self::Faster => "faster",
            Self::Same => "",
        })
    }
}

impl RowVerdict {
    /// Judges the ratios pinhole / before. `better` is the direction of the figure.
    fn of(ratio: Spread, better: Better) -> Self {
        let (above, below) = (ratio.min > 1.0, ratio.max < 1.0);
        match better {
            Better::Higher if below => Self::Slower,
            Better::Higher if above => Self::Faster,
            Better::Lower if above => Self::Slower,
            Better::Lower if below => Self::Faster,
            Better::Higher | Better::Lower => Self::Same,
        }
    }
}

/// Number of rows by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    rows: usize,
    slower: usize,
    faster: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "before: {} of {} rows slower by more than their spread, {} faster",
            self.slower, self.rows, self.faster
        )
    }
}

/// Returns a table of the rows that both builds have, and the numbers of slower and faster rows.
pub(crate) fn compare(comparisons: &[Comparison]) -> (Table, Count) {
    let mut table = Table::new(&["row", "unit", "better", "before", "pinhole", "ratio", "spread", "verdict"]);
    let mut count = Count::default();
    for found in comparisons.iter().filter(|found| is_compared(&found.row)) {
        let Some(before) = found.before else { continue };
        let verdict = RowVerdict::of(before.ratio, found.better);
        count.rows += 1;
        count.slower += usize::from(verdict == RowVerdict::Slower);
        count.faster += usize::from(verdict == RowVerdict::Faster);
        table.row(vec![
            found.row.clone(),
            found.unit.to_owned(),
            super::report::direction(found.better).to_owned(),
            figure(before.value.median),
            figure(found.pinhole.median),
            times(before.ratio.median),
            format!("{}..{}", times(before.ratio.min), times(before.ratio.max)),
            verdict.to_string(),
        ]);
    }
    (table, count)
}

/// Returns whether a row gets a verdict.
fn is_compared(row: &str) -> bool {
    let metric = row.rsplit_once(": ").map_or("", |(_, metric)| metric);
    !super::report::BenchReport::is_wire(row) || METRICS.contains(&metric)
}

#[cfg(test)]
mod tests {
    use super::super::samples::Beside;
    use super::*;

    fn spread(min: f64, max: f64) -> Spread {
        Spread { median: f64::midpoint(min, max), min, max }
    }

    fn comparison(row: &str, better: Better, ratio: Option<Spread>) -> Comparison {
        let one = spread(1.0, 1.0);
        Comparison {
            row: row.to_owned(),
            unit: "op/s",
            better,
            pinhole: one,
            peer: None,
            poolless: None,
            native: None,
            before: ratio.map(|ratio| Beside { value: one, ratio }),
        }
    }

    #[test]
    fn verdict_needs_all_turns_on_one_side() {
        assert_eq!(RowVerdict::of(spread(0.8, 0.9), Better::Higher), RowVerdict::Slower);
        assert_eq!(RowVerdict::of(spread(0.8, 0.9), Better::Lower), RowVerdict::Faster);
        assert_eq!(RowVerdict::of(spread(1.1, 1.2), Better::Higher), RowVerdict::Faster);
        assert_eq!(RowVerdict::of(spread(1.1, 1.2), Better::Lower), RowVerdict::Slower);
        assert_eq!(RowVerdict::of(spread(0.8, 1.0), Better::Higher), RowVerdict::Same);
        assert_eq!(RowVerdict::of(spread(0.9, 1.1), Better::Lower), RowVerdict::Same);
    }

    #[test]
    fn rows_are_counted_by_verdict() {
        let rows = [
            comparison("getattr, depth 1: op/s", Better::Higher, Some(spread(0.8, 0.9))),
            comparison("getattr, depth 1: CPU", Better::Lower, Some(spread(0.8, 0.9))),
            comparison("getattr, depth 1: p99", Better::Lower, Some(spread(1.8, 1.9))),
            comparison("cost: start to ready", Better::Lower, Some(spread(0.9, 1.9))),
            comparison("read, depth 1: op/s", Better::Higher, None),
        ];
        let (table, count) = compare(&rows);
        assert_eq!(count, Count { rows: 3, slower: 1, faster: 1 });
        assert_eq!(count.to_string(), "before: 1 of 3 rows slower by more than their spread, 1 faster");
        let plain = table.plain();
        assert!(
            plain.lines().any(|line| line.starts_with("getattr, depth 1: op/s") && line.ends_with("SLOWER"))
        );
        assert!(!plain.contains("p99"), "{plain}");
    }
}
