//! A daemon on this machine under strace, with the load: what it calls, what its filters let through, and what its
//! process holds when the load is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::filter::{self, Verdict};
use super::names::Names;
use super::strace::{self, Trace};
use super::subject::{Programs, Subject};
use crate::bench::cost::processes::children;
use crate::step::{Failure, Outcome};

/// So long nothing is called any more: the daemon waits.
const REST: Duration = Duration::from_millis(300);

/// How long it may take to come to rest.
const LIMIT: Duration = Duration::from_secs(30);

/// What one daemon is seen to be on this machine.
#[derive(Clone, Debug)]
pub(super) struct Native {
    /// By the names of threads, without their numbers; the kinds of the serving process alone.
    pub(super) kinds: BTreeMap<String, ThreadKind>,
    /// Called by any thread of any of its processes up to the ready line.
    pub(super) called_at_start: BTreeSet<String>,
    /// While the load was played.
    pub(super) called: BTreeSet<String>,
    /// Permitted to any thread of the serving process.
    pub(super) capabilities: Vec<String>,
    /// What each descriptor of the serving process leads to, by kind.
    pub(super) descriptors: BTreeMap<String, usize>,
    /// Mounts that the serving process sees.
    pub(super) mounts: usize,
    /// Requests of the load answered with success, and refused.
    pub(super) done: u64,
    pub(super) refused: u64,
}

/// Threads of one name.
#[derive(Clone, Debug, Default)]
pub(super) struct ThreadKind {
    pub(super) threads: usize,
    /// By system call: what any of them may call, at all or with some arguments.
    pub(super) allowed: BTreeMap<String, Verdict>,
    /// While the load was played.
    pub(super) called: BTreeSet<String>,
}

impl ThreadKind {
    /// How many calls, and how many of them only with some arguments.
    pub(super) fn counts(&self) -> (usize, usize) {
        let filtered = self.allowed.values().filter(|verdict| **verdict == Verdict::Filtered).count();
        (self.allowed.len(), filtered)
    }
}

impl Native {
    /// The threads that serve requests: `request-N` of ours, `vring_worker` of the peer.
    pub(super) fn worker(&self) -> Option<&ThreadKind> {
        self.kinds.get("request").or_else(|| self.kinds.get("vring_worker"))
    }

    /// The union over all threads of the serving process.
    pub(super) fn process(&self) -> ThreadKind {
        let mut all = ThreadKind::default();
        for kind in self.kinds.values() {
            all.add(kind.threads, &kind.allowed, kind.called.iter().cloned());
        }
        all
    }
}

impl ThreadKind {
    fn add(
        &mut self,
        threads: usize,
        allowed: &BTreeMap<String, Verdict>,
        called: impl Iterator<Item = String>,
    ) {
        self.threads += threads;
        for (name, verdict) in allowed {
            let place = self.allowed.entry(name.clone()).or_insert(*verdict);
            *place = (*place).min(*verdict);
        }
        self.called.extend(called);
    }
}

/// Starts the daemon in `place`, plays the load to it and looks.
///
/// # Errors
/// Where the daemon, strace or the load fails.
pub(super) fn measure(subject: Subject, programs: &Programs, names: &Names, place: &Path) -> Outcome<Native> {
    let share = place.join(subject.name);
    fs::create_dir(&share).map_err(Failure::io("cannot make a share"))?;
    let output = place.join(format!("{}.strace", subject.name));
    let before = strace::COMMAND.iter().map(PathBuf::from).chain([output.clone()]);
    let daemon = subject.daemon(&programs.pinhole, &share)?.under(before);
    let daemon = daemon.start().map_err(|error| Failure::new(error.to_string()))?;
    let ready = settled(&output)?;
    let mut load = Load::start(subject, &programs.surface, &share, daemon.socket())?;
    load.until("connected")?;
    let connected = settled(&output)?;
    load.go_on()?;
    let counts = load.until("played").map_err(|failure| {
        Failure::new(format!("{}: {failure}\nits daemon:\n{}", subject.name, daemon.stderr()))
    })?;
    let played = settled(&output)?;
    let text = read(&output)?;
    let trace = Trace::parse(&text)?;
    let (done, refused) = outcomes(&counts);
    let own = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
    let process = serving(daemon.id())?;
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
    look(process, &trace, names, (connected, played), &mut native)?;
    Ok(native)
}

/// Threads: names, capabilities, filters, calls.
fn look(process: u32, trace: &Trace, names: &Names, steady: (usize, usize), native: &mut Native) -> Outcome {
    let mut capabilities = 0;
    for thread in entries(&proc(process, "task"))? {
        let Ok(id) = thread.parse::<u32>() else { continue };
        let status = read(&proc(process, &format!("task/{id}/status")))?;
        capabilities |= permitted(&status).unwrap_or(0);
        let filters = trace.filters(id);
        let stated = field(&status, "Seccomp_filters:").and_then(|count| count.parse().ok());
        if stated.is_some_and(|count: usize| count != filters.len()) {
            return Err(Failure::new(format!(
                "thread {id} is under {stated:?} filters, and strace saw {}",
                filters.len()
            )));
        }
        let allowed = names.calls.iter().map(|(number, name)| (name, filter::verdict(&filters, *number)));
        let allowed = allowed.filter(|(_, verdict)| *verdict != Verdict::Never);
        let allowed = allowed.map(|(name, verdict)| (name.clone(), verdict)).collect();
        let called = trace.called(steady, Some(id)).into_iter().map(str::to_owned);
        let kind = kind(field(&status, "Name:").unwrap_or("unnamed"));
        native.kinds.entry(kind).or_default().add(1, &allowed, called);
    }
    native.capabilities = names.of_set(capabilities).into_iter().map(str::to_owned).collect();
    Ok(())
}

