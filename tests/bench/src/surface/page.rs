//! Writes docs/measured/surface.md and its chart.

use std::fs;
use std::path::Path;

use super::filter::CallVerdict;
use super::report::{ALLOWED, DaemonResults, RATIO_TO_VIRTIOFSD, REACHED, SurfaceReport};
use super::subject::DaemonKind;
use crate::bench::aims::Bound;
use crate::bench::chart::{Bar, Chart, paint};
use crate::bench::figure::Better;
use crate::bench::samples::Spread;
use crate::step::{Failure, Outcome};

/// Rows of the table that become bars of the chart.
const BARS: [&str; 5] =
    [ALLOWED, "system calls allowed, any thread", "capabilities kept", "mounts visible", REACHED];

/// Explanation of the bars.
const LEGEND: &str = "bar: pinhole / virtiofsd, blue: aim";

/// Writes the page and the chart below `root`.
///
/// # Errors
/// Fails if a file cannot be written.
pub(super) fn write(report: &SurfaceReport, root: &Path) -> Outcome {
    let folder = root.join("docs/measured");
    fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot create {}", folder.display())))?;
    let chart =
        Chart { title: "Host surface: pinhole / virtiofsd".to_owned(), legend: LEGEND, bars: bars(report) };
    let mut drawn = String::new();
    let when = format!("{}; {}", report.conditions.date, report.conditions.host);
    paint(&chart, &when, &mut drawn)
        .map_err(|error| Failure::new(format!("cannot draw the chart: {error}")))?;
    for (path, text) in [(folder.join("surface.svg"), drawn), (folder.join("surface.md"), page(report))] {
        fs::write(&path, text).map_err(Failure::io(format!("cannot write {}", path.display())))?;
    }
    Ok(())
}

