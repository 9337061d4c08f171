//! Filters of system calls, one for each kind of thread, made from the table in `policy`. Each
//! thread installs its own, last of all, and can never remove it.

use super::error::SandboxError;
use crate::sys::process;
use clap::ValueEnum;
use pinhole_policy::host_calls::{self, CallRow, Condition, Process, Test, Threads, Width};
use pinhole_policy::{Access, Facilities};
use rustix::process::Pid;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;
use std::io;

/// The effect of a call that is not in the table, as `--seccomp` takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnForbidden {
    /// The process ends.
    #[default]
    Kill,
    /// The kernel logs the call and makes it.
    Log,
    /// The thread gets SIGSYS.
    Trap,
    /// There is no filter.
    #[value(name = "none")]
    Allow,
}

impl OnForbidden {
    fn action(self) -> Option<SeccompAction> {
        match self {
            Self::Allow => None,
            Self::Kill => Some(SeccompAction::KillProcess),
            Self::Log => Some(SeccompAction::Log),
            Self::Trap => Some(SeccompAction::Trap),
        }
    }
}

/// The filters of a share. `None`: nothing is filtered.
#[derive(Clone, Debug)]
pub struct Filters(Option<Programs>);

#[derive(Clone, Debug)]
struct Programs {
    control: BpfProgram,
    /// Returns ENOSYS for calls that the C library can do without. Threads inherit this filter from
    /// the first thread.
    answers: BpfProgram,
    /// Each thread installs `answers` itself.
    answers_per_thread: bool,
    queue: BpfProgram,
    offload: BpfProgram,
}

impl Filters {
    /// Makes the filters for the rights that a policy grants anywhere, on this architecture.
    ///
    /// # Errors
    /// [`SandboxError::Filter`] if this architecture has no table.
    pub fn new(
        forbidden: OnForbidden,
        granted: Access,
        facilities: Facilities,
    ) -> Result<Self, SandboxError> {
        let Some(action) = forbidden.action() else { return Ok(Self(None)) };
        let architecture = own_architecture()?;
        let program = |threads| {
            program((architecture, threads), host_calls::rows(threads, granted, facilities), action.clone())
        };
        Ok(Self(Some(Programs {
            control: program(Threads::CONTROL.with_inheriting())?,
            queue: program(Threads::QUEUE)?,
            offload: program(Threads::OFFLOAD)?,
            answers: answers(architecture)?,
            answers_per_thread: facilities.contains(Facilities::DEV_FUSE),
        })))
    }

    /// Installs the filter of a kind of thread on the calling thread.
    ///
    /// # Errors
    /// The host's error; the thread must then do nothing.
    pub fn install(&self, kind: Threads) -> io::Result<()> {
        let Some(programs) = &self.0 else { return Ok(()) };
        let (program, needs_answers) = if kind == Threads::QUEUE {
            (&programs.queue, programs.answers_per_thread)
        } else if kind == Threads::OFFLOAD {
            // Such a thread may start before the first thread has its filter.
            (&programs.offload, true)
        } else {
            (&programs.control, true)
        };
        if needs_answers {
            apply(&programs.answers)?;
        }
        apply(program)
    }
}

/// The ids of a daemon's two processes, as the supervisor sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processes {
    pub(super) supervisor: Pid,
    pub(super) serving: Pid,
}

impl Processes {
    /// Returns a process id as the kernel gets it in an argument.
    fn number(self, process: Process) -> u64 {
        let process = match process {
            Process::Supervisor => self.supervisor,
            Process::Serving => self.serving,
        };
        u64::from(process.as_raw_nonzero().get().unsigned_abs())
    }
}

/// The supervisor's filter, which can be made when the serving process has an id.
#[derive(Clone, Debug)]
pub(super) struct SupervisorFilter {
    /// `None`: nothing is filtered.
    wanted: Option<(TargetArch, SeccompAction)>,
    pub(super) facilities: Facilities,
}

