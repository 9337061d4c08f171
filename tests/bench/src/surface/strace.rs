//! Reads the output of strace for a daemon and all its processes: the calls and the seccomp filters
//! of each thread.
//!
//! A line is `PID call(arguments) = result`. If another thread makes a call before the result is
//! known, the call takes two lines: `... <unfinished ...>` and `<... call resumed>...`. Thread
//! numbers are those of the PID namespace of strace. `--decode-pids=pidns` adds these numbers to
//! results with numbers of another namespace.

use std::collections::{BTreeMap, BTreeSet};

use super::filter::Program;
use crate::step::Outcome;

/// Command line of strace, before the output file and the program.
pub(super) const COMMAND: [&str; 7] = [
    "strace",
    "-f",
    "-qq",
    "--decode-pids=pidns",
    // Prints filters in full.
    "--abbrev=!seccomp,prctl",
    "--signal=none",
    "-o",
];

/// Contents of an output file. Lines are numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Trace {
    calls: Vec<Call>,
    installed: Vec<Installed>,
    /// Creation of each thread, by its number.
    births: BTreeMap<u32, Birth>,
}

/// System call, at the line where it begins.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    line: usize,
    thread: u32,
    name: String,
}

/// Filter that is installed from this line on.
#[derive(Debug)]
struct Installed {
    line: usize,
    thread: u32,
    program: Program,
    /// Whether the filter applies to all threads of the process.
    whole_process: bool,
}

/// Creation of a thread or process.
#[derive(Clone, Copy, Debug)]
struct Birth {
    line: usize,
    parent: u32,
    /// Whether the new thread belongs to the process of its parent.
    is_thread: bool,
}

/// First line of a call whose result is not known yet.
struct Begun {
    line: usize,
    text: String,
}

impl Trace {
    /// Parses an output file.
    ///
    /// # Errors
    /// Fails for a filter that cannot be parsed.
    pub(super) fn parse(output: &str) -> Outcome<Self> {
        let mut trace = Self::default();
        let mut begun: BTreeMap<u32, Begun> = BTreeMap::new();
        for (line, text) in output.lines().enumerate() {
            let Some((thread, text)) = text.trim_start().split_once(' ') else { continue };
            let Ok(thread) = thread.parse() else { continue };
            let text = text.trim_start();
            if let Some(rest) = text.strip_prefix("<... ") {
                if let Some(whole) = begun.remove(&thread) {
                    let rest = rest.split_once(" resumed>").map_or("", |(_, rest)| rest);
                    trace.record(thread, whole.line, &format!("{}{rest}", whole.text))?;
                }
                continue;
            }
            // Skips lines about signals and exits.
            let Some(name) = text.split('(').next().filter(|name| is_name(name)) else { continue };
            trace.calls.push(Call { line, thread, name: name.to_owned() });
            match text.strip_suffix("<unfinished ...>") {
                Some(first) => drop(begun.insert(thread, Begun { line, text: first.to_owned() })),
                None => trace.record(thread, line, text)?,
            }
        }
        Ok(trace)
    }

    /// Records a call whose result is known.
    fn record(&mut self, thread: u32, line: usize, text: &str) -> Outcome {
        let Some((call, result)) = text.rsplit_once(" = ") else { return Ok(()) };
        if result.starts_with('-') {
            return Ok(());
        }
        let starts = ["clone(", "clone3(", "fork(", "vfork("];
        if starts.iter().any(|name| call.starts_with(name)) {
            if let Some(child) = child_number(result) {
                let birth = Birth { line, parent: thread, is_thread: call.contains("CLONE_THREAD") };
                self.births.insert(child, birth);
            }
            return Ok(());
        }
        let installs = call.starts_with("seccomp(SECCOMP_SET_MODE_FILTER")
            || call.starts_with("prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER");
        if let (true, Some((_, program))) = (installs, call.split_once("filter=")) {
            let program = Program::parse(program)?;
            let whole_process = call.contains("FILTER_FLAG_TSYNC");
            self.installed.push(Installed { line, thread, program, whole_process });
        }
        Ok(())
    }