/// Returns the bars of the chart, each with the limit of its profile if there is one.
fn bars(report: &SurfaceReport) -> Vec<Bar> {
    let Some(peer) = report.peer() else { return Vec::new() };
    let mut all = Vec::new();
    for row in BARS {
        for seen in report.daemons.iter().filter(|seen| seen.subject.kind != DaemonKind::Virtiofsd) {
            let (Some(own), Some(other)) = (seen.figure(row), peer.figure(row)) else { continue };
            let ratio = own / other;
            let aim = report.aims().into_iter().find(|aim| {
                aim.profile == seen.subject.name
                    && (aim.what == row || (row == REACHED && aim.what == RATIO_TO_VIRTIOFSD))
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

/// Returns the text of the page.
fn page(report: &SurfaceReport) -> String {
    let mut parts = vec![format!(
        "# Host surface, {}\n\nHow much of the host can each daemon reach, and how much does it reach? This page \
         compares\nPinhole in each profile and virtiofsd. `cargo xtask surface --write` writes it.\n\n- host: {}\n- programs: {}\n",
        report.conditions.date, report.conditions.host, report.conditions.versions
    )];
    parts.push(HOW.to_owned());
    parts.push(format!("## Aims\n\n{}\n", report.aims_table().markdown()));
    parts.push(format!(
        "## Figures\n\n![pinhole / virtiofsd](surface.svg)\n\n{}\n",
        report.table().markdown()
    ));
    parts.push(format!("## Threads\n\n{}\n", report.threads().markdown()));
    parts.push(format!(
        "## System calls allowed to a queue thread\n\n{NOTE_CALLS}\n\n{}\n",
        lists(report, queue_thread)
    ));
    parts.push(format!("## Capabilities kept\n\n{}\n", lists(report, capabilities)));
    parts.push(format!("## Descriptors\n\n{}\n", lists(report, descriptors)));
    parts.push(format!("## Kernel functions\n\n{}\n", lists(report, functions)));
    parts.join("\n")
}

/// Section of the page on the method.
const HOW: &str = "\
## Method

A front-end that acts as VMM and guest (`tests/src/surface/`) sends the same requests in the same
order to every daemon:

1. Three rounds of every operation that virtio-fs guests send: metadata, data, names, listing,
   extended attributes, locks, fsync, fallocate by mode, copy, rename with flags, nodes of each
   type.
2. Requests that only a hostile guest sends.
3. Messages that do not decode: cut off, wrong lengths, garbage, offsets beyond any file, malformed
   descriptor chains. Only pinhole gets these, because virtiofsd 1.14 ends at the first one. They
   can only add to the figures of pinhole.

All daemons serve extended attributes (`--xattr`). Otherwise they start with their defaults: as
root, in their own sandbox, with their own filter. Without `--xattr`, the filters of pinhole permit
no calls that read or change extended attributes. The test `queue_thread_may_make_this_many_calls`
in `policy/src/host_calls.rs` checks the number of permitted calls with and without `--xattr`. The
daemon `prepared` serves an image of the same files, which `pinhole prepare` has made. It answers
the OPEN of a file with ENOSYS and then reads without a file handle, as for Linux.

- **System calls allowed:** strace records the filters that the kernel got. Each filter is evaluated
  for every system call of x86-64 and for all values of its arguments. The number of recorded
  filters of each thread must equal the number that the kernel reports. Calls *only to end* a thread
  are `exit`, `madvise`, `rt_sigprocmask` and `sigaltstack`.
- **System calls called:** recorded by strace, for all threads. *Start* ends with the ready line.
  *Load* begins after INIT and one read that the host has to fetch from the disk. So it does not
  contain what a daemon starts at the first use, such as a thread.
- **Capabilities, descriptors, mounts, threads:** those of the serving process after the load, from
  /proc. strace changes none of them.
- **Kernel functions:** different functions that threads of the daemon entered. The function tracer
  of a stock Debian kernel counts them in a QEMU guest that acts as the host; the share is on ext4.
  Page faults and the scheduler's work for a thread count, and interrupts do not. Work that the
  kernel gives to its own threads (write-back, the disk) counts for no daemon. The tracer does not
  see inlined functions and entry code. Some dozens of functions depend on timing and differ from
  run to run.
";

/// Explanation of the mark in lists of system calls.
const NOTE_CALLS: &str = "`*`: only with some arguments.";

/// Returns a Markdown list with an item for each daemon.
fn lists(report: &SurfaceReport, each: fn(&SurfaceReport, &DaemonResults) -> String) -> String {
    let items =
        report.daemons.iter().map(|seen| format!("- **{}**: {}", seen.subject.name, each(report, seen)));
    items.collect::<Vec<_>>().join("\n")
}

/// Returns the system calls allowed to a queue thread.
fn queue_thread(_: &SurfaceReport, seen: &DaemonResults) -> String {
    let Some(kind) = seen.native.queue_thread() else { return "strace saw no queue thread".to_owned() };
    let all = kind.allowed.values().all(|verdict| *verdict == CallVerdict::Always);
    // A filter never permits as many calls.
    if all && kind.allowed.len() > 300 {
        return "every call: the thread has no filter".to_owned();
    }
    SurfaceReport::calls_in_words(kind)
}

/// Returns the names of the capabilities that a daemon keeps.
fn capabilities(_: &SurfaceReport, seen: &DaemonResults) -> String {
    if seen.native.capabilities.is_empty() { "none".to_owned() } else { seen.native.capabilities.join(", ") }
}

/// Returns the number of descriptors of each kind.
fn descriptors(_: &SurfaceReport, seen: &DaemonResults) -> String {
    let counted = seen.native.descriptors.iter().map(|(kind, count)| format!("{count} {kind}"));
    counted.collect::<Vec<_>>().join(", ")
}

/// Returns the numbers of kernel functions beside those of virtiofsd.
fn functions(report: &SurfaceReport, seen: &DaemonResults) -> String {
    let (Some(own), Some(peer)) = (&seen.reached, report.peer().and_then(|peer| peer.reached.as_ref()))
    else {
        return "not measured in this run".to_owned();
    };
    let (beyond, less) = (own.beyond(peer).len(), peer.beyond(own).len());
    format!(
        "{} under load; {beyond} of them virtiofsd does not reach; {less} only virtiofsd reaches",
        own.steady.len()
    )
}
