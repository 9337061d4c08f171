//! Policies as text for a terminal.

use pinhole_policy::host_calls::Threads;
use pinhole_policy::{
    AnsweredShown, Decision, Difference, Explanation, HostCall, OperationShown, PathShown, RightShown,
    Standing, Surplus, Way,
};
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

/// Width of the column of operations' names.
const NAME: usize = 20;
/// Width of the column of errnos.
const ERRNO: usize = 10;

/// Explains why a request for durable data succeeds although the policy denies it.
const NOTHING_TO_DO: &str = " Nothing is unwritten; the host is not asked.";

/// An explanation under a headline.
pub(super) struct Explained<'a>(pub(super) &'a str, pub(super) &'a Explanation);

impl Display for Explained<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(name, explained) = self;
        writeln!(f, "{name}")?;
        operations(f, explained)?;
        if !explained.paths.is_empty() {
            writeln!(
                f,
                "\nRules by path. The last that matches decides; where none matches, the operations above apply:"
            )?;
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
        answered(f, &explained.answered)?;
        rights(f, "Capabilities kept of those that it is started with", &explained.capabilities)?;
        rights(f, "Landlock rights beneath the share", &explained.landlock)
    }
}

fn operations(f: &mut Formatter<'_>, explained: &Explanation) -> fmt::Result {
    let of = |wanted: &[Standing]| -> Vec<_> {
        explained.operations.iter().filter(|operation| wanted.contains(&operation.standing)).collect()
    };
    let (granted, denied) = (of(&[Standing::Served]), of(&[Standing::Denied, Standing::NothingToDo]));
    writeln!(f, "\nOperations granted ({}):", granted.len())?;
    for operation in granted {
        writeln!(f, "  {:<NAME$}  {}", operation.name, operation.what)?;
    }
    let not_served = of(&[Standing::NotServed]);
    if !not_served.is_empty() {
        let count = not_served.len();
        writeln!(
            f,
            "\nGranted and not served by this version ({count}), with the reply that the guest gets:"
        )?;
        not_served.into_iter().try_for_each(|operation| refused(f, operation))?;
    }
    writeln!(f, "\nOperations denied ({}), with the reply that the guest gets:", denied.len())?;
    denied.into_iter().try_for_each(|operation| refused(f, operation))
}

fn refused(f: &mut Formatter<'_>, operation: &OperationShown) -> fmt::Result {
    let told = operation.errno.unwrap_or("success");
    write!(f, "  {:<NAME$}  {told:<ERRNO$}  {}", operation.name, operation.what)?;
    writeln!(f, "{}", if operation.standing == Standing::NothingToDo { NOTHING_TO_DO } else { "" })
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
    let total = calls.len();
    let ending: Vec<_> = calls.iter().filter(|call| call.only_ends_thread()).map(|call| call.call).collect();
    match Threads::SUPERVISOR.name() {
        Some(name) if name == kind => write!(f, "\nHost system calls of the {kind}")?,
        Some(_) | None => write!(f, "\nHost system calls of {kind} threads")?,
    }
    write!(f, " ({total}, {filtered} of them only with certain arguments")?;
    match ending.as_slice() {
        [] => writeln!(f, "):")?,
        ending => writeln!(f, "; {} only to end a thread: {}):", ending.len(), ending.join(", "))?,
    }
    for call in calls {
        let own: Vec<_> = call.ways.iter().filter(|way| !way.inherited).collect();
        if !own.is_empty() {
            writeln!(f, "  {}", call.call)?;
        }
        own.into_iter().try_for_each(|way| writeln!(f, "    {}", ways(way)))?;
    }
    let inherited = calls.iter().filter(|call| call.ways.iter().any(|way| way.inherited));
    let inherited = inherited.map(|call| call.call).collect::<Vec<_>>().join(", ");
    if inherited.is_empty() {
        return Ok(());
    }
    writeln!(f, "  For the threads that they start, which inherit the filter, also: {inherited}")
}

fn answered(f: &mut Formatter<'_>, calls: &[AnsweredShown]) -> fmt::Result {
    let total = calls.len();
    writeln!(f, "\nHost system calls that the kernel answers with ENOSYS ({total}):")?;
    calls.iter().try_for_each(|AnsweredShown { call, threads, why }| {
        writeln!(f, "  {call} ({}): {why}", threads.join(", "))
    })
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
    // A right with several reasons has several lines.
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
        match (decision.standing, decision.errno.unwrap_or_default()) {
            (Standing::Served, _) => write!(f, "allowed: {operation} at {path}")?,
            (Standing::NothingToDo, _) => {
                return write!(
                    f,
                    "allowed: {operation} at {path} is answered with success: {policy} grants no change, so nothing \
                     is unwritten, and the host is not asked"
                );
            }
            (Standing::NotServed, errno) => {
                write!(f, "not served by this version, {errno}: {operation} at {path}")?;
            }
            (Standing::Denied, errno) => write!(f, "denied with {errno}: {operation} at {path}")?,
        }
        if let Some(above) = &decision.stops_at {
            write!(f, ", for {above} cannot be found")?;
        }
        let granted = matches!(decision.standing, Standing::Served | Standing::NotServed);
        match &decision.rule {
            Some(rule) => write!(f, ", by {policy}:{} ({})", rule.line, rule.r#match),
            None if granted => write!(f, ", which {policy} grants"),
            None => write!(f, ", which {policy} does not grant"),
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
        for (call, way) in calls.iter().flat_map(|call| call.ways.iter().map(|way| (call.call, way))) {
            write!(f, "\n{sign} host call of {kind} threads {call}, {}", ways(way))?;
        }
    }
    surplus.rights.iter().try_for_each(|right| write!(f, "\n{sign} right {right}"))
}
