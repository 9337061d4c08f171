//! Plays many programs with some subjects on some file systems, on several threads.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use pinhole_tests::disk_faults::FileSystem;

use crate::disk::states::Bounds;
use crate::drive::subject::{Subject, Tested};
use crate::host::{Host, Rate};
use crate::judge::{Difference, Verdict, Violation, judge};
use crate::minimize::{confirm, minimize};
use crate::program::Program;

/// Programs that are played on one recorded disk. A disk has space for twice as many.
const BATCH_LEN: usize = 64;

/// What to play.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// File systems.
    pub(crate) kinds: Vec<FileSystem>,
    /// Subjects.
    pub(crate) subjects: Vec<Tested>,
    /// Programs.
    pub(crate) programs: Vec<Program>,
    /// Bounds on the crash states of a program.
    pub(crate) bounds: Bounds,
    /// Number of threads.
    pub(crate) threads: usize,
}

/// Confirmed violation.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// File system.
    pub(crate) kind: FileSystem,
    /// Index of the subject in the plan.
    pub(crate) subject: usize,
    /// Shortest program that was found.
    pub(crate) program: Program,
    /// Its violation.
    pub(crate) violation: Violation,
}

/// Counts of one file system and subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Programs whose facts hold in all crash states.
    pub(crate) held: u64,
    /// Programs with a step that ends differently than natively.
    pub(crate) not_comparable: u64,
    /// Programs with a confirmed violation.
    pub(crate) violated: u64,
    /// Programs with a violation that did not happen again.
    pub(crate) unconfirmed: u64,
}

/// Results of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    /// Counts by file system name and index of the subject.
    pub(crate) counts: BTreeMap<(&'static str, usize), Counts>,
    /// Steps that ended differently, as text, with the number of programs.
    pub(crate) differences: BTreeMap<(usize, String), u64>,
    /// Confirmed violations.
    pub(crate) findings: Vec<Finding>,
    /// Crash states and the time for them, of all threads.
    pub(crate) rate: Rate,
}

/// Result of one batch with one subject.
struct Judged {
    kind: FileSystem,
    subject: usize,
    verdicts: Vec<Checked>,
    rate: Rate,
}

/// Verdict after a violation was played again.
enum Checked {
    Held,
    NotComparable(Difference),
    Unconfirmed,
    Violated(Box<(Program, Violation)>),
}

/// Part of a plan that one thread plays on one disk.
struct Batch<'p> {
    kind: FileSystem,
    programs: &'p [Program],
}

/// Plays a plan. `progress` is called with the number of programs of each finished batch.
///
/// # Errors
/// Fails if a disk or a subject does not start or end.
pub(crate) fn play(plan: &Plan, mut progress: impl FnMut(u64, &Results)) -> io::Result<Results> {
    let batches: Vec<Batch<'_>> = plan
        .kinds
        .iter()
        .flat_map(|kind| plan.programs.chunks(BATCH_LEN).map(|programs| Batch { kind: *kind, programs }))
        .collect();
    let next = AtomicUsize::new(0);
    let (sender, judged) = channel();
    std::thread::scope(|scope| {
        for _thread in 0..plan.threads.max(1) {
            let sender = sender.clone();
            scope.spawn(|| {
                if let Err(error) = work(plan, &batches, &next, &sender) {
                    next.store(batches.len(), Ordering::Relaxed);
                    // Ignore the result: the receiver has stopped at another error.
                    drop(sender.send(Err(error)));
                }
                drop(sender);
            });
        }
        drop(sender);
        collect(&judged, &mut progress)
    })
}

/// Adds up the results of all threads.
fn collect(
    judged: &Receiver<io::Result<Judged>>,
    progress: &mut impl FnMut(u64, &Results),
) -> io::Result<Results> {
    let mut results = Results::default();
    for judged in judged {
        let Judged { kind, subject, verdicts, rate } = judged?;
        let played = verdicts.len() as u64;
        results.rate.states += rate.states;
        results.rate.took += rate.took;
        let counts = results.counts.entry((kind.name(), subject)).or_default();
        for verdict in verdicts {
            match verdict {
                Checked::Held => counts.held += 1,
                Checked::Unconfirmed => counts.unconfirmed += 1,
                Checked::NotComparable(difference) => {
                    counts.not_comparable += 1;
                    *results.differences.entry((subject, difference.to_string())).or_default() += 1;
                }
                Checked::Violated(found) => {
                    counts.violated += 1;
                    let (program, violation) = *found;
                    results.findings.push(Finding { kind, subject, program, violation });
                }
            }
        }
        progress(played, &results);
    }
    Ok(results)
}

/// Plays batches until none is left.
fn work(
    plan: &Plan,
    batches: &[Batch<'_>],
    next: &AtomicUsize,
    results: &Sender<io::Result<Judged>>,
) -> io::Result<()> {
    let mut host: Option<Host> = None;
    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
        let mut of_kind = match host.take().filter(|host| host.kind() == batch.kind) {
            Some(host) => host,
            None => Host::new(batch.kind)?,
        };
        let native = of_kind.run(&Subject::Native, batch.programs, plan.bounds)?;
        for (index, Tested { subject, .. }) in plan.subjects.iter().enumerate() {
            let runs = of_kind.run(subject, batch.programs, plan.bounds)?;
            let mut verdicts = Vec::new();
            for ((program, native), run) in batch.programs.iter().zip(&native).zip(&runs) {
                verdicts.push(match judge(program, &[native], run) {
                    Verdict::Held => Checked::Held,
                    Verdict::NotComparable(difference) => Checked::NotComparable(difference),
                    Verdict::Violated(_) => again(&mut of_kind, subject, program, plan.bounds)?,
                });
            }
            let rate = of_kind.take_rate();
            if results.send(Ok(Judged { kind: batch.kind, subject: index, verdicts, rate })).is_err() {
                return Ok(());
            }
        }
        host = Some(of_kind);
    }
    Ok(())
}

/// Plays a violated program again, and minimizes it if it is violated again.
fn again(host: &mut Host, subject: &Subject, program: &Program, bounds: Bounds) -> io::Result<Checked> {
    let Some(violation) = confirm(host, subject, program, bounds)? else { return Ok(Checked::Unconfirmed) };
    let found = minimize(host, subject, (program.clone(), violation), bounds)?;
    Ok(Checked::Violated(Box::new(found)))
}
