//! Runs a program on a host that lacks a system call: `deny_syscall CALL[=BITS] PROGRAM
//! ARGUMENT...`.
//!
//! The call fails with ENOSYS, as on a kernel without it. With BITS, it fails only if its first
//! argument has one of these bits, and with EPERM, as on a kernel that does not permit them.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use syscalls::x86_64::Sysno;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let failure = match run(&words) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // Ignore the result: the exit code still reports the failure.
    drop(writeln!(io::stderr(), "deny_syscall: {failure}"));
    ExitCode::from(2)
}

/// Installs the filter and executes the program. Returns only if that fails.
fn run(words: &[String]) -> Result<std::convert::Infallible, Failure> {
    let [what, program, arguments @ ..] = words else {
        return Err("give CALL[=BITS] PROGRAM ARGUMENT...".into());
    };
    let (call, bits) = what.split_once('=').map_or((what.as_str(), None), |(call, bits)| (call, Some(bits)));
    let call: Sysno = call.parse().map_err(|_no_such| format!("no such system call: {call}"))?;
    let bits = bits.map(str::parse::<u64>).transpose()?;
    let rules = bits.map(|bits| {
        let set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bits), bits)?;
        Ok::<_, seccompiler::BackendError>(vec![SeccompRule::new(vec![set])?])
    });
    let rules = BTreeMap::from([(i64::from(call.id()), rules.transpose()?.unwrap_or_default())]);
    let answer = SeccompAction::Errno(if bits.is_some() { EPERM } else { ENOSYS });
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, TargetArch::x86_64)?;
    let program_of_filter: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program_of_filter)?;
    Err(Command::new(program).args(arguments).exec().into())
}
