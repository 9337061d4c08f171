//! Path rules in the model: it matches each glob against whole paths.

use pinhole_policy::{Access, Policy};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::BTreeSet;

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
const PARTS: [&str; 5] = ["a", "b", "c", "*", "**"];
/// Accesses that a rule may grant in addition to the minimum for every request.
const GRANTS: [&str; 9] =
    ["read", "write", "create", "rename", "link", "unlink", "list", "chmod", "exchange"];
/// Depth of paths at which all rules have taken effect. A rule has at most three parts.
const DEPTH: usize = 4;
/// Stands for the name of a file without a name. No glob of these rules matches it by name.
pub(crate) const UNNAMED: &str = "no such letter";

/// A path in the share: the list of its names.
pub(crate) type SharePath = Vec<&'static str>;

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    parts: Vec<&'static str>,
    /// Granted accesses. `None`: hidden.
    access: Option<Vec<&'static str>>,
}

/// The rights at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) access: Access,
    pub(crate) hidden: bool,
}

impl Decision {
    fn and(self, other: Self) -> Self {
        let hidden = self.hidden || other.hidden;
        Self { access: if hidden { Access::empty() } else { self.access & other.access }, hidden }
    }
}

fn matches(parts: &[&str], path: &[&str]) -> bool {
    match parts {
        [] => path.is_empty(),
        ["**"] => !path.is_empty(),
        ["**", rest @ ..] => (0..=path.len()).any(|skipped| matches(rest, &path[skipped..])),
        [part, rest @ ..] => {
            path.first().is_some_and(|name| part == name || *part == "*") && matches(rest, &path[1..])
        }
    }
}

/// A list of rules and the policy made from it.
pub(crate) struct Rules {
    list: Vec<Rule>,
    base: Access,
    pub(crate) policy: Policy,
}

impl Rules {
    /// Makes a policy from the rules that have an effect. A policy with other rules is refused.
    pub(crate) fn new(mut rules: Vec<Rule>) -> Option<Self> {
        loop {
            let text: String = rules.iter().map(Rule::text).collect();
            match Policy::parse(&text) {
                Ok(policy) => {
                    policy.paths()?;
                    return Some(Self { list: rules, base: policy.granted(), policy });
                }
                Err(error) => drop(rules.remove((error.line - 1) / 3)),
            }
        }
    }

    fn decide(&self, path: &[&str]) -> Decision {
        let last = |path: &[&str]| self.list.iter().rev().find(|rule| matches(&rule.parts, path));
        let hidden = (0..=path.len()).any(|len| last(&path[..len]).is_some_and(|rule| rule.access.is_none()));
        let access = match last(path) {
            _ if hidden => Access::empty(),
            Some(rule) => rule.granted(),
            None => self.base,
        };
        Decision { access, hidden }
    }

    /// Returns the rights that all `paths` grant together, at the path `below` them.
    pub(crate) fn all(&self, paths: &BTreeSet<SharePath>, below: &[&'static str]) -> Decision {
        let decide = |path: &SharePath| self.decide(&[path, below].concat());
        paths.iter().map(decide).reduce(Decision::and).unwrap()
    }

    /// Returns whether a file may be moved between the paths, and whether a directory may.
    pub(crate) fn moves(&self, from: &BTreeSet<SharePath>, to: &BTreeSet<SharePath>) -> (bool, bool) {
        let mut alike = true;
        for below in paths_below() {
            let (before, after) = (self.all(from, &below), self.all(to, &below));
            let narrower = after.hidden || (!before.hidden && before.access.contains(after.access));
            if !narrower {
                return (false, false);
            }
            alike &= before == after;
        }
        (true, alike)
    }
}

impl Rule {
    fn text(&self) -> String {
        let what = match &self.access {
            None => "hidden = true".to_owned(),
            Some(more) => {
                let names: Vec<_> = self.granted().names().collect();
                assert!(names.len() >= more.len());
                format!("access = {names:?}")
            }
        };
        format!("[[path]]\nmatch = \"/{}\"\n{what}\n", self.parts.join("/"))
    }

    fn granted(&self) -> Access {
        let named = |name: &&str| Access::named(name).unwrap();
        let more = self.access.iter().flatten().map(named);
        more.fold(Access::LOOKUP | Access::STAT | Access::READLINK, Access::union)
    }
}

/// Returns every path of at most [`DEPTH`] names.
fn paths_below() -> Vec<SharePath> {
    let mut all = vec![SharePath::new()];
    let mut from = 0;
    for _ in 0..DEPTH {
        let until = all.len();
        for at in from..until {
            for name in NAMES.into_iter().chain([UNNAMED]) {
                all.push([&all[at][..], &[name]].concat());
            }
        }
        from = until;
    }
    all
}

/// Returns a strategy for lists of rules.
pub(crate) fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let parts = proptest::collection::vec(select(&PARTS[..]), 1..=3);
    let access = proptest::option::weighted(0.8, subsequence(&GRANTS[..], 0..=GRANTS.len()));
    let rule = (parts, access).prop_map(|(parts, access)| Rule { parts, access });
    proptest::collection::vec(rule, 1..=4)
}
