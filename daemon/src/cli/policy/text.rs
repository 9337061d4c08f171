//! Policies in words, for a terminal.

use pinhole_policy::{Decision, Difference, Explanation, HostCall, PathShown, RightShown, Surplus, Way};
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

/// Width of the column of operations' names.
const NAME: usize = 20;
/// Width of the column of errnos.
const ERRNO: usize = 10;

/// An explanation under a headline.
pub(super) struct Explained<'a>(pub(super) &'a str, pub(super) &'a Explanation);

impl Display for Explained<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(name, explained) = self;
        writeln!(f, "{name}")?;
        operations(f, explained)?;
        if !explained.paths.is_empty() {
            writeln!(f, "\nRules by path; the last that matches decides, otherwise the above:")?;
            explained.paths.iter().try_for_each(|path| writeln!(f, "  {}", rule(path)))?;
        }
        writeln!(f, "\nLimits:")?;
        if explained.limits.is_empty() {
            writeln!(f, "  none but the daemon's own")?;
        }
        for limit in &explained.limits {
            let (name, value, what) = (limit.name, limit.value, limit.what);
            writeln!(f, "  {name:<23} {value:>15}  {what}; past it: {}", limit.past)?;
        }
        explained.host_calls.iter().try_for_each(|(kind, calls)| host_calls(f, kind, calls))?;
        rights(f, "Capabilities kept of those that it is started with", &explained.capabilities)?;
        rights(f, "Landlock rights beneath the share", &explained.landlock)
    }
}

fn operations(f: &mut Formatter<'_>, explained: &Explanation) -> fmt::Result {
    let (granted, denied): (Vec<_>, Vec<_>) =
        explained.operations.iter().partition(|operation| operation.granted);
    writeln!(f, "\nOperations granted ({}):", granted.len())?;
    for operation in granted {
        writeln!(f, "  {:<NAME$}  {}", operation.name, operation.what)?;
    }
    writeln!(f, "\nOperations denied ({}), with what the guest is told:", denied.len())?;
    for operation in denied {
        writeln!(f, "  {:<NAME$}  {:<ERRNO$}  {}", operation.name, operation.errno, operation.what)?;
    }
    Ok(())
}

fn rule(path: &PathShown) -> String {
    let what = match (path.hidden, path.access.as_slice()) {
        (true, _) => "hidden".to_owned(),
        (false, []) => "nothing".to_owned(),
        (false, access) => access.join(", "),
    };
    format!("line {}, {}: {what}", path.line, path.r#match)
}

fn host_calls(f: &mut Formatter<'_>, kind: &str, calls: &[HostCall]) -> fmt::Result {
    let filtered = calls.iter().filter(|call| call.is_filtered()).count();
    writeln!(
        f,
        "\nHost system calls of {kind} threads ({}, {filtered} of them only with certain arguments):",
        calls.len()
    )?;
    for call in calls {
        writeln!(f, "  {}", call.call)?;
        for way in &call.ways {
            writeln!(f, "    {}", ways(way))?;
        }
    }
    Ok(())
}

fn ways(way: &Way) -> String {
    let when: Vec<_> = way.when.iter().map(|holds| holds.meaning).collect();
    let when = if when.is_empty() { "any arguments".to_owned() } else { when.join("; ") };
    format!("{when}: {}{}", way.why, needed_by(&way.needed_by))
}

fn needed_by(operations: &[&str]) -> String {
    if operations.is_empty() { String::new() } else { format!(" ({})", operations.join(", ")) }
}

fn rights(f: &mut Formatter<'_>, title: &str, rights: &[RightShown]) -> fmt::Result {
    // One that is needed for several reasons is listed with each.
    let names: BTreeSet<_> = rights.iter().map(|right| right.name).collect();
    writeln!(f, "\n{title} ({}):", names.len())?;
    for right in rights {
        writeln!(f, "  {}: {}{}", right.name, right.why, needed_by(&right.needed_by))?;
    }
    Ok(())
}

/// A decision, in one line.
pub(super) struct Decided<'a> {
    pub(super) decision: &'a Decision,
    pub(super) operation: &'a str,
    pub(super) path: String,
    pub(super) policy: String,
}

impl Display for Decided<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { decision, operation, path, policy } = self;
        match decision.errno {
            None => write!(f, "allowed: {operation} at {path}")?,
            Some(errno) => write!(f, "denied with {errno}: {operation} at {path}")?,
        }
        match &decision.rule {
            Some(rule) => write!(f, ", by {policy}:{} ({})", rule.line, rule.r#match),
            None => write!(f, ", by what {policy} grants everywhere"),
        }
    }
}

/// A difference; the first policy's lines begin with `-`, the second's with `+`.
pub(super) struct Differing<'a>(pub(super) (&'a str, &'a str), pub(super) &'a Difference);

impl Display for Differing<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self((first, second), difference) = self;
        if difference.is_none() {
            return write!(f, "{first} and {second} grant the same");
        }
        write!(f, "--- {first}\n+++ {second}")?;
        surplus(f, '-', &difference.a)?;
        surplus(f, '+', &difference.b)
    }
}

fn surplus(f: &mut Formatter<'_>, sign: char, surplus: &Surplus) -> fmt::Result {
    surplus.operations.iter().try_for_each(|name| write!(f, "\n{sign} operation {name}"))?;
    surplus.paths.iter().try_for_each(|path| write!(f, "\n{sign} rule {}", rule(path)))?;
    let mut limits = surplus.limits.iter();
    limits.try_for_each(|limit| write!(f, "\n{sign} limit {} = {}", limit.name, limit.value))?;
    for (kind, calls) in &surplus.host_calls {
        calls.iter().try_for_each(|call| write!(f, "\n{sign} host call of {kind} threads {call}"))?;
    }
    surplus.rights.iter().try_for_each(|right| write!(f, "\n{sign} right {right}"))
}