/// `request-3` is a `request`.
fn kind(name: &str) -> String {
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    if plain.is_empty() { name } else { plain }.to_owned()
}

/// The process that serves: of all that strace has started, the one with the most threads.
fn serving(strace: u32) -> Outcome<u32> {
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
    family.last().map(|(_, process)| *process).ok_or_else(|| Failure::new("strace has started nothing"))
}

fn proc(process: u32, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/{what}"))
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(Failure::io(format!("cannot read {}", path.display())))
}

fn entries(folder: &Path) -> Outcome<Vec<String>> {
    let listed = fs::read_dir(folder).map_err(Failure::io(format!("cannot list {}", folder.display())))?;
    Ok(listed.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn permitted(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapPrm:")?, 16).ok()
}

/// What the descriptors lead to, counted by kind.
fn descriptors(process: u32) -> Outcome<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for number in entries(&proc(process, "fd"))? {
        let link = fs::read_link(proc(process, &format!("fd/{number}")));
        // One that was closed meanwhile is none.
        let Ok(target) = link else { continue };
        *kinds.entry(leads_to(&target.to_string_lossy())).or_default() += 1;
    }
    Ok(kinds)
}

/// `anon_inode:[eventfd]`, `socket:[123]`, `/memfd:guest-memory (deleted)`, or a path.
fn leads_to(target: &str) -> String {
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

/// Waits until nothing is added to strace's output; the number of its lines.
fn settled(output: &Path) -> Outcome<usize> {
    let began = Instant::now();
    let mut before = read(output)?.lines().count();
    loop {
        // Nothing tells that a daemon has nothing more to do.
        std::thread::park_timeout(REST);
        let now = read(output)?.lines().count();
        if now == before {
            return Ok(now);
        }
        if began.elapsed() > LIMIT {
            return Err(Failure::new("the daemon does not come to rest"));
        }
        before = now;
    }
}

/// Of lines `opcode done errno:count ...`.
fn outcomes(counts: &str) -> (u64, u64) {
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

/// The load's program. Dropping it ends it.
struct Load {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Load {
    fn start(subject: Subject, program: &Path, share: &Path, socket: &Path) -> Outcome<Self> {
        let mut command = Command::new(program);
        command.arg("play").arg("--share").arg(share).arg("--socket").arg(socket);
        if subject.outlives_malformed() {
            command.arg("--malformed");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::io("cannot start the load"))?;
        let said = child.stdout.take().ok_or_else(|| Failure::new("a load without an output"))?;
        Ok(Self { child, said: BufReader::new(said) })
    }

    /// What it prints before the line `word`.
    fn until(&mut self, word: &str) -> Outcome<String> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let len =
                self.said.read_line(&mut line).map_err(Failure::io("cannot read what the load says"))?;
            if len == 0 {
                return Err(self.complaint());
            }
            if line.trim_end() == word {
                return Ok(text);
            }
            text.push_str(&line);
        }
    }

    fn go_on(&mut self) -> Outcome {
        let input = self.child.stdin.as_mut().ok_or_else(|| Failure::new("a load without an input"))?;
        input.write_all(b"\n").map_err(Failure::io("cannot tell the load to go on"))
    }

    fn complaint(&mut self) -> Failure {
        let mut said = String::new();
        if let Some(errors) = self.child.stderr.as_mut()
            && let Err(error) = errors.read_to_string(&mut said)
        {
            return Failure::new(format!("cannot read the load's errors: {error}"));
        }
        Failure::new(format!("the load: {}", said.trim_end()))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // One that has ended by itself needs no killing; either way it is reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_kind_differ_in_a_number() {
        assert_eq!(["request-3", "hiprio", "pool", "7"].map(kind), ["request", "hiprio", "pool", "7"]);
    }

    #[test]
    fn descriptors_are_told_by_what_they_lead_to() {
        let targets =
            ["anon_inode:[eventfd]", "socket:[12]", "/memfd:guest-memory (deleted)", "/srv", "/dev/null"];
        let kinds = ["eventfd", "socket", "guest memory", "file or folder", "/dev/null"];
        assert_eq!(targets.map(leads_to), kinds);
    }

    #[test]
    fn requests_are_counted_by_how_they_ended() {
        assert_eq!(outcomes("1 33 2:6 22:6\n39 0 25:12\n"), (33, 24));
    }

    #[test]
    fn what_a_thread_may_hold_is_read_from_its_status() {
        let status = "Name:\trequest-1\nCapPrm:\t00000000000000c1\nSeccomp_filters:\t2\n";
        assert_eq!(permitted(status), Some(0xc1));
        assert_eq!(field(status, "Seccomp_filters:"), Some("2"));
    }

    #[test]
    fn of_two_threads_of_a_kind_the_wider_one_counts() {
        let allowed = |verdict| BTreeMap::from([("fcntl".to_owned(), verdict)]);
        let mut kind = ThreadKind::default();
        kind.add(1, &allowed(Verdict::Filtered), ["fcntl".to_owned()].into_iter());
        assert_eq!(kind.counts(), (1, 1));
        kind.add(1, &allowed(Verdict::Always), std::iter::empty());
        assert_eq!((kind.counts(), kind.threads), ((1, 0), 2));
    }
}
