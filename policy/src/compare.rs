//! The decision of a policy at one path, and the difference between two policies.

use crate::check::MAKES_NAME;
use crate::explain::{Explanation, HostCall, LimitShown, PathShown, Way};
use crate::{Access, PathRule, Policy, Refusal, Standing};
use serde::Serialize;
use std::collections::BTreeMap;

/// The decision for an operation at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether the operation succeeds for the guest.
    pub allowed: bool,
    /// Outcome of the operation.
    pub standing: Standing,
    /// Errno that the guest gets, or `None` for a success.
    pub errno: Option<&'static str>,
    /// A directory above the path, if the guest can neither find nor make it. The guest gets no
    /// further than this directory.
    pub stops_at: Option<String>,
    /// Rule that decides. `None` means that the base set decides.
    pub rule: Option<PathShown>,
}

impl Policy {
    /// Decides a single operation at a path of the share, given by its components.
    ///
    /// The decision applies to a guest that looks up the path name by name.
    pub fn decide(&self, path: &[&[u8]], access: Access) -> Decision {
        if let Some((above, rule)) = self.stops(path) {
            let errno = Some(Access::LOOKUP.refusal(self.is_read_only()).errno_name());
            let stops_at =
                above.iter().flat_map(|name| ["/".into(), String::from_utf8_lossy(name)]).collect();
            let (standing, rule) = (Standing::Denied, Some(PathShown::from(rule)));
            return Decision { allowed: false, standing, errno, stops_at: Some(stops_at), rule };
        }
        // The statistics belong to the whole share, to which no path rule applies.
        let of_share = access == Access::STATFS;
        let rule = self.paths().filter(|_| !of_share).and_then(|paths| paths.deciding(path));
        let granted = rule.map_or(self.granted(), |rule| rule.access).contains(access);
        let (standing, refusal) = match rule {
            Some(rule) if rule.hidden && access.intersects(MAKES_NAME) => {
                (Standing::Denied, Refusal::NotGranted)
            }
            Some(rule) if rule.hidden => (Standing::Denied, Refusal::Hidden),
            Some(_) | None => (Standing::of(self, access, granted), access.refusal(self.is_read_only())),
        };
        let errno = standing.errno_name(refusal);
        let rule = rule.map(PathShown::from);
        Decision { allowed: standing.is_success(), standing, errno, stops_at: None, rule }
    }

    /// Returns the first directory above the path that the guest can neither find nor make, with
    /// its rule.
    ///
    /// If a hidden directory comes first, the result is `None`: its rule decides for every path
    /// below.
    fn stops<'p>(&self, path: &'p [&'p [u8]]) -> Option<(&'p [&'p [u8]], &PathRule)> {
        let paths = self.paths()?;
        let above = (1..path.len()).filter_map(|len| path.get(..len));
        let closed = |above: &'p [&'p [u8]]| {
            let rule = paths.deciding(above)?;
            (rule.hidden || !rule.access.intersects(Access::REACHES_DIRECTORY)).then_some((above, rule))
        };
        above.into_iter().find_map(closed).filter(|(_, rule)| !rule.hidden)
    }
}

/// The part of one policy that another does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Surplus {
    /// Operations granted where no path rule matches.
    pub operations: Vec<&'static str>,
    /// Path rules. If the rules of the two policies differ in any way, all rules of this policy are
    /// listed, because their order matters.
    pub paths: Vec<PathShown>,
    /// Limits that the other policy does not set, or sets to another value.
    pub limits: Vec<LimitShown>,
    /// Host calls in ways that the other policy does not permit, by kind of thread that makes them.
    pub host_calls: BTreeMap<&'static str, Vec<HostCall>>,
    /// Names of capabilities and Landlock rights.
    pub rights: Vec<&'static str>,
}

/// The difference between two policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Part of the first that the second does not have.
    pub a: Surplus,
    /// Part of the second that the first does not have.
    pub b: Surplus,
}

impl Difference {
    /// Compares two explanations. Both must be made with the same facilities.
    pub fn between(a: &Explanation, b: &Explanation) -> Self {
        Self { a: Surplus::of(a, b), b: Surplus::of(b, a) }
    }

    /// Returns whether there is no difference.
    pub fn is_none(&self) -> bool {
        self.a == Surplus::default() && self.b == Surplus::default()
    }
}

impl Surplus {
    /// Returns the part of `one` that `other` does not have.
    fn of(one: &Explanation, other: &Explanation) -> Self {
        let granted = |explained: &Explanation| -> Vec<_> {
            let granted = explained.operations.iter().filter(|operation| operation.granted);
            granted.map(|operation| operation.name).collect()
        };
        let granted_by_other = granted(other);
        let rules_without_lines = |explained: &Explanation| -> Vec<_> {
            let rules =
                explained.paths.iter().map(|path| (path.r#match.clone(), path.access.clone(), path.hidden));
            rules.collect()
        };
        let rights = |explained: &Explanation| -> Vec<_> {
            explained.capabilities.iter().chain(&explained.landlock).map(|right| right.name).collect()
        };
        let rights_of_other = rights(other);
        let mut surplus_rights: Vec<_> =
            rights(one).into_iter().filter(|name| !rights_of_other.contains(name)).collect();
        surplus_rights.dedup();
        Self {
            operations: granted(one).into_iter().filter(|name| !granted_by_other.contains(name)).collect(),
            paths: if rules_without_lines(one) == rules_without_lines(other) {
                Vec::new()
            } else {
                one.paths.clone()
            },
            limits: one.limits.iter().filter(|limit| !other.limits.contains(limit)).cloned().collect(),
            host_calls: calls(one, other),
            rights: surplus_rights,
        }
    }
}

/// Returns the host calls in ways that only `one` permits, by kind of thread. Inherited ways are
/// left out: they are listed for the kind of thread that needs them.
fn calls(one: &Explanation, other: &Explanation) -> BTreeMap<&'static str, Vec<HostCall>> {
    let mut beyond = BTreeMap::new();
    for (kind, calls) in &one.host_calls {
        let others = other.host_calls.get(kind).map(Vec::as_slice).unwrap_or_default();
        let only_here = |call: &HostCall| {
            let same = others.iter().filter(|same| same.call == call.call).flat_map(|same| &same.ways);
            let other_permits = |way: &Way| same.clone().any(|other| other.when == way.when);
            let ways = call.ways.iter().filter(|way| !way.inherited && !other_permits(way));
            let ways: Vec<_> = ways.cloned().collect();
            (!ways.is_empty()).then_some(HostCall { call: call.call, ways })
        };
        let calls: Vec<_> = calls.iter().filter_map(only_here).collect();
        if !calls.is_empty() {
            beyond.insert(*kind, calls);
        }
    }
    beyond
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facilities, Profile};

