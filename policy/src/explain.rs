//! The description of a policy: what it grants, how it refuses the rest, and what it needs from the
//! host.
//!
//! The description is plain data, to print as text or as JSON. The JSON has the same field names.

use crate::host_calls::{CallRow, Condition, Process, Test, Threads, Width};
use crate::limits::{LIMITS, LimitRow, LimitUnit};
use crate::{ACCESSES, Access, AccessRow, Facilities, Need, PathRule, Policy, Standing};
use crate::{capabilities, host_calls, landlock};
use serde::Serialize;
use std::collections::BTreeMap;

/// The complete description of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Every operation, for paths that no path rule matches.
    pub operations: Vec<OperationShown>,
    /// Path rules, in the order of the file. The last that matches decides.
    pub paths: Vec<PathShown>,
    /// Limits that the policy sets.
    pub limits: Vec<LimitShown>,
    /// Host system calls that the filters permit, by kind of thread.
    pub host_calls: BTreeMap<&'static str, Vec<HostCall>>,
    /// Host system calls that fail with ENOSYS.
    pub answered: Vec<AnsweredShown>,
    /// Capabilities that the daemon keeps, if it was started with them.
    pub capabilities: Vec<RightShown>,
    /// Landlock rights beneath the share.
    pub landlock: Vec<RightShown>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperationShown {
    /// Name in policy files.
    pub name: &'static str,
    /// What the operation does, as a sentence.
    pub what: &'static str,
    /// Whether the operation is granted where no path rule matches.
    pub granted: bool,
    /// Outcome where no path rule matches.
    pub standing: Standing,
    /// Errno that the guest gets with this outcome, or `None` for a success.
    pub errno: Option<&'static str>,
}

/// A path rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathShown {
    /// Glob.
    pub r#match: String,
    /// Line in the policy file, from 1.
    pub line: usize,
    /// Whether the rule hides the paths that it matches.
    pub hidden: bool,
    /// Names of the granted operations.
    pub access: Vec<&'static str>,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitShown {
    /// Name in policy files.
    pub name: &'static str,
    /// Value, in the unit of the next field.
    pub value: u64,
    /// `count` or `bytes`.
    pub unit: &'static str,
    /// What the limit counts.
    pub what: &'static str,
    /// What happens beyond the limit.
    pub past: &'static str,
}

/// A system call of one kind of thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostCall {
    /// Name of the call in the kernel.
    pub call: &'static str,
    /// Ways to make the call, each of which the filter permits.
    pub ways: Vec<Way>,
}

/// A way to make a system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// Conditions on the arguments, all of which must be true. Empty if the filter checks no
    /// argument.
    pub when: Vec<ArgumentShown>,
    /// Whether only threads that this kind of thread starts need this way. Such threads inherit the
    /// filter of this kind, in addition to their own.
    pub inherited: bool,
    /// Names of the granted operations that need this way. Empty if no particular operation does.
    pub needed_by: Vec<&'static str>,
    /// Whether a thread uses this way only to end.
    pub ends_thread: bool,
    /// Purpose.
    pub why: &'static str,
}

/// A system call that is not executed: it fails with ENOSYS, and its caller can do without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnsweredShown {
    /// Name of the call in the kernel.
    pub call: &'static str,
    /// Kinds of threads in which it fails.
    pub threads: Vec<&'static str>,
    /// Purpose of the call, and what replaces it.
    pub why: &'static str,
}

/// A condition on one argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArgumentShown {
    /// Index of the argument, from 0.
    pub argument: u8,
    /// Number of low bits that the test reads, 32 or 64.
    pub bits: u8,
    /// Test, as a phrase that continues "the argument".
    pub test: String,
    /// Meaning of the test.
    pub meaning: &'static str,
}

/// A capability or a Landlock right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RightShown {
    /// Name in the kernel.
    pub name: &'static str,
    /// Names of the granted operations that need the right. Empty if no particular operation does.
    pub needed_by: Vec<&'static str>,
    /// Purpose.
    pub why: &'static str,
}

