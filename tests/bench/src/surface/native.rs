//! Runs a daemon on this host under strace, with the load. Measures the system calls of the daemon,
//! the calls that its filters permit, and what its serving process holds after the load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::filter::{self, CallVerdict};
use super::names::Names;
use super::strace::{self, Trace};
use super::subject::{Subject, SurfacePrograms};
use crate::bench::cost::processes::children;
use crate::step::{Failure, Outcome};

/// Time without system calls after which the daemon counts as idle.
const REST: Duration = Duration::from_millis(300);

/// Longest time until the daemon must be idle.
const LIMIT: Duration = Duration::from_secs(30);

/// System calls that a thread of pinhole makes only to end: `ends_thread` of the table in `policy`.
/// `munmap`, which frees its stack, has other uses too.
const ENDING: [&str; 4] = ["exit", "madvise", "rt_sigprocmask", "sigaltstack"];

/// Results of one daemon on this host.
#[derive(Clone, Debug)]
pub(super) struct Native {
    /// Threads of the serving process, by name without number.
    pub(super) kinds: BTreeMap<String, ThreadKind>,
    /// System calls of all processes of the daemon up to the ready line.
    pub(super) called_at_start: BTreeSet<String>,
    /// System calls of all processes of the daemon under the load.
    pub(super) called: BTreeSet<String>,
    /// Capabilities that any thread of the serving process has.
    pub(super) capabilities: Vec<String>,
    /// Number of descriptors of the serving process, by kind of target.
    pub(super) descriptors: BTreeMap<String, usize>,
    /// Number of mounts that the serving process sees.
    pub(super) mounts: usize,
    /// Requests of the load that succeeded.
    pub(super) done: u64,
    /// Requests of the load that were refused.
    pub(super) refused: u64,
}

/// Threads of the serving process with the same name, apart from a number at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct ThreadKind {
    /// Number of threads.
    pub(super) threads: usize,
    /// System calls that any of them may make, with any or with some arguments.
    pub(super) allowed: BTreeMap<String, CallVerdict>,
    /// System calls under the load.
    pub(super) called: BTreeSet<String>,
}

impl ThreadKind {
    /// Returns the number of allowed calls that a thread makes only to end.
    pub(super) fn ending(&self) -> usize {
        self.allowed.keys().filter(|name| ENDING.contains(&name.as_str())).count()
    }

    /// Returns the number of allowed calls, and of those that are allowed only with some arguments.
    pub(super) fn counts(&self) -> (usize, usize) {
        let filtered = self.allowed.values().filter(|verdict| **verdict == CallVerdict::Filtered).count();
        (self.allowed.len(), filtered)
    }
}

impl Native {
    /// Returns the queue threads: `request-N` in pinhole, `vring_worker` in virtiofsd.
    pub(super) fn queue_thread(&self) -> Option<&ThreadKind> {
        self.kinds.get("request").or_else(|| self.kinds.get("vring_worker"))
    }

    /// Returns all threads of the serving process as one kind.
    pub(super) fn process(&self) -> ThreadKind {
        let mut all = ThreadKind::default();
        for kind in self.kinds.values() {
            all.add(kind.threads, &kind.allowed, kind.called.iter().cloned());
        }
        all
    }
}

impl ThreadKind {
    /// Adds threads. A call counts as filtered only if no thread may make it with any arguments.
    fn add(
        &mut self,
        threads: usize,
        allowed: &BTreeMap<String, CallVerdict>,
        called: impl Iterator<Item = String>,
    ) {
        self.threads += threads;
        for (name, verdict) in allowed {
            let known = self.allowed.entry(name.clone()).or_insert(*verdict);
            *known = (*known).min(*verdict);
        }
        self.called.extend(called);
    }
}

/// Starts the daemon in `folder`, runs the load against it and measures.
///
/// # Errors
/// Fails if the daemon, strace or the load fails.
pub(super) fn measure(
    subject: Subject,
    programs: &SurfacePrograms,
    names: &Names,
    folder: &Path,
) -> Outcome<Native> {
    let share = folder.join(subject.name);
    fs::create_dir(&share).map_err(Failure::io("cannot create the share"))?;
    let output = folder.join(format!("{}.strace", subject.name));
    let strace = strace::COMMAND.iter().map(PathBuf::from).chain([output.clone()]);
    let daemon = subject.daemon(&programs.pinhole, &share)?.under(strace);
    let daemon = daemon.start().map_err(|error| Failure::new(error.to_string()))?;
    let ready = line_count_when_idle(&output)?;
    let mut load = PlayerProcess::start(subject, &programs.bench, &share, daemon.socket())?;
    load.read_until("connected")?;
    let connected = line_count_when_idle(&output)?;
    load.let_continue()?;
    let counts = load.read_until("played").map_err(|failure| {
        Failure::new(format!("{}: {failure}\noutput of the daemon:\n{}", subject.name, daemon.stderr()))
    })?;
    let played = line_count_when_idle(&output)?;
    let text = read(&output)?;
    let trace = Trace::parse(&text)?;
    let (done, refused) = count_outcomes(&counts);
    let own = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
    let process = serving_process(daemon.id())?;
    let mut native = Native {
        kinds: BTreeMap::new(),
        called_at_start: own(trace.called((0, ready), None)),
        called: own(trace.called((connected, played), None)),
        capabilities: Vec::new(),
        descriptors: descriptors(process)?,
        mounts: read(&proc(process, "mountinfo"))?.lines().count(),
        done,
        refused,
    };
    inspect_threads(process, &trace, names, (connected, played), &mut native)?;
    Ok(native)
}