    /// Returns the names of the calls from line `from` on and before line `to`, of `thread` or of
    /// all threads.
    pub(super) fn called(&self, (from, to): (usize, usize), thread: Option<u32>) -> BTreeSet<&str> {
        let calls = self.calls.iter().filter(|call| (from..to).contains(&call.line));
        let calls = calls.filter(|call| thread.is_none_or(|thread| call.thread == thread));
        calls.map(|call| call.name.as_str()).collect()
    }

    /// Returns the filters of `thread` at the end: its own and those that it inherited.
    pub(super) fn filters(&self, thread: u32) -> Vec<&Program> {
        self.filters_before(thread, usize::MAX)
    }

    /// Returns the filters of `thread` before a line.
    fn filters_before(&self, thread: u32, line: usize) -> Vec<&Program> {
        let birth = self.births.get(&thread);
        let born_at = birth.map_or(0, |birth| birth.line);
        let mut all =
            birth.map_or_else(Vec::new, |birth| self.filters_before(birth.parent, birth.line.min(line)));
        let process = self.process_of(thread);
        let own = self.installed.iter().filter(|installed| installed.line < line);
        let own = own.filter(|installed| {
            let shared = installed.whole_process
                && installed.line > born_at
                && self.process_of(installed.thread) == process;
            installed.thread == thread || shared
        });
        all.extend(own.map(|installed| &installed.program));
        all
    }

    /// Returns the first thread of the process of `thread`.
    fn process_of(&self, mut thread: u32) -> u32 {
        // The trace has no more generations than recorded births.
        for _ in 0..=self.births.len() {
            match self.births.get(&thread) {
                Some(birth) if birth.is_thread => thread = birth.parent,
                Some(_) | None => break,
            }
        }
        thread
    }
}

/// Returns whether a text is the name of a system call.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Returns the number of a new thread in the namespace of strace. Parses `320`, or the second
/// number of `2 /* 320 in strace's PID NS */`.
fn child_number(result: &str) -> Option<u32> {
    let number = result.split_once("/* ").map_or(result, |(_, outer)| outer);
    number.split_whitespace().next()?.parse().ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
317   execve(\"/x\", [\"x\"], 0x7ffe /* 3 vars */) = 0
317   clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f <unfinished ...>
318   prctl(PR_SET_PDEATHSIG, SIGTERM) = 0
317   <... clone resumed>)              = 318
318   seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, NULL) = -1 EFAULT (Bad address)
318   seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=1, filter=[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ALLOW)]} <unfinished ...>
317   wait4(318,  <unfinished ...>
318   <... seccomp resumed>)            = 0
318   clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0} => {parent_tid=[2 /* 320 in strace's PID NS */]}, 88) = 2 /* 320 in strace's PID NS */
320   seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=1, filter=[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_LOG)]}) = 0
320   epoll_wait(5, [], 1, 0) = 0
318   seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, {len=1, filter=[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ALLOW)]}) = 0
318   clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88) = 3 /* 321 in strace's PID NS */
320   --- SIGTERM {si_signo=SIGTERM} ---
320   +++ exited with 0 +++
";

    #[test]
    fn calls_belong_to_threads_and_line_ranges() {
        let trace = Trace::parse(OUTPUT).unwrap();
        let all = trace.called((0, usize::MAX), None);
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            ["clone", "clone3", "epoll_wait", "execve", "prctl", "seccomp", "wait4"]
        );
        assert_eq!(
            trace.called((9, usize::MAX), Some(320)).into_iter().collect::<Vec<_>>(),
            ["epoll_wait", "seccomp"]
        );
        assert!(trace.called((0, 9), Some(320)).is_empty());
    }

    #[test]
    fn thread_has_its_own_and_inherited_filters() {
        let trace = Trace::parse(OUTPUT).unwrap();
        let counts = [317, 318, 320, 321].map(|thread| trace.filters(thread).len());
        // The parent has none. The child has two. The first thread of the child has one inherited
        // filter, its own and one for all threads. The second thread inherits two.
        assert_eq!(counts, [0, 2, 3, 2]);
    }

    #[test]
    fn truncated_trace_does_not_panic() {
        for len in 0..OUTPUT.len() {
            // An incomplete filter is an error, not a panic.
            drop(Trace::parse(OUTPUT.get(..len).unwrap()));
        }
    }
}
