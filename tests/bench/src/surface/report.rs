//! Results of a run: tables for the terminal and for docs/measured/surface.md, and all results as
//! JSON.

use serde_json::{Value, json};

use super::filter::CallVerdict;
use super::kernel::Reached;
use super::native::{Native, ThreadKind};
use super::subject::{DaemonKind, Subject};
use crate::conditions::Conditions;
use crate::table::Table;

/// Results of a run.
#[derive(Debug)]
pub(super) struct SurfaceReport {
    pub(super) conditions: Conditions,
    pub(super) daemons: Vec<DaemonResults>,
}

/// Results of one daemon.
#[derive(Debug)]
pub(super) struct DaemonResults {
    pub(super) subject: Subject,
    pub(super) native: Native,
    /// Kernel functions; `None` with `--native`.
    pub(super) reached: Option<Reached>,
}

/// Limit for one figure of one profile, with the measured value.
#[derive(Debug)]
pub(super) struct SurfaceAim {
    pub(super) what: &'static str,
    pub(super) profile: &'static str,
    pub(super) limit: f64,
    pub(super) value: f64,
}

impl SurfaceAim {
    /// Returns whether the value is within the limit.
    pub(super) fn is_met(&self) -> bool {
        self.value <= self.limit
    }
}

/// Aims: the largest number of system calls that are allowed to a queue thread, by profile.
const CALLS_MAX: [(&str, f64); 4] = [("prepared", 6.0), ("rootfs", 16.0), ("share", 32.0), ("full", 60.0)];

/// Aim: the largest ratio of the kernel functions of `rootfs` to those of virtiofsd.
const FUNCTIONS_RATIO_MAX: f64 = 0.7;

/// Name of that aim.
pub(super) const RATIO_TO_VIRTIOFSD: &str = "kernel functions, ratio to virtiofsd";

/// Aim: the largest ratio of the kernel functions of `prepared` to those of `rootfs`.
const IMAGE_RATIO_MAX: f64 = 0.6;

/// Name of the row with the system calls allowed to a queue thread.
pub(super) const ALLOWED: &str = "system calls allowed, queue thread";

/// Name of the row and of the column with the allowed system calls that need certain arguments.
const FILTERED: &str = "of these, only with some arguments";

/// Name of the row with the kernel functions reached under the load.
pub(super) const REACHED: &str = "kernel functions reached, load";

impl DaemonResults {
    /// Returns the queue threads, or a kind without threads if strace saw none.
    fn queue_thread(&self) -> ThreadKind {
        self.native.queue_thread().cloned().unwrap_or_default()
    }

    /// Returns the figures in the order of the table's rows; `None` where this run has no figure.
    pub(super) fn figures(&self) -> Vec<(&'static str, Option<usize>)> {
        let (queue_thread, process) = (self.queue_thread(), self.native.process());
        let functions = |of: fn(&Reached) -> &Vec<String>| self.reached.as_ref().map(|all| of(all).len());
        vec![
            (ALLOWED, Some(queue_thread.counts().0)),
            (FILTERED, Some(queue_thread.counts().1)),
            ("of these, only to end the thread", Some(queue_thread.ending())),
            ("system calls allowed, any thread", Some(process.counts().0)),
            ("of these, only to end a thread", Some(process.ending())),
            ("system calls called, start", Some(self.native.called_at_start.len())),
            ("system calls called, load, queue thread", Some(queue_thread.called.len())),
            ("system calls called, load, any thread", Some(self.native.called.len())),
            ("capabilities kept", Some(self.native.capabilities.len())),
            ("descriptors", Some(self.native.descriptors.values().sum())),
            ("mounts visible", Some(self.native.mounts)),
            ("threads", Some(process.threads)),
            ("kernel functions reached, start", functions(|all| &all.start)),
            ("kernel functions reached, set-up by the VMM", functions(|all| &all.connect)),
            (REACHED, functions(|all| &all.steady)),
            ("requests answered with success", usize::try_from(self.native.done).ok()),
            ("requests refused", usize::try_from(self.native.refused).ok()),
        ]
    }

    /// Returns the figure of the row with this name.
    pub(super) fn figure(&self, row: &str) -> Option<f64> {
        let (_, figure) = self.figures().into_iter().find(|(name, _)| *name == row)?;
        figure.and_then(|figure| u32::try_from(figure).ok()).map(f64::from)
    }
}

impl SurfaceReport {
    /// Returns the results of virtiofsd.
    pub(super) fn peer(&self) -> Option<&DaemonResults> {
        self.daemons.iter().find(|seen| seen.subject.kind == DaemonKind::Virtiofsd)
    }

    /// Returns the results of the daemon with this name.
    fn results_of(&self, name: &str) -> Option<&DaemonResults> {
        self.daemons.iter().find(|seen| seen.subject.name == name)
    }

    /// Returns the aims for which this run has a figure.
    pub(super) fn aims(&self) -> Vec<SurfaceAim> {
        let calls = CALLS_MAX.into_iter().filter_map(|(profile, limit)| {
            let value = self.results_of(profile)?.figure(ALLOWED)?;
            Some(SurfaceAim { what: ALLOWED, profile, limit, value })
        });
        let mut all: Vec<SurfaceAim> = calls.collect();
        let ratio =
            |own: &DaemonResults, peer: &DaemonResults| Some(own.figure(REACHED)? / peer.figure(REACHED)?);
        let (prepared, rootfs) = (self.results_of("prepared"), self.results_of("rootfs"));
        all.extend(rootfs.zip(self.peer()).and_then(|(own, peer)| {
            let value = ratio(own, peer)?;
            Some(SurfaceAim {
                what: RATIO_TO_VIRTIOFSD,
                profile: "rootfs",
                limit: FUNCTIONS_RATIO_MAX,
                value,
            })
        }));
        all.extend(prepared.zip(rootfs).and_then(|(own, other)| {
            let (what, value) = ("kernel functions, ratio to rootfs", ratio(own, other)?);
            Some(SurfaceAim { what, profile: "prepared", limit: IMAGE_RATIO_MAX, value })
        }));
        all
    }

