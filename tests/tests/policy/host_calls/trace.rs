//! Reads the output of strace call by call, and compares it with the table.

use pinhole_policy::host_calls::{ANSWERED, CallRow, Condition, Process, Test, Threads, Width, every_row};
use std::collections::{BTreeMap, BTreeSet};
use syscalls::Sysno;

const KINDS: [Threads; 4] = [Threads::CONTROL, Threads::QUEUE, Threads::OFFLOAD, Threads::SUPERVISOR];

/// Calls that the C library makes by itself, on the thread that happens to grow or shrink the heap
/// or to meet another thread in the allocator. It is enough to see them on one kind of thread.
const ALLOCATOR: [&str; 4] = ["brk", "mmap", "munmap", "futex"];

/// Number of `exit_group(2)`.
const EXIT_GROUP: u64 = Sysno::exit_group as u64;

/// Rows that no test can cause reliably, by call and purpose.
const UNSEEN: [(&str, &str, &str); 6] = [
    ("clock_gettime", "read the time", "where the kernel maps the clock nobody asks for it"),
    ("brk", "allocate memory", "the first heap rarely grows in a short run"),
    ("futex", "wait for another thread", "the allocator's lock: only where two threads are in it"),
    ("madvise", "install the guard", "this C library is older"),
    ("rt_sigreturn", "answer EIO", "the control thread may see first that the image was truncated"),
    (
        "restart_syscall",
        "continue a timed wait",
        "these wait for a time only where the host has no thread left",
    ),
];

/// Call as the kernel got it.
struct Call<'t> {
    thread: u32,
    thread_name: &'t str,
    name: &'t str,
    arguments: Vec<u64>,
}

impl Call<'_> {
    fn sets_filter(&self) -> bool {
        self.name == "seccomp" && self.arguments.first() == Some(&1)
    }

    /// Returns the kind of its thread.
    fn kind(&self) -> Threads {
        match self.thread_name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-') {
            "hiprio" | "request" | "pinhole-fuse" => Threads::QUEUE,
            "pool" | "deferred-close" | "answers" | "relay" | "syncs" => Threads::OFFLOAD,
            _ => Threads::CONTROL,
        }
    }
}

/// Parses `17<request-1> statx(0x5, 0x7f12, 0x1100) = 0`. The end of a call that began in another
/// line is ignored.
fn parse(line: &str) -> Option<Call<'_>> {
    let (thread, rest) = line.split_once('<')?;
    let (thread_name, rest) = rest.split_once("> ")?;
    let (name, rest) = rest.trim_start().split_once('(')?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let arguments = rest.split([')', '<']).next()?;
    let number = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let thread = thread.trim().parse().ok()?;
    let arguments = arguments.split(',').filter_map(number).collect();
    (!name.is_empty() && name.chars().all(plain)).then_some(Call { thread, thread_name, name, arguments })
}

/// Processes of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processes {
    /// One process, in which serving threads have their own filter and other threads have none:
    /// `pinhole mount`.
    One,
    /// Supervisor and serving process.
    Two,
    /// As [`Processes::Two`], but the second one was ended at any moment, perhaps between two
    /// filters of a thread, and is ignored.
    Supervisor,
}

/// Process ids of two processes.
#[derive(Clone, Copy)]
struct Numbers {
    supervisor: u32,
    serving: u32,
}