impl SupervisorFilter {
    /// Prepares the filter of a supervisor with these facilities.
    ///
    /// # Errors
    /// [`SandboxError::Filter`] if this architecture has no table.
    pub(super) fn new(forbidden: OnForbidden, facilities: Facilities) -> Result<Self, SandboxError> {
        let with = |action| own_architecture().map(|architecture| (architecture, action));
        Ok(Self { wanted: forbidden.action().map(with).transpose()?, facilities })
    }

    /// Installs the filter on the calling thread.
    ///
    /// # Errors
    /// The host's error.
    pub(super) fn install(&self, processes: Processes) -> io::Result<()> {
        let Some((architecture, action)) = &self.wanted else { return Ok(()) };
        apply(&self.program(*architecture, action.clone(), processes).map_err(io::Error::other)?)
    }

    fn program(
        &self,
        architecture: TargetArch,
        otherwise: SeccompAction,
        processes: Processes,
    ) -> Result<BpfProgram, SandboxError> {
        // The supervisor serves no guest, so it needs no access to the share.
        let rows = host_calls::rows(Threads::SUPERVISOR, Access::empty(), self.facilities);
        compiled(architecture, rows, (SeccompAction::Allow, otherwise), Some(processes))
    }
}

/// Returns the architecture of this host, which decides the number of a call.
fn own_architecture() -> Result<TargetArch, SandboxError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(TargetArch::x86_64),
        "aarch64" => Ok(TargetArch::aarch64),
        other => Err(SandboxError::Filter(format!("there is no table of system calls for {other}"))),
    }
}

/// Returns the number of a call. `None`: the architecture has no such call.
fn number(architecture: TargetArch, call: &str) -> Option<i64> {
    match architecture {
        TargetArch::x86_64 => call.parse::<syscalls::x86_64::Sysno>().ok().map(|call| call.id().into()),
        TargetArch::aarch64 => call.parse::<syscalls::aarch64::Sysno>().ok().map(|call| call.id().into()),
        TargetArch::riscv64 => None,
    }
}

/// Installs a filter on the calling thread.
fn apply(program: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(program).map_err(io::Error::other)?;
    process::note_filter();
    Ok(())
}

fn program(
    (architecture, threads): (TargetArch, Threads),
    rows: impl Iterator<Item = &'static CallRow>,
    otherwise: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    // The stricter of two filters decides, so this one allows the calls that the other answers.
    let rows = rows.chain(answered_by_all().filter(|row| row.threads.intersects(threads)));
    let mut program = compiled(architecture, rows, (SeccompAction::Allow, otherwise), None)?;
    if !threads.contains(Threads::CONTROL) {
        let answered = host_calls::ANSWERED.iter().filter(|row| row.threads.intersects(threads));
        let numbers = answered.filter_map(|row| number(architecture, row.call));
        program.splice(0..0, numbers.flat_map(answer).collect::<Vec<_>>());
    }
    Ok(program)
}

/// Returns the calls that get ENOSYS on every thread, because not even control threads may make
/// them.
fn answered_by_all() -> impl Iterator<Item = &'static CallRow> {
    host_calls::ANSWERED.iter().filter(|row| row.threads.contains(Threads::CONTROL))
}

fn answers(architecture: TargetArch) -> Result<BpfProgram, SandboxError> {
    let answer = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or_default());
    compiled(architecture, answered_by_all(), (answer, SeccompAction::Allow), None)
}

/// Returns instructions that make the call with this number fail with ENOSYS. They come before a
/// filter, which checks the architecture: the number of another architecture fails as well, and is
/// not executed either (`linux/filter.h`, `linux/seccomp.h`).
fn answer(number: i64) -> [sock_filter; 3] {
    const LOAD_NUMBER: u16 = 0x20;
    const SKIP_UNLESS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const RETURN_ERRNO: u32 = 0x0005_0000;
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    [
        instruction(LOAD_NUMBER, 0, 0),
        instruction(SKIP_UNLESS_EQUAL, 1, u32::try_from(number).unwrap_or_default()),
        instruction(RETURN, 0, RETURN_ERRNO | u32::try_from(libc::ENOSYS).unwrap_or_default()),
    ]
}

