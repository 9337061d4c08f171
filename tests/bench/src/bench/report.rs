//! Results of a run: tables, and all figures as JSON.

use serde_json::{Value, json};

use super::aims::{self, Aim};
use super::figure::Better;
use super::samples::{Beside, Comparison, Samples, Spread};
use crate::conditions::Conditions;
use crate::table::Table;

/// Results of a run.
#[derive(Debug)]
pub(crate) struct BenchReport {
    pub(crate) conditions: Conditions,
    /// Number of turns of each part, in words.
    pub(crate) turns: String,
    pub(crate) samples: Samples,
    pub(crate) comparisons: Vec<Comparison>,
}

/// Metrics of the part `wire`. Those of a row share a line of the table.
const WIRE: [&str; 7] = ["op/s", "p50", "p99", "p99.9", "CPU", "switches", "peak RSS"];

impl BenchReport {
    /// Returns each aim with its comparison and its value.
    pub(crate) fn aimed(&self) -> Vec<(Aim, &Comparison, Spread)> {
        let found = aims::all(self.comparisons.iter().map(|found| found.row.as_str()))
            .into_iter()
            .filter_map(|aim| {
                let comparison = self.comparison(&aim.row)?;
                let value = aim.value(comparison)?;
                Some((aim, comparison, value))
            });
        found.collect()
    }

    /// Returns whether a row is a metric of the part `wire`.
    pub(crate) fn is_wire(row: &str) -> bool {
        row.rsplit_once(": ").is_some_and(|(_, metric)| WIRE.contains(&metric))
    }

    /// Returns the comparison of the row with this name.
    fn comparison(&self, row: &str) -> Option<&Comparison> {
        self.comparisons.iter().find(|comparison| comparison.row == row)
    }

    /// Returns a table of the aims, met and missed.
    pub(crate) fn aims(&self) -> Table {
        let head =
            ["row", "aim", "pinhole / other", "spread", "pinhole", "other", "compared with", "verdict"];
        let mut table = Table::new(&head);
        for (aim, comparison, value) in self.aimed() {
            let other = match aim.against {
                aims::Against::Peer => comparison.peer.map(|(setting, beside)| (setting.to_string(), beside)),
                aims::Against::Poolless => {
                    comparison.poolless.map(|beside| ("virtiofsd without a thread pool".to_owned(), beside))
                }
                aims::Against::Native => comparison.native.map(|beside| ("native".to_owned(), beside)),
                aims::Against::Limit => None,
            };
            let (name, beside) = other.unzip();
            table.row(vec![
                comparison.row.clone(),
                aim.words(comparison.unit),
                times(value.median),
                spread(value),
                with_unit(comparison.pinhole.median, comparison.unit),
                beside.map_or_else(String::new, |beside| with_unit(beside.value.median, comparison.unit)),
                name.unwrap_or_default(),
                if aim.bound.is_met(value.median) { "met" } else { "missed" }.to_owned(),
            ]);
        }
        table
    }

    /// Returns a table with a line for each row and depth of the part `wire`, and its metrics in
    /// columns.
    pub(crate) fn wire(&self) -> Table {
        let head = [
            "row",
            "op/s",
            "virtiofsd",
            "virtiofsd setting",
            "op/s ratio",
            "p50 us",
            "p50 ratio",
            "p99 ratio",
            "p99.9 ratio",
            "CPU us/op",
            "CPU ratio",
            "switches/op",
            "peak RSS MiB",
            "ratio to native",
        ];
        let mut table = Table::new(&head);
        for rate in &self.comparisons {
            let Some(row) = rate.row.strip_suffix(": op/s") else { continue };
            let metric = |name: &str| self.comparison(&format!("{row}: {name}"));
            let own =
                |name: &str| metric(name).map_or_else(String::new, |found| figure(found.pinhole.median));
            let by =
                |name: &str| metric(name).map_or_else(String::new, |found| ratio(found.peer.map(second)));
            table.row(vec![
                row.to_owned(),
                figure(rate.pinhole.median),
                rate.peer.map_or_else(String::new, |(_, beside)| figure(beside.value.median)),
                rate.peer.map_or_else(String::new, |(setting, _)| setting.short()),
                ratio(rate.peer.map(second)),
                own("p50"),
                by("p50"),
                by("p99"),
                by("p99.9"),
                own("CPU"),
                by("CPU"),
                own("switches"),
                own("peak RSS"),
                rate.native.map_or_else(String::new, |beside| times(beside.ratio.median)),
            ]);
        }
        table
    }

