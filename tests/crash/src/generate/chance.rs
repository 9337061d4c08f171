//! Random programs: longer than the enumerated ones, with open files.

use super::names::can_succeed;
use super::operations::{DURABLE, OPERATIONS, SETUP, persistence};
use crate::program::{Operation, Program, Step, Target};
use crate::random::Random;

/// Operations through a file that is open from the start, beside those of the tables.
const OPEN: [&str; 6] =
    ["write @1 0 4096 y", "append @1 2000 y", "fsync @1", "fdatasync @1", "truncate @1 3000", "open 2 d/a"];

/// Attempts to find an operation that can succeed.
const ATTEMPTS: usize = 20;

/// Returns `count` random programs of `len` operations each.
pub(crate) fn programs(count: usize, len: usize, seed: u64) -> Vec<Program> {
    let mut random = Random::new(seed);
    (0..count).map(|_program| program(len, &mut random)).collect()
}

fn program(len: usize, random: &mut Random) -> Program {
    let texts =
        |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<Operation>>();
    let mut program = Program { setup: texts(&SETUP.split(';').collect::<Vec<_>>()), steps: Vec::new() };
    let open = Operation::Open(1, "a".to_owned());
    program.steps.push(Step { guest: 1, operation: open });
    let choices = [texts(&OPERATIONS), texts(&DURABLE), texts(&OPEN)];
    for _step in 0..len {
        add(&mut program, &choices, random);
    }
    program.steps.push(Step { guest: 1, operation: Operation::Sync(Target::Open(1)) });
    program
}

/// Adds an operation that can succeed. A third of them are persistence operations.
fn add(program: &mut Program, choices: &[Vec<Operation>; 3], random: &mut Random) {
    for _attempt in 0..ATTEMPTS {
        let syncs = persistence(&program.steps.iter().map(|step| &step.operation).collect::<Vec<_>>());
        let [operations, durable, open] = choices;
        let table = match random.below(12) {
            0..4 => &syncs,
            4 => durable,
            5..7 => open,
            _ => operations,
        };
        let Some(operation) = table.get(random.below(table.len())) else { continue };
        let mut longer = program.clone();
        longer.steps.push(Step { guest: 1, operation: operation.clone() });
        if can_succeed(&longer) {
            *program = longer;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_determines_the_programs() {
        let texts = |seed| programs(20, 8, seed).iter().map(Program::to_string).collect::<Vec<_>>();
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
        assert_eq!(OPEN.iter().filter(|text| text.parse::<Operation>().is_ok()).count(), OPEN.len());
        assert!(programs(20, 8, 1).iter().all(|program| can_succeed(program) && program.steps.len() == 10));
    }
}
