//! Plays many programs with some subjects on some file systems, on several threads.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use pinhole_tests::disk_faults::FileSystem;

use crate::case::Case;
use crate::disk::states::Bounds;
use crate::drive::subject::{Subject, Tested};
use crate::host::{Host, Rate};
use crate::judge::{Broken, Difference, Verdict, Violation, judge};
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
    /// Cases.
    pub(crate) cases: Vec<Case>,
    /// Bounds on the crash states of a program.
    pub(crate) bounds: Bounds,
    /// Number of threads.
    pub(crate) threads: usize,
}

impl Plan {
    /// Returns the number of programs to play: each case for each of its file systems and subjects.
    pub(crate) fn len(&self) -> u64 {
        let kinds = |case: &Case| self.kinds.iter().filter(|kind| case.is_for(kind.name())).count();
        let played = self.cases.iter().map(kinds).sum::<usize>() * self.subjects.len();
        played as u64
    }
}

/// Confirmed violation.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// File system.
    pub(crate) kind: FileSystem,
    /// Index of the subject in the plan.
    pub(crate) subject: usize,
    /// Shortest program that was found, or the litmus file.
    pub(crate) case: Case,
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
    /// Litmus files whose facts do not hold natively.
    pub(crate) wrong: u64,
}

/// Litmus file with a fact that does not hold natively.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    /// File system.
    pub(crate) kind: FileSystem,
    /// Name of the file.
    pub(crate) name: String,
    /// The facts.
    pub(crate) broken: Broken,
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
    /// Litmus files whose facts do not hold natively.
    pub(crate) wrong: Vec<Wrong>,
    /// Result of each litmus file, by its name, the file system and the index of the subject.
    pub(crate) litmus: BTreeMap<(String, &'static str, usize), &'static str>,
    /// Crash states and the time for them, of all threads.
    pub(crate) rate: Rate,
}

/// Result of one batch with one subject.
struct Judged {
    kind: FileSystem,
    subject: usize,
    /// Verdict of each case, with the name of its litmus file.
    verdicts: Vec<(Option<String>, Checked)>,
    rate: Rate,
}

/// Verdict after a violation was played again.
enum Checked {
    Held,
    NotComparable(Difference),
    Unconfirmed,
    WrongLitmus(Box<Wrong>),
    Violated(Box<(Case, Violation)>),
}

impl Checked {
    /// Returns the word for a table.
    const fn text(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotComparable(_) => "not applicable",
            Self::Unconfirmed => "unconfirmed",
            Self::WrongLitmus(_) => "wrong file",
            Self::Violated(_) => "**violated**",
        }
    }
}

/// Part of a plan that one thread plays on one disk.
struct Batch {
    kind: FileSystem,
    cases: Vec<Case>,
}

/// Plays a plan. `progress` is called with the number of programs of each finished batch.
///
/// # Errors
/// Fails if a disk or a subject does not start or end.
pub(crate) fn play(plan: &Plan, mut progress: impl FnMut(u64, &Results)) -> io::Result<Results> {
    let batches = batches(plan);
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

/// Divides a plan.
fn batches(plan: &Plan) -> Vec<Batch> {
    let mut batches = Vec::new();
    for kind in &plan.kinds {
        let cases: Vec<Case> = plan.cases.iter().filter(|case| case.is_for(kind.name())).cloned().collect();
        let of_kind = cases.chunks(BATCH_LEN).map(|cases| Batch { kind: *kind, cases: cases.to_vec() });
        batches.extend(of_kind);
    }
    batches
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
        for (litmus, verdict) in verdicts {
            if let Some(name) = litmus {
                results.litmus.insert((name, kind.name(), subject), verdict.text());
            }
            match verdict {
                Checked::Held => counts.held += 1,
                Checked::WrongLitmus(wrong) => {
                    counts.wrong += 1;
                    results.wrong.push(*wrong);
                }
                Checked::Unconfirmed => counts.unconfirmed += 1,
                Checked::NotComparable(difference) => {
                    counts.not_comparable += 1;
                    *results.differences.entry((subject, difference.to_string())).or_default() += 1;
                }
                Checked::Violated(found) => {
                    counts.violated += 1;
                    let (case, violation) = *found;
                    results.findings.push(Finding { kind, subject, case, violation });
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
    batches: &[Batch],
    next: &AtomicUsize,
    results: &Sender<io::Result<Judged>>,
) -> io::Result<()> {
    let mut host: Option<Host> = None;
    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
        let mut of_kind = match host.take().filter(|host| host.kind() == batch.kind) {
            Some(host) => host,
            None => Host::new(batch.kind)?,
        };
        let programs: Vec<Program> = batch.cases.iter().map(|case| case.program.clone()).collect();
        let native = of_kind.run(&Subject::Native, &programs, plan.bounds)?;
        for (index, Tested { subject, .. }) in plan.subjects.iter().enumerate() {
            let runs = of_kind.run(subject, &programs, plan.bounds)?;
            let mut verdicts = Vec::new();
            for ((case, native), run) in batch.cases.iter().zip(&native).zip(&runs) {
                let litmus = case.litmus.as_ref().map(|litmus| litmus.name.clone());
                let verdict = match judge(case, &[native], run) {
                    Verdict::Held => Checked::Held,
                    Verdict::NotComparable(difference) => Checked::NotComparable(difference),
                    Verdict::WrongLitmus(Violation { broken, .. }) => {
                        let name = litmus.clone().unwrap_or_default();
                        Checked::WrongLitmus(Box::new(Wrong { kind: batch.kind, name, broken }))
                    }
                    Verdict::Violated(_) => again(&mut of_kind, subject, case, plan.bounds)?,
                };
                verdicts.push((litmus, verdict));
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

/// Plays a violated program again. Minimizes it if it is violated again and no litmus file.
fn again(host: &mut Host, subject: &Subject, case: &Case, bounds: Bounds) -> io::Result<Checked> {
    let Some(violation) = confirm(host, subject, case, bounds)? else { return Ok(Checked::Unconfirmed) };
    if case.litmus.is_some() {
        return Ok(Checked::Violated(Box::new((case.clone(), violation))));
    }
    let (program, violation) = minimize(host, subject, (case.program.clone(), violation), bounds)?;
    Ok(Checked::Violated(Box::new((Case::generated(program), violation))))
}