    /// Returns a table of all other rows.
    pub(crate) fn others(&self) -> Table {
        let head = [
            "row",
            "unit",
            "better",
            "pinhole",
            "virtiofsd",
            "virtiofsd setting",
            "ratio",
            "spread",
            "native",
        ];
        let mut table = Table::new(&head);
        for found in &self.comparisons {
            if Self::is_wire(&found.row) {
                continue;
            }
            let peer = found.peer.map(second);
            table.row(vec![
                found.row.clone(),
                found.unit.to_owned(),
                direction(found.better).to_owned(),
                figure(found.pinhole.median),
                peer.map_or_else(String::new, |beside| figure(beside.value.median)),
                found.peer.map_or_else(String::new, |(setting, _)| setting.short()),
                ratio(peer),
                peer.map_or_else(String::new, |Beside { ratio, .. }| {
                    format!("{:.2}..{:.2}", ratio.min, ratio.max)
                }),
                found.native.map_or_else(String::new, |beside| figure(beside.value.median)),
            ]);
        }
        table
    }

    /// Returns every value of every turn, with medians and ratios.
    pub(crate) fn json(&self) -> Value {
        let parts = |spread: Spread| json!({"median": spread.median, "min": spread.min, "max": spread.max});
        let rows = self.samples.rows().iter().map(|row| {
            let compared = self.comparison(&row.row);
            let series = row.series.iter().map(|(contestant, values)| {
                let values: Vec<_> = values.iter().map(|(turn, value)| json!({"turn": turn, "value": value})).collect();
                json!({"contestant": contestant.to_string(), "values": values})
            });
            json!({
                "row": row.row,
                "unit": row.unit,
                "better": direction(row.better),
                "series": series.collect::<Vec<_>>(),
                "virtiofsd_at_its_best": compared.and_then(|found| found.peer).map(|(setting, _)| setting.to_string()),
                "pinhole_by_virtiofsd": compared.and_then(|found| found.peer).map(|(_, beside)| parts(beside.ratio)),
                "pinhole_by_before": compared.and_then(|found| found.before).map(|beside| parts(beside.ratio)),
                "pinhole_by_native": compared.and_then(|found| found.native).map(|beside| parts(beside.ratio)),
            })
        });
        let aims = self.aimed().into_iter().map(|(aim, comparison, value)| {
            json!({"row": aim.row, "aim": aim.words(comparison.unit), "value": parts(value), "met": aim.bound.is_met(value.median)})
        });
        json!({
            "date": self.conditions.date,
            "machine": self.conditions.host,
            "versions": self.conditions.versions,
            "turns": self.turns,
            "rows": rows.collect::<Vec<_>>(),
            "aims": aims.collect::<Vec<_>>(),
        })
    }

    /// Returns the page beside the charts.
    pub(crate) fn page(&self) -> String {
        let head = format!(
            "# Benchmark, {}\n\nHow fast is pinhole, compared with virtiofsd and with bare host calls (*native*)?\n`cargo xtask \
             bench --chart docs/measured/bench` writes this page.\n\n- host: {}\n- programs: {}\n- {}\n\nThe contestants took \
             turns in one run. A ratio is the figure of pinhole divided by that of the\nother contestant in the same turn. \
             The tables show the median of the ratios; *spread* is the smallest\nand the largest. Each row uses the \
             setting of virtiofsd that is best for this row.\n[Benchmarks](../../internals/benchmarks.md) describes the rows.\n",
            self.conditions.date, self.conditions.host, self.conditions.versions, self.turns
        );
        let parts = [
            ("Aims", "aims.svg", self.aims()),
            ("Wire", "wire.svg", self.wire()),
            ("Guest and cost", "others.svg", self.others()),
        ];
        let parts = parts.iter().filter(|(_, _, table)| !table.is_empty()).map(|(title, chart, table)| {
            format!("\n## {title}\n\n![{title}]({chart})\n\n{}\n", table.markdown())
        });
        std::iter::once(head).chain(parts).collect()
    }
}

/// Returns the second value of a pair.
fn second<A, B>((_, second): (A, B)) -> B {
    second
}

/// Returns the direction in the words of the table.
pub(crate) const fn direction(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher",
        Better::Lower => "lower",
    }
}

/// Returns a cell with the median of the ratios, or an empty cell.
fn ratio(beside: Option<Beside>) -> String {
    beside.map_or_else(String::new, |beside| times(beside.ratio.median))
}

/// Formats a figure with its unit.
fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", figure(value))
}

/// Formats the smallest and the largest ratio.
fn spread(spread: Spread) -> String {
    format!("{}..{}", times(spread.min), times(spread.max))
}

/// Formats a ratio. A ratio below 0.1 gets more digits.
pub(crate) fn times(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}") } else { format!("{value:.2}") }
}

/// Formats a figure with three significant digits.
pub(crate) fn figure(value: f64) -> String {
    if value >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
