//! Prints what it takes to find the rule of a name, under policies of more and more wildcards:
//! `cargo run --release -p pinhole-policy --example name_cost`.
#![expect(clippy::print_stdout, reason = "its output is the figures")]

use pinhole_policy::Policy;
use std::hint::black_box;
use std::time::Instant;

const NAMES: usize = 2000;
const ROUNDS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("| wildcard rules | ns a name |\n|---|---|");
    for rules in [1, 4, 16, 32] {
        let rule = |number: usize| format!("[[path]]\nmatch = \"/**/*.ext{number}\"\nhidden = true\n");
        let text: String = (0..rules).map(rule).collect();
        let policy = Policy::parse(&format!("profile = \"share\"\n{text}"))?;
        let paths = policy.paths().ok_or("no rules")?;
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