/// Adds the names, capabilities, filters and calls of the threads of `process` to `native`.
/// `steady` is the range of lines under the load.
///
/// # Errors
/// Fails if strace saw another number of filters than the kernel reports.
fn inspect_threads(
    process: u32,
    trace: &Trace,
    names: &Names,
    steady: (usize, usize),
    native: &mut Native,
) -> Outcome {
    let mut capabilities = 0;
    for thread in entries(&proc(process, "task"))? {
        let Ok(id) = thread.parse::<u32>() else { continue };
        let status = read(&proc(process, &format!("task/{id}/status")))?;
        capabilities |= permitted_capabilities(&status).unwrap_or(0);
        let filters = trace.filters(id);
        let stated = field(&status, "Seccomp_filters:").and_then(|count| count.parse().ok());
        if stated.is_some_and(|count: usize| count != filters.len()) {
            return Err(Failure::new(format!(
                "thread {id} has {stated:?} filters, but strace saw {}",
                filters.len()
            )));
        }
        let allowed = names.calls.iter().map(|(number, name)| (name, filter::verdict(&filters, *number)));
        let allowed = allowed.filter(|(_, verdict)| *verdict != CallVerdict::Never);
        let allowed = allowed.map(|(name, verdict)| (name.clone(), verdict)).collect();
        let called = trace.called(steady, Some(id)).into_iter().map(str::to_owned);
        let kind = kind_name(field(&status, "Name:").unwrap_or("unnamed"));
        native.kinds.entry(kind).or_default().add(1, &allowed, called);
    }
    native.capabilities = names.of_set(capabilities).into_iter().map(str::to_owned).collect();
    Ok(())
}

/// Returns the name of a thread without its number: `request` for `request-3`.
fn kind_name(name: &str) -> String {
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    if plain.is_empty() { name } else { plain }.to_owned()
}

/// Returns the serving process: the descendant of strace with the most threads.
fn serving_process(strace: u32) -> Outcome<u32> {
    let children = children()?;
    let mut open = vec![strace];
    let mut family = Vec::new();
    while let Some(process) = open.pop() {
        open.extend(children.get(&process).into_iter().flatten());
        if process != strace {
            let threads = entries(&proc(process, "task"))?.len();
            family.push((threads, process));
        }
    }
    family.sort_unstable();
    family.last().map(|(_, process)| *process).ok_or_else(|| Failure::new("strace started no process"))
}

/// Returns the path of a file of a process in /proc.
fn proc(process: u32, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/{what}"))
}

/// Reads a text file.
fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(Failure::io(format!("cannot read {}", path.display())))
}

