//! Prints the time to find the rule of a name, for policies with 1 to 32 wildcard rules:
//! `cargo run --release -p pinhole-policy --example name_cost`.
#![expect(clippy::print_stdout, reason = "the output is the result")]

use pinhole_policy::Policy;
use std::hint::black_box;
use std::time::Instant;

/// Number of different names.
const NAMES: usize = 2000;
/// Number of times that the rule of each name is found.
const ROUNDS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("| wildcard rules | ns per name |\n|---|---|");
    for rules in [1, 4, 16, 32] {
        let rule = |number: usize| format!("[[path]]\nmatch = \"/**/*.ext{number}\"\nhidden = true\n");
        let text: String = (0..rules).map(rule).collect();
        let policy = Policy::parse(&format!("profile = \"share\"\n{text}"))?;
        let paths = policy.paths().ok_or("the policy has no rules")?;
        let names: Vec<String> = (0..NAMES).map(|number| format!("some-module-{number}.rs")).collect();
        let began = Instant::now();
        for _ in 0..ROUNDS {
            for name in &names {
                black_box(paths.child(paths.root(), black_box(name.as_bytes())));
            }
        }
        println!("| {rules} | {} |", began.elapsed().as_nanos() / (NAMES * ROUNDS) as u128);
    }
    Ok(())
}
