//! A policy in words: what it grants, how the rest is refused, and what that needs of the host.
//!
//! Plain data, to be printed as text or as JSON; the field names are those of the JSON.

use crate::host_calls::{Condition, Process, Test, Threads, Width};
use crate::limits::{LIMITS, LimitRow, Measure};
use crate::{ACCESSES, Access, Described, Facilities, Need, PathRule, Policy, Standing};
use crate::{capabilities, host_calls, landlock};
use serde::Serialize;
use std::collections::BTreeMap;

/// All that there is to say about a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Each operation where no path rule says otherwise.
    pub operations: Vec<OperationShown>,
    /// Rules by path, in the order of the file; the last that matches decides.
    pub paths: Vec<PathShown>,
    /// Limits that are set.
    pub limits: Vec<LimitShown>,
    /// Host system calls that its filter lets through, by kind of thread.
    pub host_calls: BTreeMap<&'static str, Vec<HostCall>>,
    /// Host system calls that are answered ENOSYS, for every kind of thread.
    pub answered: Vec<AnsweredShown>,
    /// Capabilities that are kept of those that the daemon is started with.
    pub capabilities: Vec<RightShown>,
    /// Landlock rights beneath the share.
    pub landlock: Vec<RightShown>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperationShown {
    /// Its name in policy files.
    pub name: &'static str,
    /// What it does, as a sentence.
    pub what: &'static str,
    /// Whether it is granted where no path rule matches.
    pub granted: bool,
    /// What becomes of it there.
    pub standing: Standing,
    /// The errno that the guest sees then; none: it is told that it is done.
    pub errno: Option<&'static str>,
}

/// One path rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathShown {
    /// The glob.
    pub r#match: String,
    /// Its line in the policy file.
    pub line: usize,
    /// Whether what it matches is as if it were not there.
    pub hidden: bool,
    /// What it grants.
    pub access: Vec<&'static str>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitShown {
    /// Its name in policy files.
    pub name: &'static str,
    /// The figure.
    pub value: u64,
    /// `count` or `bytes`.
    pub unit: &'static str,
    /// What it counts.
    pub what: &'static str,
    /// What happens past it.
    pub past: &'static str,
}

/// One system call of a kind of thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostCall {
    /// The kernel's name.
    pub call: &'static str,
    /// Ways in which it may be made: it is let through if any of them holds.
    pub ways: Vec<Way>,
}

/// One way in which a system call may be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// What must hold of its arguments, all of it; empty: nothing.
    pub when: Vec<Holds>,
    /// Whether it is there for the threads that such a thread starts: they inherit its filter beside their own.
    pub inherited: bool,
    /// The operations that need it; empty: whatever is granted.
    pub needed_by: Vec<&'static str>,
    /// What for.
    pub why: &'static str,
}

/// One system call that is not carried out: the kernel answers ENOSYS, and whoever made it does without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnsweredShown {
    /// The kernel's name.
    pub call: &'static str,
    /// Who makes it, and what for.
    pub why: &'static str,
}

/// What must hold of one argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// Which, from 0.
    pub argument: u8,
    /// How many of its bits count.
    pub bits: u8,
    /// The test on the number.
    pub test: String,
    /// The same in words.
    pub meaning: &'static str,
}

/// A capability or a right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RightShown {
    /// The kernel's name.
    pub name: &'static str,
    /// The operations that need it; empty: whatever is granted.
    pub needed_by: Vec<&'static str>,
    /// What for.
    pub why: &'static str,
}

impl Explanation {
    /// Explains a policy under these facilities.
    pub fn new(policy: &Policy, facilities: Facilities) -> Self {
        let reach = policy.reach();
        let needed = |name, need: Need, why| RightShown { name, needed_by: needed_by(need, reach), why };
        Self {
            operations: operations(policy),
            paths: paths(policy),
            limits: limits(policy),
            host_calls: Threads::all()
                .iter()
                .filter_map(|kind| Some((kind.name()?, calls(kind, reach, facilities))))
                .collect(),
            answered: host_calls::ANSWERED
                .iter()
                .map(|row| AnsweredShown { call: row.call, why: row.why })
                .collect(),
            capabilities: capabilities::rows(reach, facilities)
                .map(|row| needed(row.name, row.need, row.why))
                .collect(),
            landlock: landlock::rows(reach, facilities)
                .map(|row| needed(row.name, row.need, row.why))
                .collect(),
        }
    }
}

impl HostCall {
    /// Whether it is let through only with certain arguments.
    pub fn is_filtered(&self) -> bool {
        self.ways.iter().all(|way| !way.when.is_empty())
    }
}

