//! Seccomp filters as strace prints them, and what they let through: each system call by its number, with every value
//! of its arguments at once.
//!
//! An instruction that looks at an argument makes both of its branches possible. A call is allowed if some way leads to
//! `ALLOW` (or `LOG`, which only notes it), and filtered by its arguments if another way of the same call does not.

use std::collections::BTreeSet;

use crate::step::{Failure, Outcome};

/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;

/// Where number and architecture stand in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program(Vec<Instruction>);

/// The instructions of classic BPF that filters are made of (`linux/bpf_common.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    /// `A = data[k]`.
    Load(u32),
    /// `A &= k`, as masked comparisons do.
    And(u32),
    /// `pc += k`.
    Jump(u32),
    /// A comparison of A with a number, and how far to jump if it is true and if it is not.
    Test { test: Test, with: u32, yes: u32, no: u32 },
    /// The verdict; whether it lets the call through.
    Return(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    Greater,
    AtLeast,
    Bits,
}

/// What is known of the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Known(u32),
    /// Of an argument: anything.
    Any,
}

/// What filters let through of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// With any argument.
    Always,
    /// With some.
    Filtered,
    Never,
}

impl Program {
    /// Reads `BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x4), BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0xc000003e, 0, 0x6c), ...`.
    ///
    /// # Errors
    /// For an instruction that no filter known to us has.
    pub(super) fn parse(text: &str) -> Outcome<Self> {
        let pieces = text.split(')').map(|piece| piece.trim_start_matches([',', ' ', '[', ']']));
        let pieces = pieces.filter(|piece| piece.starts_with("BPF_STMT(") || piece.starts_with("BPF_JUMP("));
        let program: Outcome<Vec<Instruction>> = pieces
            .map(|piece| {
                let (_, operands) = piece.split_once('(').unwrap_or_default();
                let operands: Vec<&str> = operands.split(',').map(str::trim).collect();
                instruction(&operands).ok_or_else(|| Failure::new(format!("a filter's instruction {piece})")))
            })
            .collect();
        let program = program?;
        if program.is_empty() {
            Err(Failure::new("a filter without instructions"))
        } else {
            Ok(Self(program))
        }
    }

    /// Whether some way lets the call through, and whether some does not.
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
                // The kernel takes no filter that runs out of its end.
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

/// What all of these filters together let through; everything where there is none.
pub(super) fn verdict(programs: &[&Program], number: u32) -> Verdict {
    let ways: Vec<(bool, bool)> = programs.iter().map(|program| program.ways(number)).collect();
    if ways.iter().any(|(allows, _)| !allows) {
        Verdict::Never
    } else if ways.iter().any(|(_, denies)| *denies) {
        Verdict::Filtered
    } else {
        Verdict::Always
    }
}

impl Value {
    fn and(self, mask: u32) -> Self {
        match self {
            Self::Known(value) => Self::Known(value & mask),
            Self::Any => Self::Any,
        }
    }

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

/// `108`, `0x6c`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libseccomp's begins and ends, in strace's words: read always, fcntl (72) only with F_DUPFD_CLOEXEC or with a
    /// bit of its third argument, everything else kills.
    const PRINTED: &str = "[BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x4), BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0xc000003e, 0, 0xa), \
        BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0), BPF_JUMP(BPF_JMP|BPF_K|BPF_JGE, 0x40000000, 0x8, 0), \
        BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0, 0x8, 0), BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0x48, 0, 0x6), \
        BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x18), BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0x406, 0x5, 0), \
        BPF_STMT(BPF_LD|BPF_W|BPF_ABS, 0x20), BPF_STMT(BPF_ALU|BPF_K|BPF_AND, 0x10), \
        BPF_JUMP(BPF_JMP|BPF_K|BPF_JEQ, 0x10, 0x2, 0), BPF_STMT(BPF_JMP|BPF_K|BPF_JA, 0), \
        BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_KILL_PROCESS), BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ALLOW)]";

    #[test]
    fn a_call_is_allowed_filtered_or_not_let_through() {
        let program = Program::parse(PRINTED).unwrap();
        assert_eq!(program.0.len(), 14);
        let verdicts = [0, 72, 1, 0x4000_0000].map(|number| verdict(&[&program], number));
        assert_eq!(verdicts, [Verdict::Always, Verdict::Filtered, Verdict::Never, Verdict::Never]);
    }

    #[test]
    fn of_two_filters_the_stricter_one_decides() {
        let one = Program::parse(PRINTED).unwrap();
        let all = Program::parse("[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_LOG)]").unwrap();
        let none = Program::parse("[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ERRNO|0x26)]").unwrap();
        assert_eq!(verdict(&[&all, &one], 72), Verdict::Filtered);
        assert_eq!(verdict(&[&all, &one, &none], 0), Verdict::Never);
        assert_eq!(verdict(&[], 59), Verdict::Always, "without a filter everything goes");
    }

    #[test]
    fn an_instruction_that_is_not_understood_is_an_error() {
        let failed = Program::parse("[BPF_STMT(BPF_LDX|BPF_IMM, 0x4)]").unwrap_err().to_string();
        assert!(failed.contains("BPF_LDX"), "{failed}");
        Program::parse("[]").unwrap_err();
    }
}