impl Explanation {
    /// Describes a policy under these facilities.
    pub fn new(policy: &Policy, facilities: Facilities) -> Self {
        let granted = policy.granted_anywhere();
        let needed = |name, need: Need, why| RightShown { name, needed_by: needed_by(need, granted), why };
        Self {
            operations: operations(policy),
            paths: paths(policy),
            limits: limits(policy),
            host_calls: Threads::all()
                .iter()
                .filter_map(|kind| Some((kind.name()?, calls(kind, granted, facilities))))
                .collect(),
            answered: host_calls::ANSWERED
                .iter()
                .map(|row| AnsweredShown { call: row.call, threads: answered_in(row), why: row.why })
                .collect(),
            capabilities: capabilities::rows(granted, facilities)
                .map(|row| needed(row.name, row.need, row.why))
                .collect(),
            landlock: landlock::rows(granted, facilities)
                .map(|row| needed(row.name, row.need, row.why))
                .collect(),
        }
    }
}

impl HostCall {
    /// Returns whether the filter permits the call only with certain arguments.
    pub fn is_filtered(&self) -> bool {
        self.ways.iter().all(|way| !way.when.is_empty())
    }

    /// Returns whether threads make the call only to end.
    pub fn only_ends_thread(&self) -> bool {
        self.ways.iter().all(|way| way.ends_thread)
    }
}

impl From<&PathRule> for PathShown {
    fn from(rule: &PathRule) -> Self {
        let access = rule.access.names().collect();
        Self { r#match: rule.text.clone(), line: rule.line, hidden: rule.hidden, access }
    }
}

fn operations(policy: &Policy) -> Vec<OperationShown> {
    let operation = |row: &AccessRow| {
        let granted = policy.granted().contains(row.access);
        let standing = Standing::of(policy, row.access, granted);
        let errno = standing.errno_name(row.access.refusal(policy.is_read_only()));
        OperationShown { name: row.name, what: row.what, granted, standing, errno }
    };
    ACCESSES.iter().map(operation).collect()
}

fn paths(policy: &Policy) -> Vec<PathShown> {
    let rules = policy.paths().map(|paths| paths.rules()).unwrap_or_default();
    rules.iter().map(PathShown::from).collect()
}

fn limits(policy: &Policy) -> Vec<LimitShown> {
    let limit = |row: &LimitRow| {
        let value = (row.get)(policy.limits())?.get();
        let unit = match row.unit {
            LimitUnit::Count => "count",
            LimitUnit::Bytes => "bytes",
        };
        Some(LimitShown { name: row.name, value, unit, what: row.what, past: row.past })
    };
    LIMITS.iter().filter_map(limit).collect()
}

/// Returns the calls that the filter of this kind of thread permits, by name. `granted` are the
/// accesses that the policy grants anywhere.
fn calls(kind: Threads, granted: Access, facilities: Facilities) -> Vec<HostCall> {
    let mut calls = BTreeMap::<_, Vec<_>>::new();
    for row in host_calls::rows(kind.with_inheriting(), granted, facilities) {
        let way = Way {
            when: row.when.iter().map(argument).collect(),
            inherited: !row.threads.intersects(kind),
            needed_by: needed_by(row.need, granted),
            ends_thread: row.ends_thread,
            why: row.why,
        };
        calls.entry(row.call).or_default().push(way);
    }
    calls.into_iter().map(|(call, ways)| HostCall { call, ways }).collect()
}

/// Returns the kinds of threads in which the call of this row fails. Threads that a control thread
/// starts inherit the answer.
fn answered_in(row: &CallRow) -> Vec<&'static str> {
    row.threads.with_inheriting().iter().filter_map(Threads::name).collect()
}

/// Describes a condition.
fn argument(condition: &Condition) -> ArgumentShown {
    let test = match condition.test {
        Test::Is(value) => format!("is {value:#x}"),
        Test::Not(value) => format!("is not {value:#x}"),
        Test::Bits { mask, value } => format!("under the mask {mask:#x} is {value:#x}"),
        Test::AtMost(value) => format!("is at most {value:#x}"),
        Test::Process(Process::Supervisor) => "is the process id of the supervisor".to_owned(),
        Test::Process(Process::Serving) => "is the process id of the serving process".to_owned(),
    };
    let bits = match condition.width {
        Width::Bits32 => 32,
        Width::Bits64 => 64,
    };
    ArgumentShown { argument: condition.argument, bits, test, meaning: condition.meaning }
}

