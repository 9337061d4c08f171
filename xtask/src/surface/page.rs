//! docs/surface.md and its chart.

use std::fs;
use std::path::Path;

use super::filter::Verdict;
use super::report::{ALLOWED, REACHED, Report, Seen};
use super::subject::Kind;
use crate::bench::aims::Bound;
use crate::bench::chart::{Bar, Chart, paint};
use crate::bench::figure::Better;
use crate::bench::samples::Spread;
use crate::step::{Failure, Outcome};

/// Rows of the table that become bars, with the limit of each profile where there is one.
const BARS: [&str; 5] =
    [ALLOWED, "system calls allowed, any thread", "capabilities kept", "mounts visible", REACHED];

const LEGEND: &str = "bar: pinhole / virtiofsd, blue: aim";

/// Writes the page and the chart below `root`.
///
/// # Errors
/// Where one cannot be written.
pub(super) fn write(report: &Report, root: &Path) -> Outcome {
    let folder = root.join("docs/surface");
    fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot make {}", folder.display())))?;
    let chart =
        Chart { title: "The hole: pinhole by virtiofsd".to_owned(), legend: LEGEND, bars: bars(report) };
    let mut drawn = String::new();
    let when = format!("{}; {}", report.machine.date, report.machine.words);
    paint(&chart, &when, &mut drawn)
        .map_err(|error| Failure::new(format!("cannot draw the chart: {error}")))?;
    for (path, text) in [(folder.join("surface.svg"), drawn), (root.join("docs/surface.md"), page(report))] {
        fs::write(&path, text).map_err(Failure::io(format!("cannot write {}", path.display())))?;
    }
    Ok(())
}

fn bars(report: &Report) -> Vec<Bar> {
    let Some(peer) = report.peer() else { return Vec::new() };
    let mut all = Vec::new();
    for row in BARS {
        for seen in report.daemons.iter().filter(|seen| seen.subject.kind != Kind::Virtiofsd) {
            let (Some(own), Some(other)) = (seen.figure(row), peer.figure(row)) else { continue };
            let ratio = own / other;
            let aim = report.aims().into_iter().find(|aim| {
                aim.profile == seen.subject.name && (aim.what == row || (row == REACHED && aim.limit < 1.0))
            });
            let limit = aim.map(|aim| if row == REACHED { aim.limit } else { aim.limit / other });
            all.push(Bar {
                label: format!("{row}: {}", seen.subject.name),
                ratio: Spread { median: ratio, min: ratio, max: ratio },
                better: Better::Lower,
                aim: limit.map(Bound::AtMost),
                note: format!("{ratio:.2}x  {own} / {other}"),
            });
        }
    }
    all
}

fn page(report: &Report) -> String {
    let mut parts = vec![format!(
        "# The size of the hole, {}\n\nWritten by `cargo xtask surface --write`; not by hand.\n\n- machine: {}\n- \
         programs: {}\n",
        report.machine.date, report.machine.words, report.machine.versions
    )];
    parts.push(HOW.to_owned());
    parts.push(format!("## Aims\n\n{}\n", report.aims_table().markdown()));
    parts.push(format!(
        "## Figures\n\n![pinhole by virtiofsd](surface/surface.svg)\n\n{}\n",
        report.table().markdown()
    ));
    parts.push(format!("## Threads\n\n{}\n", report.threads().markdown()));
    parts.push(format!("## What a worker may call\n\n{NOTE_CALLS}\n\n{}\n", lists(report, worker)));
    parts.push(format!("## Capabilities kept\n\n{}\n", lists(report, capabilities)));
    parts.push(format!("## Descriptors\n\n{}\n", lists(report, descriptors)));
    parts.push(format!("## Kernel functions\n\n{}\n", lists(report, functions)));
    let lines: Vec<_> = report.lines.iter().map(|(name, lines)| format!("- {name}: {lines}")).collect();
    parts.push(format!("## Our own lines before the gate\n\n{NOTE_LINES}\n\n{}\n", lines.join("\n")));
    parts.join("\n")
}

const HOW: &str = "\
## How it is measured

Every daemon gets the same requests in the same order, from a front-end that plays VMM and guest (`tests/src/surface/`):
three rounds of every operation that virtio-fs guests send (metadata, data, names, listing, extended attributes, locks,
fsync, fallocate by mode, copy, rename with flags, nodes of each type), then requests that only a hostile guest sends.
What does not decode (cut off, lying lengths, garbage, offsets beyond any file, malformed descriptor chains) goes to
pinhole alone: virtiofsd 1.14 ends at the first of it. That can only add to pinhole's figures. Both serve extended
attributes (`--xattr`) and are otherwise started as they come, as root, in their own default sandbox with their own filter.
Without that option pinhole's filters have no row for attributes (a test of `policy` holds the counts).

- **System calls allowed**: the filters as the kernel got them, caught by strace, evaluated for each call of x86-64 with
  every value of its arguments at once; the kernel's own count of each thread's filters is compared with what was caught.
- **Called**: by strace, all threads; the start is everything up to the ready line, the load everything after INIT and one
  read of what the host has to fetch: what a daemon starts when it is first needed, such as a thread, is not the load's.
- **Capabilities, descriptors, mounts, threads**: of the process that serves, from /proc, after the load. strace's own
  handling of a process changes none of them.
- **Kernel functions**: distinct functions that the daemon's threads entered, by the function tracer of a stock Debian
  kernel in a QEMU guest that plays the host, the share on ext4. What runs in an interrupt is left out; page faults and
  the scheduler's work for a thread count. Work that the kernel hands to threads of its own (write-back, the disk) counts
  for nobody. Functions that are inlined or that the tracer cannot trace (entry code) are not seen. What depends on timing
  comes and goes: some dozens of functions differ from run to run.
- **Lines**: of the files that a request passes before the gate, without comments, empty lines and tests. Of virtiofsd
  there is no such number, for want of such a gate.
";

const NOTE_CALLS: &str = "`*`: only with some arguments.";

const NOTE_LINES: &str = "Whole files: also lines in them that a request passes only behind the gate.";

fn lists(report: &Report, each: fn(&Report, &Seen) -> String) -> String {
    let items =
        report.daemons.iter().map(|seen| format!("- **{}**: {}", seen.subject.name, each(report, seen)));
    items.collect::<Vec<_>>().join("\n")
}

fn worker(_: &Report, seen: &Seen) -> String {
    let Some(worker) = seen.native.worker() else { return "no worker was seen".to_owned() };
    let all = worker.allowed.values().all(|verdict| *verdict == Verdict::Always);
    // No allow list has all of them.
    if all && worker.allowed.len() > 300 {
        return "everything: it is under no filter".to_owned();
    }
    Report::calls_in_words(worker)
}

fn capabilities(_: &Report, seen: &Seen) -> String {
    if seen.native.capabilities.is_empty() { "none".to_owned() } else { seen.native.capabilities.join(", ") }
}

fn descriptors(_: &Report, seen: &Seen) -> String {
    let counted = seen.native.descriptors.iter().map(|(kind, count)| format!("{count} {kind}"));
    counted.collect::<Vec<_>>().join(", ")
}

fn functions(report: &Report, seen: &Seen) -> String {
    let (Some(own), Some(peer)) = (&seen.reached, report.peer().and_then(|peer| peer.reached.as_ref()))
    else {
        return "not measured in this run".to_owned();
    };
    let (beyond, less) = (own.beyond(peer).len(), peer.beyond(own).len());
    format!(
        "{} under the load; {beyond} that virtiofsd does not reach, {less} of virtiofsd's not reached",
        own.steady.len()
    )
}