    /// Returns a table with a row for each figure and a column for each daemon.
    pub(super) fn table(&self) -> Table {
        let head: Vec<&'static str> =
            std::iter::once("").chain(self.daemons.iter().map(|seen| seen.subject.name)).collect();
        let mut table = Table::new(&head);
        let columns: Vec<_> = self.daemons.iter().map(DaemonResults::figures).collect();
        for (at, (name, _)) in columns.first().into_iter().flatten().enumerate() {
            let figures = columns.iter().map(|column| column.get(at).and_then(|(_, figure)| *figure));
            let cells = figures.map(|figure| figure.map_or_else(|| "-".to_owned(), |it| it.to_string()));
            table.row(std::iter::once((*name).to_owned()).chain(cells).collect());
        }
        table
    }

    /// Returns a table of the aims, met and missed.
    pub(super) fn aims_table(&self) -> Table {
        let mut table = Table::new(&["aim", "profile", "at most", "measured", "verdict"]);
        for aim in self.aims() {
            let digits = usize::from(aim.limit < 10.0) * 2;
            table.row(vec![
                aim.what.to_owned(),
                aim.profile.to_owned(),
                format!("{}", aim.limit),
                format!("{:.digits$}", aim.value),
                if aim.is_met() { "met" } else { "missed" }.to_owned(),
            ]);
        }
        table
    }

    /// Returns a table with a row for each kind of thread of each daemon: the number of threads, of
    /// allowed system calls, and of system calls that the threads call under the load.
    ///
    /// The calls that are allowed only with some arguments have a column of their own, and the
    /// allowed calls include them. In [`Self::json`], the list `filtered` has these calls, and the
    /// list `allowed` does not.
    pub(super) fn threads(&self) -> Table {
        let mut table = Table::new(&[
            "daemon: thread",
            "threads",
            "allowed",
            FILTERED,
            "only to end",
            "called under load",
        ]);
        for seen in &self.daemons {
            for (name, kind) in &seen.native.kinds {
                let (allowed, filtered) = kind.counts();
                let numbers = [kind.threads, allowed, filtered, kind.ending(), kind.called.len()];
                let words = std::iter::once(format!("{}: {name}", seen.subject.name));
                table.row(words.chain(numbers.map(|number| number.to_string())).collect());
            }
        }
        table
    }

    /// Returns all results as JSON. The calls of a thread are in three lists: `allowed` with any
    /// arguments, `filtered` (allowed only with some arguments), and `called` under the load.
    pub(super) fn json(&self) -> Value {
        let daemons = self.daemons.iter().map(|seen| {
            let figures: Vec<_> = seen
                .figures()
                .into_iter()
                .map(|(name, figure)| json!({"name": name, "value": figure}))
                .collect();
            let kinds = seen.native.kinds.iter().map(|(name, kind)| {
                json!({"thread": name, "threads": kind.threads, "allowed": calls(kind, false),
                    "filtered": calls(kind, true), "called": kind.called})
            });
            json!({
                "daemon": seen.subject.name,
                "arguments": seen.subject.arguments,
                "figures": figures,
                "threads": kinds.collect::<Vec<_>>(),
                "called_at_start": seen.native.called_at_start,
                "called": seen.native.called,
                "capabilities": seen.native.capabilities,
                "descriptors": seen.native.descriptors,
                "functions": seen.reached.as_ref().map(|reached| {
                    json!({"start": reached.start, "connect": reached.connect, "load": reached.steady})
                }),
            })
        });
        let aims = self.aims().into_iter().map(|aim| {
            json!({"what": aim.what, "profile": aim.profile, "at_most": aim.limit, "value": aim.value,
                "met": aim.is_met()})
        });
        json!({
            "date": self.conditions.date,
            "machine": self.conditions.host,
            "versions": self.conditions.versions,
            "daemons": daemons.collect::<Vec<_>>(),
            "aims": aims.collect::<Vec<_>>(),
        })
    }

    /// Returns the list of system calls that a kind of thread may make. `*` marks calls that are
    /// allowed only with some arguments.
    pub(super) fn calls_in_words(kind: &ThreadKind) -> String {
        let marked = kind.allowed.iter().map(|(name, verdict)| {
            let mark = if *verdict == CallVerdict::Filtered { "*" } else { "" };
            format!("{name}{mark}")
        });
        marked.collect::<Vec<_>>().join(", ")
    }
}

/// Returns the calls that are allowed only with some arguments if `filtered` is set, and otherwise
/// those that are allowed with any arguments.
fn calls(kind: &ThreadKind, filtered: bool) -> Vec<&str> {
    let wanted = if filtered { CallVerdict::Filtered } else { CallVerdict::Always };
    kind.allowed.iter().filter(|(_, verdict)| **verdict == wanted).map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aim_is_met_at_its_limit() {
        let aim = |value| SurfaceAim { what: ALLOWED, profile: "rootfs", limit: 20.0, value };
        assert!(aim(20.0).is_met());
        assert!(!aim(21.0).is_met());
    }
}
