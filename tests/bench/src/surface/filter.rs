//! Evaluates seccomp filters in the format of strace: which system calls they permit, for all
//! values of the arguments at once.
//!
//! An instruction that reads an argument makes both of its branches possible. A call is allowed if
//! a path leads to `ALLOW` (or to `LOG`, which permits the call and logs it). It is filtered by its
//! arguments if another path of the same call leads elsewhere.

use std::collections::BTreeSet;

use crate::step::{Failure, Outcome};

/// `AUDIT_ARCH_X86_64` (`linux/audit.h`).
const ARCH: u32 = 0xc000_003e;

/// Offset of the number of the system call in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;

/// Offset of the architecture in `struct seccomp_data`.
const ARCH_AT: u32 = 4;

/// Seccomp filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program(Vec<Instruction>);

/// Instructions of classic BPF that seccomp filters use (`linux/bpf_common.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    /// `A = data[k]`.
    Load(u32),
    /// `A &= k`, as masked comparisons do.
    And(u32),
    /// `pc += k`.
    Jump(u32),
    /// Comparison of A with a number, and the distances to jump if it is true and if it is false.
    Test { test: Test, with: u32, yes: u32, no: u32 },
    /// End of the filter. True permits the call.
    Return(bool),
}

/// Comparison of A with k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    /// `A == k`.
    Equal,
    /// `A > k`.
    Greater,
    /// `A >= k`.
    AtLeast,
    /// `A & k != 0`.
    Bits,
}

/// Contents of the accumulator `A`, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// This number.
    Known(u32),
    /// Any number: the value of an argument.
    Any,
}

/// How filters treat one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CallVerdict {
    /// Permitted with any arguments.
    Always,
    /// Permitted with some arguments.
    Filtered,
    /// Not permitted.
    Never,
}

impl Program {
    /// Parses text such as `BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x4), BPF_JUMP(...), ...`.
    ///
    /// # Errors
    /// Fails for an unknown instruction, and for text without instructions.
    pub(super) fn parse(text: &str) -> Outcome<Self> {
        let pieces = text.split(')').map(|piece| piece.trim_start_matches([',', ' ', '[', ']']));
        let pieces = pieces.filter(|piece| piece.starts_with("BPF_STMT(") || piece.starts_with("BPF_JUMP("));
        let program: Outcome<Vec<Instruction>> = pieces
            .map(|piece| {
                let (_, operands) = piece.split_once('(').unwrap_or_default();
                let operands: Vec<&str> = operands.split(',').map(str::trim).collect();
                instruction(&operands)
                    .ok_or_else(|| Failure::new(format!("unknown filter instruction {piece})")))
            })
            .collect();
        let program = program?;
        if program.is_empty() {
            Err(Failure::new("strace printed a filter without instructions"))
        } else {
            Ok(Self(program))
        }
    }

    /// Follows all paths of the filter for a system call. Returns whether a path permits the call,
    /// and whether a path denies it.
    fn ways(&self, number: u32) -> (bool, bool) {
        let (mut allows, mut denies) = (false, false);
        let mut seen = BTreeSet::new();
        let mut open = vec![(0_usize, Value::Known(0))];
        while let Some(state) = open.pop() {
            if !seen.insert(state) {
                continue;
            }
            let (at, value) = state;
            let onward = |distance: u32| at + 1 + usize::try_from(distance).unwrap_or(0);
            match self.0.get(at) {
                // The kernel accepts no filter that runs past its end.
                None | Some(Instruction::Return(false)) => denies = true,
                Some(Instruction::Return(true)) => allows = true,
                Some(Instruction::Load(NUMBER_AT)) => open.push((onward(0), Value::Known(number))),
                Some(Instruction::Load(ARCH_AT)) => open.push((onward(0), Value::Known(ARCH))),
                Some(Instruction::Load(_)) => open.push((onward(0), Value::Any)),
                Some(Instruction::And(mask)) => open.push((onward(0), value.and(*mask))),
                Some(Instruction::Jump(distance)) => open.push((onward(*distance), value)),
                Some(Instruction::Test { test, with, yes, no }) => {
                    let outcome = value.is(*test, *with);
                    if outcome != Some(false) {
                        open.push((onward(*yes), value));
                    }
                    if outcome != Some(true) {
                        open.push((onward(*no), value));
                    }
                }
            }
        }
        (allows, denies)
    }
}