/// Compiles a program that does `listed` at the calls of these rows, and `otherwise` at all others.
/// Rows that name a process need `processes`.
fn compiled(
    architecture: TargetArch,
    rows: impl Iterator<Item = &'static CallRow>,
    (listed, otherwise): (SeccompAction, SeccompAction),
    processes: Option<Processes>,
) -> Result<BpfProgram, SandboxError> {
    let failed = |error: seccompiler::BackendError| SandboxError::Filter(error.to_string());
    let mut rules: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for row in rows {
        let Some(number) = number(architecture, row.call) else { continue };
        let conditions = row.when.iter().map(|one| condition(one, processes));
        let conditions: Vec<_> = conditions.collect::<Result<_, _>>()?;
        let alternatives = rules.entry(number).or_insert_with(|| Some(Vec::new()));
        if conditions.is_empty() {
            // Allowed with any arguments, which includes all other rows of this call.
            *alternatives = None;
        } else if let Some(alternatives) = alternatives {
            alternatives.push(SeccompRule::new(conditions).map_err(failed)?);
        }
    }
    let rules = rules.into_iter().map(|(number, rules)| (number, rules.unwrap_or_default())).collect();
    let filter = SeccompFilter::new(rules, otherwise, listed, architecture).map_err(failed)?;
    filter.try_into().map_err(failed)
}

fn condition(condition: &Condition, processes: Option<Processes>) -> Result<SeccompCondition, SandboxError> {
    let (operator, value) = match condition.test {
        Test::Is(value) => (SeccompCmpOp::Eq, value),
        Test::Not(value) => (SeccompCmpOp::Ne, value),
        Test::Bits { mask, value } => (SeccompCmpOp::MaskedEq(mask), value),
        Test::AtMost(value) => (SeccompCmpOp::Le, value),
        Test::Process(process) => {
            let unknown = || SandboxError::Filter(format!("{} has no number yet", condition.meaning));
            (SeccompCmpOp::Eq, processes.ok_or_else(unknown)?.number(process))
        }
    };
    let width = match condition.width {
        Width::Bits32 => SeccompCmpArgLen::Dword,
        Width::Bits64 => SeccompCmpArgLen::Qword,
    };
    SeccompCondition::new(condition.argument, width, operator, value)
        .map_err(|error| SandboxError::Filter(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_policy::Profile;

    const BOTH: [TargetArch; 2] = [TargetArch::x86_64, TargetArch::aarch64];

    /// Calls that only x86-64 has. On other architectures the C library makes another call, which
    /// is also in the table.
    const OF_X86: [&str; 1] = ["epoll_wait"];

    #[test]
    fn every_call_of_the_table_has_a_number() {
        for row in host_calls::every_row().chain(host_calls::ANSWERED) {
            assert!(number(TargetArch::x86_64, row.call).is_some(), "{}", row.call);
            let is_of_x86 = OF_X86.contains(&row.call);
            assert_ne!(number(TargetArch::aarch64, row.call).is_some(), is_of_x86, "{}", row.call);
        }
    }

    #[test]
    fn every_profile_has_filters() {
        for profile in Profile::ALL {
            for threads in [Threads::INSIDE, Threads::QUEUE, Threads::OFFLOAD] {
                for architecture in BOTH {
                    let facilities = Facilities::OF_A_DIRECTORY | profile.facilities();
                    let rows = host_calls::rows(threads, profile.granted(), facilities);
                    let program = program((architecture, threads), rows, SeccompAction::KillProcess).unwrap();
                    assert!(program.len() < 4096, "the kernel takes no more");
                }
            }
        }
    }

    #[test]
    fn the_supervisor_has_a_filter_on_every_architecture() {
        let own = rustix::process::getpid();
        let processes = Processes { supervisor: own, serving: own };
        let filter = SupervisorFilter { wanted: None, facilities: Facilities::all() };
        for architecture in BOTH {
            filter.program(architecture, SeccompAction::KillProcess, processes).unwrap();
        }
    }
}