impl From<&PathRule> for PathShown {
    fn from(rule: &PathRule) -> Self {
        let access = rule.access.names().collect();
        Self { r#match: rule.text.clone(), line: rule.line, hidden: rule.hidden, access }
    }
}

fn operations(policy: &Policy) -> Vec<OperationShown> {
    let operation = |row: &Described| {
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
        let unit = match row.measure {
            Measure::Count => "count",
            Measure::Bytes => "bytes",
        };
        Some(LimitShown { name: row.name, value, unit, what: row.what, past: row.past })
    };
    LIMITS.iter().filter_map(limit).collect()
}

fn calls(kind: Threads, reach: Access, facilities: Facilities) -> Vec<HostCall> {
    let mut calls = BTreeMap::<_, Vec<_>>::new();
    for row in host_calls::rows(kind.within_filter(), reach, facilities) {
        let way = Way {
            when: row.when.iter().map(holds).collect(),
            inherited: !row.threads.intersects(kind),
            needed_by: needed_by(row.need, reach),
            why: row.why,
        };
        calls.entry(row.call).or_default().push(way);
    }
    calls.into_iter().map(|(call, ways)| HostCall { call, ways }).collect()
}

fn holds(condition: &Condition) -> Holds {
    let test = match condition.test {
        Test::Is(value) => format!("is {value:#x}"),
        Test::Not(value) => format!("is not {value:#x}"),
        Test::Bits { mask, value } => format!("under the mask {mask:#x} is {value:#x}"),
        Test::AtMost(value) => format!("is at most {value:#x}"),
        Test::Process(Process::Supervisor) => "is the number of the supervisor".to_owned(),
        Test::Process(Process::Serving) => "is the number of the serving process".to_owned(),
    };
    let bits = match condition.width {
        Width::Bits32 => 32,
        Width::Bits64 => 64,
    };
    Holds { argument: condition.argument, bits, test, meaning: condition.meaning }
}

fn needed_by(need: Need, reach: Access) -> Vec<&'static str> {
    need.access.intersection(reach).names().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    #[test]
    fn every_operation_is_explained_with_the_errno_of_its_lack() {
        let explained = Explanation::new(&Policy::of(Profile::Rootfs), Facilities::all());
        assert_eq!(explained.operations.len(), ACCESSES.len());
        let write = explained.operations.iter().find(|operation| operation.name == "write").unwrap();
        assert_eq!((write.standing, write.errno), (Standing::Denied, Some("EROFS")));
    }

    fn standing(policy: &Policy, name: &str) -> (bool, Standing, Option<&'static str>) {
        let explained = Explanation::new(policy, Facilities::all());
        let shown = explained.operations.iter().find(|operation| operation.name == name).unwrap();
        (shown.granted, shown.standing, shown.errno)
    }

    #[test]
    fn what_is_granted_and_served_is_told_so() {
        let share = Policy::of(Profile::Share);
        for name in ["map-read", "map-write", "lock"] {
            assert_eq!(standing(&share, name), (true, Standing::Served, None));
        }
        assert_eq!(standing(&Policy::of(Profile::Rootfs), "lock"), (false, Standing::Denied, Some("EPERM")));
    }

    #[test]
    fn where_nothing_can_be_unwritten_fsync_succeeds_though_it_is_not_granted() {
        let rootfs = Policy::of(Profile::Rootfs);
        assert_eq!(standing(&rootfs, "fsync"), (false, Standing::NothingToDo, None));
        let denied = Policy::parse("deny = [\"fsync\"]").unwrap();
        assert_eq!(standing(&denied, "fsync"), (false, Standing::Denied, Some("EPERM")));
    }

    #[test]
    fn control_threads_are_shown_with_what_those_that_they_start_may_do() {
        let explained = Explanation::new(&Policy::of(Profile::Share), Facilities::all());
        let calls =
            |kind: &str| -> Vec<_> { explained.host_calls[kind].iter().map(|call| call.call).collect() };
        for kind in ["worker", "offload"] {
            assert!(calls(kind).iter().all(|call| calls("control").contains(call)), "{kind}");
            let ways = explained.host_calls[kind].iter().flat_map(|call| &call.ways);
            assert!(ways.into_iter().all(|way| !way.inherited), "{kind}");
        }
        let mkdir = explained.host_calls["control"].iter().find(|call| call.call == "mkdirat").unwrap();
        assert!(mkdir.ways.iter().all(|way| way.inherited));
    }

    #[test]
    fn what_is_needed_names_only_what_the_policy_grants_somewhere() {
        let policy = Policy::of(Profile::Rootfs);
        let explained = Explanation::new(&policy, Facilities::all());
        let granted: Vec<_> = policy.reach().names().collect();
        let needed = explained.capabilities.iter().chain(&explained.landlock);
        let ways = explained.host_calls.values().flatten().flat_map(|call| &call.ways);
        let names = needed.flat_map(|row| &row.needed_by).chain(ways.flat_map(|way| &way.needed_by));
        for name in names {
            assert!(granted.contains(name), "{name}");
        }
    }

    #[test]
    fn rules_and_limits_are_told_as_they_were_written() {
        let text =
            "[[path]]\nmatch = \"/a/**\"\naccess = [\"stat\", \"lookup\"]\n[limits]\nopen-handles = 3\n";
        let explained = Explanation::new(&Policy::parse(text).unwrap(), Facilities::empty());
        assert_eq!(explained.paths[0].r#match, "/a/**");
        assert_eq!(explained.paths[0].line, 2);
        assert_eq!(explained.paths[0].access, ["lookup", "stat"]);
        assert_eq!((explained.limits[0].name, explained.limits[0].value), ("open-handles", 3));
    }
}