/// Returns how these filters together treat a system call. Without a filter, every call is
/// permitted.
pub(super) fn verdict(programs: &[&Program], number: u32) -> CallVerdict {
    let ways: Vec<(bool, bool)> = programs.iter().map(|program| program.ways(number)).collect();
    if ways.iter().any(|(allows, _)| !allows) {
        CallVerdict::Never
    } else if ways.iter().any(|(_, denies)| *denies) {
        CallVerdict::Filtered
    } else {
        CallVerdict::Always
    }
}

impl Value {
    /// Returns the value after `A &= mask`.
    fn and(self, mask: u32) -> Self {
        match self {
            Self::Known(value) => Self::Known(value & mask),
            Self::Any => Self::Any,
        }
    }

    /// Returns the outcome of a comparison, or `None` if both outcomes are possible.
    fn is(self, test: Test, with: u32) -> Option<bool> {
        let Self::Known(value) = self else { return None };
        Some(match test {
            Test::Equal => value == with,
            Test::Greater => value > with,
            Test::AtLeast => value >= with,
            Test::Bits => value & with != 0,
        })
    }
}

/// Parses the operands of `BPF_STMT` or `BPF_JUMP`.
fn instruction(operands: &[&str]) -> Option<Instruction> {
    let (operation, rest) = operands.split_first()?;
    let operation: BTreeSet<&str> = operation.split('|').collect();
    let is = |words: &[&str]| words.iter().all(|word| operation.contains(word));
    let value = || number(rest.first()?);
    if is(&["BPF_LD", "BPF_W", "BPF_ABS"]) {
        return Some(Instruction::Load(value()?));
    }
    if is(&["BPF_ALU", "BPF_K", "BPF_AND"]) {
        return Some(Instruction::And(value()?));
    }
    if is(&["BPF_RET", "BPF_K"]) {
        let verdict = rest.first()?;
        return Some(Instruction::Return(verdict.contains("RET_ALLOW") || verdict.contains("RET_LOG")));
    }
    if is(&["BPF_JMP", "BPF_JA"]) {
        return Some(Instruction::Jump(value()?));
    }
    let tests = [
        ("BPF_JEQ", Test::Equal),
        ("BPF_JGT", Test::Greater),
        ("BPF_JGE", Test::AtLeast),
        ("BPF_JSET", Test::Bits),
    ];
    let (_, test) = tests.into_iter().find(|(word, _)| is(&["BPF_JMP", "BPF_K", word]))?;
    Some(Instruction::Test { test, with: value()?, yes: number(rest.get(1)?)?, no: number(rest.get(2)?)? })
}

/// Parses a decimal or hexadecimal number: `108`, `0x6c`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter of libseccomp in the format of strace: permits read always, and fcntl (72) only
    /// with F_DUPFD_CLOEXEC or with a bit of its third argument. Every other call kills.
    const PRINTED: &str = "[BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x4), BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0xc000003e, 0, 0xa), \
        BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0), BPF_JUMP(BPF_JMP|BPF_K|BPF_JGE, 0x40000000, 0x8, 0), \
        BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0, 0x8, 0), BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0x48, 0, 0x6), \
        BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x18), BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0x406, 0x5, 0), \
        BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x20), BPF_STMT(BPF_ALU|BPF_K|BPF_AND, 0x10), \
        BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0x10, 0x2, 0), BPF_STMT(BPF_JMP|BPF_K|BPF_JA, 0), \
        BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_KILL_PROCESS), BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ALLOW)]";

    #[test]
    fn call_is_allowed_filtered_or_denied() {
        let program = Program::parse(PRINTED).unwrap();
        assert_eq!(program.0.len(), 14);
        let verdicts = [0, 72, 1, 0x4000_0000].map(|number| verdict(&[&program], number));
        assert_eq!(
            verdicts,
            [CallVerdict::Always, CallVerdict::Filtered, CallVerdict::Never, CallVerdict::Never]
        );
    }

    #[test]
    fn of_two_filters_the_stricter_one_decides() {
        let one = Program::parse(PRINTED).unwrap();
        let all = Program::parse("[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_LOG)]").unwrap();
        let none = Program::parse("[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ERRNO|0x26)]").unwrap();
        assert_eq!(verdict(&[&all, &one], 72), CallVerdict::Filtered);
        assert_eq!(verdict(&[&all, &one, &none], 0), CallVerdict::Never);
        assert_eq!(verdict(&[], 59), CallVerdict::Always, "without a filter every call is permitted");
    }

    #[test]
    fn unknown_instruction_is_an_error() {
        let failed = Program::parse("[BPF_STMT(BPF_LDX|BPF_IMM, 0x4)]").unwrap_err().to_string();
        assert!(failed.contains("BPF_LDX"), "{failed}");
        Program::parse("[]").unwrap_err();
    }
}
