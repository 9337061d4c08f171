//! A row of the table of host calls, and its parts.

use crate::Need;
use bitflags::bitflags;

bitflags! {
    /// Kinds of threads. Each kind has its own filter.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Threads: u8 {
        /// Threads that talk to the VMM, wait for signals, or start other threads.
        const CONTROL = 1;
        /// Threads that take requests: queue threads, and the threads of `pinhole mount` that read
        /// from /dev/fuse, which have the same filter.
        const QUEUE = 1 << 1;
        /// Threads for calls that block on the host: the offload pool, and the threads that answer
        /// deferred requests, sync whole file systems or close files.
        const OFFLOAD = 1 << 2;
        /// The only thread of the supervisor, the process outside the sandbox.
        const SUPERVISOR = 1 << 3;
    }
}

impl Threads {
    /// Returns the name of a single kind, or `None` for an empty set and for several.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::CONTROL => Some("control"),
            Self::QUEUE => Some("queue"),
            Self::OFFLOAD => Some("offload"),
            Self::SUPERVISOR => Some("supervisor"),
            _ => None,
        }
    }
}

impl Threads {
    /// Every kind in the serving process.
    pub const INSIDE: Self = Self::CONTROL.union(Self::QUEUE).union(Self::OFFLOAD);

    /// Adds the kinds of threads that inherit the filters of these kinds.
    ///
    /// Threads inherit filters. The filter of the control threads also applies to the threads that
    /// control threads start. So that filter permits the calls of all kinds in the serving process.
    #[must_use]
    pub const fn with_inheriting(self) -> Self {
        if self.contains(Self::CONTROL) { self.union(Self::INSIDE) } else { self }
    }
}

/// The part of an argument that the kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// The lower 32 bits, for `int` and `unsigned int`.
    Bits32,
    /// All 64 bits.
    Bits64,
}

/// One of the two processes of a daemon. Its process id is known only at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The process outside the sandbox.
    Supervisor,
    /// The process that serves the guest.
    Serving,
}

/// A test on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// The argument is this value.
    Is(u64),
    /// The argument is any other value.
    Not(u64),
    /// The argument is this value under a mask.
    Bits {
        /// Bits to test.
        mask: u64,
        /// Value of these bits.
        value: u64,
    },
    /// The argument is this value or less.
    AtMost(u64),
    /// The argument is the process id of this process, as the supervisor sees it.
    Process(Process),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Index of the argument, from 0.
    pub argument: u8,
    /// Part of the argument that counts.
    pub width: Width,
    /// Test that the argument must pass.
    pub test: Test,
    /// Meaning of the test, such as `LOCK_NB: never waits on the host`.
    pub meaning: &'static str,
}

/// A way to make a system call. Several rows of one call are alternatives.
#[derive(Clone, Copy, Debug)]
pub struct CallRow {
    /// Name of the call in the kernel.
    pub call: &'static str,
    /// Conditions on the arguments, all of which must be true.
    pub when: &'static [Condition],
    /// Kinds of threads that make the call.
    pub threads: Threads,
    /// Condition under which a daemon needs the call.
    pub need: Need,
    /// Purpose.
    pub why: &'static str,
    /// A thread makes the call only to end.
    pub ends_thread: bool,
}