impl Numbers {
    /// Finds the process that strace has started, and its child.
    fn of(calls: &[Call<'_>]) -> Option<Self> {
        let supervisor = calls.first()?.thread;
        let serving = calls.iter().map(|call| call.thread).find(|thread| *thread != supervisor)?;
        Some(Self { supervisor, serving })
    }
}

fn holds(condition: &Condition, arguments: &[u64], numbers: Option<Numbers>) -> bool {
    let Some(argument) = arguments.get(usize::from(condition.argument)) else { return false };
    let (argument, width) = match condition.width {
        Width::Bits32 => (argument & 0xffff_ffff, 0xffff_ffff),
        Width::Bits64 => (*argument, u64::MAX),
    };
    match condition.test {
        Test::Is(value) => argument == value & width,
        Test::Not(value) => argument != value & width,
        Test::Bits { mask, value } => argument & mask == value,
        Test::AtMost(value) => argument <= value,
        Test::Process(process) => numbers.is_some_and(|numbers| {
            let number = match process {
                Process::Supervisor => numbers.supervisor,
                Process::Serving => numbers.serving,
            };
            argument == u64::from(number)
        }),
    }
}

/// Rows of the table that were seen, by their position.
#[derive(Default)]
pub(crate) struct Seen {
    rows: BTreeSet<(usize, u8)>,
    /// Calls without a row, of threads with a filter.
    pub(crate) strange: BTreeSet<String>,
}

impl Seen {
    pub(crate) fn read(&mut self, trace: &str, processes: Processes) {
        let mut calls: Vec<_> = trace.lines().filter_map(parse).collect();
        let numbers = match processes {
            Processes::One => None,
            Processes::Two | Processes::Supervisor => {
                Some(Numbers::of(&calls).expect("strace has seen two processes"))
            }
        };
        if let (Processes::Supervisor, Some(numbers)) = (processes, numbers) {
            calls.retain(|call| call.thread == numbers.supervisor);
        }
        let own_kind = |call: &Call<'_>| {
            let is_outside = numbers.is_some_and(|numbers| call.thread == numbers.supervisor);
            if is_outside { Threads::SUPERVISOR } else { call.kind() }
        };
        // A thread may install several filters. The last one is its own.
        let filters = calls.iter().enumerate().filter(|(_, call)| call.sets_filter());
        let last: BTreeMap<u32, usize> = filters.map(|(at, call)| (call.thread, at)).collect();
        let mut kinds: BTreeMap<u32, Option<Threads>> = BTreeMap::new();
        // Threads that are started under the first filter have it too.
        let mut started = None;
        let mut ended = false;
        for (at, call) in calls.iter().enumerate() {
            let kind = kinds.entry(call.thread).or_insert(started);
            // While the main thread ends the process, strace may show another thread with the same
            // call, or with another call but the same registers. The C library has the call's
            // number in the second register too.
            let own = own_kind(call);
            let is_same = call.name == "exit_group" || call.arguments.get(1) == Some(&EXIT_GROUP);
            let again = ended && is_same && own != Threads::SUPERVISOR;
            ended |= call.name == "exit_group" && own == Threads::CONTROL;
            if let Some(kind) = *kind
                && !again
            {
                self.count(call, kind, numbers);
            }
            if last.get(&call.thread) == Some(&at) {
                *kind = Some(own);
                if processes == Processes::Two && own == Threads::CONTROL {
                    started = *kind;
                }
            }
        }
        assert!(!kinds.is_empty(), "the trace is empty");
    }

    fn count(&mut self, call: &Call<'_>, kind: Threads, numbers: Option<Numbers>) {
        let made = |row: &CallRow| {
            row.call == call.name
                && row.threads.intersects(kind)
                && row.when.iter().all(|condition| holds(condition, &call.arguments, numbers))
        };
        let rows = every_row().enumerate().filter(|(_, row)| made(row));
        let rows: Vec<_> = rows.map(|(at, _)| (at, kind.bits())).collect();
        let known = !rows.is_empty();
        self.rows.extend(rows);
        if !known && !ANSWERED.iter().any(|row| row.call == call.name) {
            self.strange.insert(format!("{} {}{:x?}", call.thread_name, call.name, call.arguments));
        }
    }

    /// Returns rows that were not seen, each with the kinds of threads that lack it.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (at, row) in every_row().enumerate() {
            let seen = |kind: &Threads| self.rows.contains(&(at, kind.bits()));
            let kinds = KINDS.iter().filter(|kind| row.threads.intersects(**kind));
            let unseen: Vec<_> = kinds.filter(|kind| !seen(kind)).filter_map(|kind| kind.name()).collect();
            let enough = ALLOCATOR.contains(&row.call) && KINDS.iter().any(seen);
            let by_chance = UNSEEN.iter().any(|(call, why, _)| *call == row.call && row.why.starts_with(why));
            if !unseen.is_empty() && !enough && !by_chance {
                missing.push(format!("{} ({}): {unseen:?}", row.call, row.why));
            }
        }
        missing
    }
}
