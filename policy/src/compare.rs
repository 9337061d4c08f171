//! One question to a policy, and two policies beside each other.

use crate::explain::{Explanation, HostCall, LimitShown, PathShown};
use crate::gate::MAKES_A_NAME;
use crate::{Access, Policy, Refusal};
use serde::Serialize;
use std::collections::BTreeMap;

/// The answer to whether an operation is granted at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether it is.
    pub allowed: bool,
    /// What the guest is told where it is not.
    pub errno: Option<&'static str>,
    /// The rule that decides; none: the base set does.
    pub rule: Option<PathShown>,
}

impl Policy {
    /// Decides a single operation at a path of the share, given by its components.
    pub fn decide(&self, path: &[&[u8]], access: Access) -> Decision {
        let rule = self.paths().and_then(|paths| paths.deciding(path));
        let granted = rule.map_or(self.granted(), |rule| rule.access);
        let allowed = granted.contains(access);
        let refusal = match rule {
            Some(rule) if rule.hidden && access.intersects(MAKES_A_NAME) => Refusal::NotGranted,
            Some(rule) if rule.hidden => Refusal::Hidden,
            Some(_) | None => access.refusal(self.is_read_only()),
        };
        let errno = (!allowed).then(|| refusal.errno_name());
        Decision { allowed, errno, rule: rule.map(PathShown::from) }
    }
}

/// What one policy has and the other has not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Surplus {
    /// Operations granted where no path rule matches.
    pub operations: Vec<&'static str>,
    /// PathShown rules; all of them, where there is any difference, for their order counts.
    pub paths: Vec<PathShown>,
    /// Limits, also those of another figure.
    pub limits: Vec<LimitShown>,
    /// Host calls that are let through in a way in which the other does not, by kind of thread.
    pub host_calls: BTreeMap<&'static str, Vec<&'static str>>,
    /// Capabilities and Landlock rights.
    pub rights: Vec<&'static str>,
}

/// How two policies differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What the first has beyond the second.
    pub a: Surplus,
    /// What the second has beyond the first.
    pub b: Surplus,
}

impl Difference {
    /// Compares two explanations, made with the same facilities.
    pub fn between(a: &Explanation, b: &Explanation) -> Self {
        Self { a: Surplus::of(a, b), b: Surplus::of(b, a) }
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.a == Surplus::default() && self.b == Surplus::default()
    }
}

impl Surplus {
    fn of(one: &Explanation, other: &Explanation) -> Self {
        let granted = |explained: &Explanation| -> Vec<_> {
            let granted = explained.operations.iter().filter(|operation| operation.granted);
            granted.map(|operation| operation.name).collect()
        };
        let elsewhere = granted(other);
        let words = |explained: &Explanation| -> Vec<_> {
            let words =
                explained.paths.iter().map(|path| (path.r#match.clone(), path.access.clone(), path.hidden));
            words.collect()
        };
        let rights = |explained: &Explanation| -> Vec<_> {
            explained.capabilities.iter().chain(&explained.landlock).map(|right| right.name).collect()
        };
        let others = rights(other);
        let mut own: Vec<_> = rights(one).into_iter().filter(|name| !others.contains(name)).collect();
        own.dedup();
        Self {
            operations: granted(one).into_iter().filter(|name| !elsewhere.contains(name)).collect(),
            paths: if words(one) == words(other) { Vec::new() } else { one.paths.clone() },
            limits: one.limits.iter().filter(|limit| !other.limits.contains(limit)).cloned().collect(),
            host_calls: calls(one, other),
            rights: own,
        }
    }
}

fn calls(one: &Explanation, other: &Explanation) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut beyond = BTreeMap::new();
    for (kind, calls) in &one.host_calls {
        let others = other.host_calls.get(kind).map(Vec::as_slice).unwrap_or_default();
        let lacks = |call: &&HostCall| {
            let same = others.iter().find(|same| same.call == call.call);
            !call
                .ways
                .iter()
                .all(|way| same.is_some_and(|same| same.ways.iter().any(|other| other.when == way.when)))
        };
        let names: Vec<_> = calls.iter().filter(lacks).map(|call| call.call).collect();
        if !names.is_empty() {
            beyond.insert(*kind, names);
        }
    }
    beyond
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facilities, Profile};

    fn explained(policy: &Policy) -> Explanation {
        Explanation::new(policy, Facilities::all())
    }

    fn decision(path: &[&[u8]], name: &str) -> (bool, Option<&'static str>, Option<usize>) {
        let text =
            "[[path]]\nmatch = \"/a/**\"\naccess = [\"read\"]\n[[path]]\nmatch = \"/a/h\"\nhidden = true\n";
        let decided = Policy::parse(text).unwrap().decide(path, Access::named(name).unwrap());
        (decided.allowed, decided.errno, decided.rule.map(|rule| rule.line))
    }

    #[test]
    fn the_last_rule_that_matches_decides_and_what_is_hidden_is_not_there() {
        assert_eq!(decision(&[b"a"], "write"), (true, None, None));
        assert_eq!(decision(&[b"a", b"x"], "read"), (true, None, Some(2)));
        assert_eq!(decision(&[b"a", b"x"], "write"), (false, Some("EPERM"), Some(2)));
        assert_eq!(decision(&[b"a", b"h"], "stat"), (false, Some("ENOENT"), Some(5)));
        assert_eq!(decision(&[b"a", b"h", b"i"], "stat"), (false, Some("ENOENT"), Some(5)));
        assert_eq!(decision(&[b"a", b"h"], "create"), (false, Some("EPERM"), Some(5)));
        assert_eq!(decision(&[b"b"], "mknod-block"), (false, Some("EPERM"), None));
    }

    #[test]
    fn a_policy_does_not_differ_from_itself() {
        for profile in Profile::ALL {
            let one = explained(&Policy::of(profile));
            assert!(Difference::between(&one, &one).is_none());
        }
    }

    #[test]
    fn what_only_one_grants_is_its_surplus() {
        let (full, share) = (explained(&Policy::of(Profile::Full)), explained(&Policy::of(Profile::Share)));
        let difference = Difference::between(&full, &share);
        assert!(difference.a.operations.contains(&"mknod-block"));
        assert!(difference.b.operations.is_empty());
    }

    #[test]
    fn limits_and_rules_differ_by_what_they_say_not_by_where_they_stand() {
        let one = "[[path]]\nmatch = \"/a\"\naccess = []\n[limits]\nlocks = 3\n";
        let moved = format!("# A line more.\n{one}");
        let of = |text: &str| explained(&Policy::parse(text).unwrap());
        assert!(Difference::between(&of(one), &of(&moved)).is_none());
        let other = of(&one.replace("= 3", "= 4"));
        let difference = Difference::between(&of(one), &other);
        assert_eq!((difference.a.limits[0].value, difference.b.limits[0].value), (3, 4));
        assert!(difference.a.paths.is_empty());
    }
}