/// Returns the names in a folder.
fn entries(folder: &Path) -> Outcome<Vec<String>> {
    let listed = fs::read_dir(folder).map_err(Failure::io(format!("cannot list {}", folder.display())))?;
    Ok(listed.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Returns the value of a field of `/proc/PID/status`.
fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Returns the set of permitted capabilities in `/proc/PID/status`.
fn permitted_capabilities(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapPrm:")?, 16).ok()
}

/// Returns the number of descriptors of a process, by kind of target.
fn descriptors(process: u32) -> Outcome<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for number in entries(&proc(process, "fd"))? {
        let link = fs::read_link(proc(process, &format!("fd/{number}")));
        // Skips a descriptor that was closed meanwhile.
        let Ok(target) = link else { continue };
        *kinds.entry(target_kind(&target.to_string_lossy())).or_default() += 1;
    }
    Ok(kinds)
}

/// Returns the kind of the target of a descriptor: `anon_inode:[eventfd]`, `socket:[123]`,
/// `/memfd:guest-memory (deleted)`, or a path.
fn target_kind(target: &str) -> String {
    if let Some(kind) = target.strip_prefix("anon_inode:") {
        return kind.trim_matches(['[', ']']).to_owned();
    }
    if target.starts_with("/memfd:") {
        return "guest memory".to_owned();
    }
    if target == "/dev/null" || target.starts_with("/proc") {
        return target.to_owned();
    }
    match target.split_once(":[") {
        Some((kind, _)) => kind.to_owned(),
        None => "file or folder".to_owned(),
    }
}

/// Waits until the daemon is idle: the output of strace stops growing. Returns the number of lines
/// of that output.
fn line_count_when_idle(output: &Path) -> Outcome<usize> {
    let began = Instant::now();
    let mut before = read(output)?.lines().count();
    loop {
        // No event tells that a daemon is idle.
        std::thread::park_timeout(REST);
        let now = read(output)?.lines().count();
        if now == before {
            return Ok(now);
        }
        if began.elapsed() > LIMIT {
            return Err(Failure::new(format!(
                "the daemon is not idle: it still makes system calls after {} s",
                LIMIT.as_secs()
            )));
        }
        before = now;
    }
}

/// Returns the numbers of successful and refused requests, from lines `opcode done errno:count
/// ...`.
fn count_outcomes(counts: &str) -> (u64, u64) {
    let (mut done, mut refused) = (0, 0);
    for line in counts.lines() {
        for (at, word) in line.split(' ').enumerate().skip(1) {
            match word.split_once(':') {
                Some((_, count)) => refused += count.parse().unwrap_or(0),
                None if at == 1 => done += word.parse().unwrap_or(0),
                None => {}
            }
        }
    }
    (done, refused)
}

/// Process that sends the load. Dropping the value ends the process.
struct PlayerProcess {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl PlayerProcess {
    /// Starts the process for a running daemon.
    fn start(subject: Subject, program: &Path, share: &Path, socket: &Path) -> Outcome<Self> {
        let mut command = Command::new(program);
        command.args(["surface-load", "play"]).arg("--share").arg(share).arg("--socket").arg(socket);
        if subject.outlives_malformed() {
            command.arg("--malformed");
        }
        if subject.serves_an_image() {
            command.arg("--image");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::io("cannot start the load"))?;
        let output = child.stdout.take().ok_or_else(|| Failure::new("the load has no standard output"))?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Returns the lines that the load prints before the line `word`.
    fn read_until(&mut self, word: &str) -> Outcome<String> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let len = self
                .output
                .read_line(&mut line)
                .map_err(Failure::io("cannot read the output of the load"))?;
            if len == 0 {
                return Err(self.failure());
            }
            if line.trim_end() == word {
                return Ok(text);
            }
            text.push_str(&line);
        }
    }

    /// Lets the process continue after a line that it printed.
    fn let_continue(&mut self) -> Outcome {
        let input =
            self.child.stdin.as_mut().ok_or_else(|| Failure::new("the load has no standard input"))?;
        input.write_all(b"\n").map_err(Failure::io("cannot tell the load to continue"))
    }

    /// Returns an error with the messages of the process.
    fn failure(&mut self) -> Failure {
        let mut said = String::new();
        if let Some(errors) = self.child.stderr.as_mut()
            && let Err(error) = errors.read_to_string(&mut said)
        {
            return Failure::new(format!("cannot read the errors of the load: {error}"));
        }
        Failure::new(format!("the load failed: {}", said.trim_end()))
    }
}

impl Drop for PlayerProcess {
    fn drop(&mut self) {
        // Ignore the result of kill: the process may have ended already. wait reaps it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_kinds_have_no_number() {
        assert_eq!(["request-3", "hiprio", "pool", "7"].map(kind_name), ["request", "hiprio", "pool", "7"]);
    }

    #[test]
    fn descriptors_are_named_by_their_target() {
        let targets =
            ["anon_inode:[eventfd]", "socket:[12]", "/memfd:guest-memory (deleted)", "/srv", "/dev/null"];
        let kinds = ["eventfd", "socket", "guest memory", "file or folder", "/dev/null"];
        assert_eq!(targets.map(target_kind), kinds);
    }

    #[test]
    fn requests_are_counted_by_outcome() {
        assert_eq!(count_outcomes("1 33 2:6 22:6\n39 0 25:12\n"), (33, 24));
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = "Name:\trequest-1\nCapPrm:\t00000000000000c1\nSeccomp_filters:\t2\n";
        assert_eq!(permitted_capabilities(status), Some(0xc1));
        assert_eq!(field(status, "Seccomp_filters:"), Some("2"));
    }

    #[test]
    fn wider_filter_of_two_threads_counts() {
        let allowed = |verdict| BTreeMap::from([("fcntl".to_owned(), verdict)]);
        let mut kind = ThreadKind::default();
        kind.add(1, &allowed(CallVerdict::Filtered), ["fcntl".to_owned()].into_iter());
        assert_eq!(kind.counts(), (1, 1));
        kind.add(1, &allowed(CallVerdict::Always), std::iter::empty());
        assert_eq!((kind.counts(), kind.threads), ((1, 0), 2));
    }
}
