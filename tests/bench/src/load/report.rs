//! Figures of one row at one depth, as whole numbers.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::row::Row;
use super::usage::Usage;

/// Figures of one row at one depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Name of the row.
    pub(crate) row: &'static str,
    /// Requests in flight on each queue.
    pub(crate) depth: usize,
    /// Number of request queues.
    pub(crate) queues: usize,
    /// Number of operations within the measured time.
    pub(crate) operations: u64,
    /// Measured time.
    pub(crate) elapsed_ns: u64,
    pub(crate) operations_per_second: u64,
    /// Median latency.
    pub(crate) p50_ns: u64,
    /// Latency that 1 % of the operations exceed.
    pub(crate) p99_ns: u64,
    /// Latency that 0.1 % of the operations exceed.
    pub(crate) p999_ns: u64,
    /// CPU time of the daemon for each operation.
    pub(crate) cpu_ns_per_operation: u64,
    /// Context switches of the daemon for 1000 operations.
    pub(crate) switches_per_1000: u64,
    /// Peak of the resident memory of the daemon.
    pub(crate) peak_kib: u64,
}

impl Measured {
    /// Computes the figures from the latencies in ns, the measured time, and the usage before and
    /// after.
    pub(super) fn new(
        row: Row,
        (depth, queues): (usize, usize),
        latencies: &Histogram<u64>,
        time: Duration,
        (before, after): (Usage, Usage),
    ) -> Self {
        let operations = latencies.len();
        let elapsed_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let each = |amount: u64, by: u64| scaled(amount, by, operations);
        Self {
            row: row.name(),
            depth,
            queues,
            operations,
            elapsed_ns,
            operations_per_second: scaled(operations, 1_000_000_000, elapsed_ns),
            p50_ns: latencies.value_at_quantile(0.5),
            p99_ns: latencies.value_at_quantile(0.99),
            p999_ns: latencies.value_at_quantile(0.999),
            cpu_ns_per_operation: each(after.cpu_ns.saturating_sub(before.cpu_ns), 1),
            switches_per_1000: each(after.switches.saturating_sub(before.switches), 1000),
            peak_kib: after.peak_kib,
        }
    }

    /// Returns a JSON object with the names of the fields.
    pub(crate) fn json(&self) -> Value {
        json!({
            "row": self.row,
            "depth": self.depth,
            "queues": self.queues,
            "operations": self.operations,
            "elapsed_ns": self.elapsed_ns,
            "operations_per_second": self.operations_per_second,
            "p50_ns": self.p50_ns,
            "p99_ns": self.p99_ns,
            "p999_ns": self.p999_ns,
            "cpu_ns_per_operation": self.cpu_ns_per_operation,
            "switches_per_1000": self.switches_per_1000,
            "peak_kib": self.peak_kib,
        })
    }

    /// Column heads of the plain form.
    pub(crate) const COLUMNS: &str =
        "row                   depth q       op/s    p50 ns    p99 ns   p999 ns   cpu ns  sw/1000  peak KiB";
}

impl fmt::Display for Measured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:<21} {:>5} {:>1} {:>10} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9}",
            self.row,
            self.depth,
            self.queues,
            self.operations_per_second,
            self.p50_ns,
            self.p99_ns,
            self.p999_ns,
            self.cpu_ns_per_operation,
            self.switches_per_1000,
            self.peak_kib
        )
    }
}

/// Returns `amount * by / of`, or 0 if `of` is 0.
fn scaled(amount: u64, by: u64, of: u64) -> u64 {
    let whole = u128::from(amount) * u128::from(by);
    whole.checked_div(u128::from(of)).map_or(0, |quotient| u64::try_from(quotient).unwrap_or(u64::MAX))
}