    fn explained(policy: &Policy) -> Explanation {
        Explanation::new(policy, Facilities::OF_A_DIRECTORY)
    }

    /// Returns whether the operation is allowed, its errno, and the line of the rule that decides.
    fn decision(path: &[&[u8]], name: &str) -> (bool, Option<&'static str>, Option<usize>) {
        let text = "[[path]]\nmatch = \"/a/**\"\naccess = [\"lookup\", \"read\"]\n[[path]]\nmatch = \"/a/h\"\nhidden = true\n";
        let decided = Policy::parse(text).unwrap().decide(path, Access::named(name).unwrap());
        (decided.allowed, decided.errno, decided.rule.map(|rule| rule.line))
    }

    #[test]
    fn last_matching_rule_decides_and_hidden_paths_are_missing() {
        assert_eq!(decision(&[b"a"], "write"), (true, None, None));
        assert_eq!(decision(&[b"a", b"x"], "read"), (true, None, Some(2)));
        assert_eq!(decision(&[b"a", b"x"], "write"), (false, Some("EPERM"), Some(2)));
        assert_eq!(decision(&[b"a", b"h"], "stat"), (false, Some("ENOENT"), Some(5)));
        assert_eq!(decision(&[b"a", b"h", b"i"], "stat"), (false, Some("ENOENT"), Some(5)));
        assert_eq!(decision(&[b"a", b"h"], "create"), (false, Some("EPERM"), Some(5)));
        assert_eq!(decision(&[b"b"], "mknod-block"), (false, Some("EPERM"), None));
    }

    #[test]
    fn nothing_is_allowed_below_a_directory_without_lookup() {
        let text = "[[path]]\nmatch = \"/a\"\naccess = [\"unlink\"]\n[[path]]\nmatch = \"/m\"\naccess = [\"mkdir\"]\n";
        let policy = Policy::parse(text).unwrap();
        let decided = policy.decide(&[b"a", b"b", b"c"], Access::READ);
        assert_eq!((decided.allowed, decided.errno), (false, Some("EPERM")));
        assert_eq!((decided.stops_at.as_deref(), decided.rule.unwrap().line), (Some("/a"), 2));
        let itself = policy.decide(&[b"a"], Access::UNLINK);
        assert_eq!((itself.allowed, itself.stops_at), (true, None));
        assert!(
            policy.decide(&[b"m", b"b"], Access::READ).allowed,
            "a guest may enter a directory that it makes"
        );
    }

    #[test]
    fn path_rules_do_not_apply_to_statfs() {
        let text = "[[path]]\nmatch = \"/a\"\naccess = []\n";
        assert!(Policy::parse(text).unwrap().decide(&[b"a"], Access::STATFS).allowed);
    }

    #[test]
    fn call_of_both_policies_differs_by_its_ways() {
        let (full, share) = (explained(&Policy::of(Profile::Full)), explained(&Policy::of(Profile::Share)));
        let difference = Difference::between(&full, &share);
        let queue = &difference.a.host_calls["queue"];
        let mknod = queue.iter().find(|call| call.call == "mknodat").unwrap();
        let reasons: Vec<_> = mknod.ways.iter().map(|way| way.why).collect();
        assert_eq!(reasons, ["make a character device node", "make a whiteout", "make a block device node"]);
        assert!(!difference.a.host_calls.contains_key("control"), "inherited ways are no difference");
    }

    #[test]
    fn policy_does_not_differ_from_itself() {
        for profile in Profile::ALL {
            let one = explained(&Policy::of(profile));
            assert!(Difference::between(&one, &one).is_none());
        }
    }

    #[test]
    fn operation_that_only_one_policy_grants_is_its_surplus() {
        let (full, share) = (explained(&Policy::of(Profile::Full)), explained(&Policy::of(Profile::Share)));
        let difference = Difference::between(&full, &share);
        assert!(difference.a.operations.contains(&"mknod-block"));
        assert!(difference.b.operations.is_empty());
    }

    #[test]
    fn line_numbers_are_no_difference() {
        let one = "[[path]]\nmatch = \"/a\"\naccess = []\n[limits]\nopen-handles = 3\n";
        let moved = format!("# A line more.\n{one}");
        let of = |text: &str| explained(&Policy::parse(text).unwrap());
        assert!(Difference::between(&of(one), &of(&moved)).is_none());
        let other = of(&one.replace("= 3", "= 4"));
        let difference = Difference::between(&of(one), &other);
        assert_eq!((difference.a.limits[0].value, difference.b.limits[0].value), (3, 4));
        assert!(difference.a.paths.is_empty());
    }
}