/// Returns the names of the granted operations that satisfy a condition.
fn needed_by(need: Need, granted: Access) -> Vec<&'static str> {
    need.access.intersection(granted).names().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    #[test]
    fn every_operation_is_explained_with_its_errno() {
        let explained = Explanation::new(&Policy::of(Profile::Rootfs), Facilities::OF_A_DIRECTORY);
        assert_eq!(explained.operations.len(), ACCESSES.len());
        let write = explained.operations.iter().find(|operation| operation.name == "write").unwrap();
        assert_eq!((write.standing, write.errno), (Standing::Denied, Some("EROFS")));
    }

    fn standing(policy: &Policy, name: &str) -> (bool, Standing, Option<&'static str>) {
        let explained = Explanation::new(policy, Facilities::OF_A_DIRECTORY);
        let shown = explained.operations.iter().find(|operation| operation.name == name).unwrap();
        (shown.granted, shown.standing, shown.errno)
    }

    #[test]
    fn granted_operation_is_explained_as_served() {
        let share = Policy::of(Profile::Share);
        for name in ["map-read", "map-write", "lock"] {
            assert_eq!(standing(&share, name), (true, Standing::Served, None));
        }
        assert_eq!(standing(&Policy::of(Profile::Rootfs), "lock"), (false, Standing::Denied, Some("EPERM")));
    }

    #[test]
    fn fsync_succeeds_ungranted_if_nothing_can_be_unwritten() {
        let rootfs = Policy::of(Profile::Rootfs);
        assert_eq!(standing(&rootfs, "fsync"), (false, Standing::NothingToDo, None));
        let denied = Policy::parse("deny = [\"fsync\"]").unwrap();
        assert_eq!(standing(&denied, "fsync"), (false, Standing::Denied, Some("EPERM")));
    }

    #[test]
    fn control_threads_show_the_calls_of_threads_they_start() {
        let explained = Explanation::new(&Policy::of(Profile::Share), Facilities::OF_A_DIRECTORY);
        let calls =
            |kind: &str| -> Vec<_> { explained.host_calls[kind].iter().map(|call| call.call).collect() };
        for kind in ["queue", "offload"] {
            assert!(calls(kind).iter().all(|call| calls("control").contains(call)), "{kind}");
            let ways = explained.host_calls[kind].iter().flat_map(|call| &call.ways);
            assert!(ways.into_iter().all(|way| !way.inherited), "{kind}");
        }
        let mkdir = explained.host_calls["control"].iter().find(|call| call.call == "mkdirat").unwrap();
        assert!(mkdir.ways.iter().all(|way| way.inherited));
    }

    #[test]
    fn needed_rights_name_only_operations_that_are_granted() {
        let policy = Policy::of(Profile::Rootfs);
        let explained = Explanation::new(&policy, Facilities::OF_A_DIRECTORY);
        let granted: Vec<_> = policy.granted_anywhere().names().collect();
        let needed = explained.capabilities.iter().chain(&explained.landlock);
        let ways = explained.host_calls.values().flatten().flat_map(|call| &call.ways);
        let names = needed.flat_map(|row| &row.needed_by).chain(ways.flat_map(|way| &way.needed_by));
        for name in names {
            assert!(granted.contains(name), "{name}");
        }
    }

    #[test]
    fn rules_and_limits_are_explained_as_written() {
        let text =
            "[[path]]\nmatch = \"/a/**\"\naccess = [\"stat\", \"lookup\"]\n[limits]\nopen-handles = 3\n";
        let explained = Explanation::new(&Policy::parse(text).unwrap(), Facilities::empty());
        assert_eq!(explained.paths[0].r#match, "/a/**");
        assert_eq!(explained.paths[0].line, 2);
        assert_eq!(explained.paths[0].access, ["lookup", "stat"]);
        assert_eq!((explained.limits[0].name, explained.limits[0].value), ("open-handles", 3));
    }
}
