//! Do path rules decide as a model that keeps whole paths and matches each glob, and does no file
//! ever move to a place that grants more?
#![cfg(test)]

use pinhole_policy::{ACCESSES, Access, Moves, PathRules, Policy, RuleId};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Components of globs. The names below match them in every combination that is possible for any
/// name.
const PARTS: &[&str] = &["a", "b", "a*", "?b", "[ab]", "*", "**"];
/// Names of files.
const NAMES: &[&str] = &["a", "b", "ab", "aa", "bb", "zz"];
/// Operations that the base set grants.
const BASE: &[&str] = &["lookup", "stat", "read", "write"];
/// Depth of paths: one more than the three parts of the longest glob.
const DEPTH: usize = 4;

/// A rule of the model.
#[derive(Clone, Debug)]
struct Rule {
    parts: Vec<&'static str>,
    /// Granted operations, or `None` if the rule hides its paths.
    access: Option<Vec<&'static str>>,
}

impl Rule {
    /// Returns the rule as text of a policy file.
    fn text(&self) -> String {
        let effect = match &self.access {
            None => "hidden = true".to_owned(),
            Some(names) => format!("access = {names:?}"),
        };
        format!("[[path]]\nmatch = \"/{}\"\n{effect}\n", self.parts.join("/"))
    }
}

/// The decision for a path. A hidden path grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    access: Access,
    hidden: bool,
}

impl Decision {
    /// Returns whether the decision grants nothing beyond `other`.
    fn is_at_most(self, other: Self) -> bool {
        self.hidden || (!other.hidden && other.access.contains(self.access))
    }

    /// Returns the decision that grants what both grant.
    fn and(self, other: Self) -> Self {
        let hidden = self.hidden || other.hidden;
        Self { access: if hidden { Access::empty() } else { self.access & other.access }, hidden }
    }
}

type Path = Vec<&'static str>;

/// The rules as a list that is searched for each path, and the policy under test with the same
/// rules.
#[derive(Debug)]
struct Model {
    rules: Vec<Rule>,
    policy: Policy,
    tested: Arc<PathRules>,
}

/// Returns the accesses with these names.
fn set(names: &[&str]) -> Access {
    names.iter().map(|name| Access::named(name).unwrap()).collect()
}

/// Returns whether a name matches one component of a glob.
fn part_matches(part: &[u8], name: &[u8]) -> bool {
    match part {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|skipped| part_matches(rest, &name[skipped..])),
        [b'?', rest @ ..] => !name.is_empty() && part_matches(rest, &name[1..]),
        [b'[', b'a', b'b', b']', rest @ ..] => {
            matches!(name.first(), Some(b'a' | b'b')) && part_matches(rest, &name[1..])
        }
        [literal, rest @ ..] => name.first() == Some(literal) && part_matches(rest, &name[1..]),
    }
}

/// Returns whether a path matches a whole glob.
fn glob_matches(parts: &[&str], path: &[&str]) -> bool {
    match parts {
        [] => path.is_empty(),
        // At the end of a glob, `**` matches at least one name, elsewhere any number.
        ["**"] => !path.is_empty(),
        ["**", rest @ ..] => (0..=path.len()).any(|skipped| glob_matches(rest, &path[skipped..])),
        [part, rest @ ..] => {
            path.first().is_some_and(|name| part_matches(part.as_bytes(), name.as_bytes()))
                && glob_matches(rest, &path[1..])
        }
    }
}

impl Model {
    /// Builds a policy from these rules. Leaves out rules without effect, which a policy may not
    /// have.
    fn new(mut rules: Vec<Rule>) -> Option<Self> {
        let denied: Vec<_> =
            ACCESSES.iter().map(|row| row.name).filter(|name| !BASE.contains(name)).collect();
        let head = format!("allow = [\"write\"]\ndeny = {denied:?}\n");
        loop {
            let parts: String = rules.iter().map(Rule::text).collect();
            match Policy::parse(&format!("{head}{parts}")) {
                Ok(policy) => return Some(Self { rules, tested: Arc::clone(policy.paths()?), policy }),
                Err(error) => drop(rules.remove((error.line - 3) / 3)),
            }
        }
    }

    /// Returns the expected decision for a path.
    fn decide(&self, path: &[&str]) -> Decision {
        let last = |path: &[&str]| self.rules.iter().rev().find(|rule| glob_matches(&rule.parts, path));
        let hidden = (0..=path.len()).any(|len| last(&path[..len]).is_some_and(|rule| rule.access.is_none()));
        let access = match last(path) {
            _ if hidden => Access::empty(),
            Some(rule) => set(rule.access.as_deref().unwrap_or_default()),
            None => set(BASE),
        };
        Decision { access, hidden }
    }

    /// Returns the rule of a path in the policy under test.
    fn rule(&self, path: &[&str]) -> RuleId {
        path.iter().fold(self.tested.root(), |rule, name| self.tested.child(rule, name.as_bytes()))
    }

    /// Returns the decision of a rule of the policy under test.
    fn tested(&self, rule: RuleId) -> Decision {
        Decision { access: self.tested.access(rule), hidden: self.tested.is_hidden(rule) }
    }

    /// Returns whether a file may move, by trying every path below. Each side is a list of paths by
    /// which the guest has reached the file.
    fn moves(&self, from: &[Path], to: &[Path]) -> Moves {
        let mut moves = Moves::Freely;
        for below in paths(DEPTH) {
            let decide = |reached_by: &[Path]| {
                let all = reached_by.iter().map(|path| self.decide(&joined(path, &below)));
                all.reduce(Decision::and).unwrap()
            };
            let (before, after) = (decide(from), decide(to));
            if !after.is_at_most(before) {
                return Moves::No;
            }
            if before != after {
                moves = Moves::OnlyFiles;
            }
        }
        moves
    }
}

fn joined(one: &[&'static str], other: &[&'static str]) -> Path {
    [one, other].concat()
}

/// Returns every path of at most `depth` names.
fn paths(depth: usize) -> Vec<Path> {
    let mut all = vec![Path::new()];
    let mut last = all.clone();
    for _ in 0..depth {
        last = last.iter().flat_map(|path| NAMES.iter().map(|name| joined(path, &[*name]))).collect();
        all.extend(last.iter().cloned());
    }
    all
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let parts = prop::collection::vec(select(PARTS), 1..=3);
    // Without lookup, the other operations have no effect.
    let with_lookup = subsequence(&BASE[1..], 0..BASE.len()).prop_map(|rest| [&BASE[..1], &rest].concat());
    let access = prop::option::weighted(0.85, prop_oneof![3 => with_lookup, 1 => Just(Vec::new())]);
    prop::collection::vec((parts, access).prop_map(|(parts, access)| Rule { parts, access }), 1..=4)
}

fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(select(NAMES), 1..=3)
}

/// An action of a guest. Numbers choose among the existing names.
#[derive(Clone, Debug)]
enum Step {
    /// Looks a path up, name by name. Creates missing files: a regular file at the end of the path,
    /// directories above.
    LookUp(Path),
    Forget(usize),
    Link(usize, Path),
    Rename(usize, Path),
    Exchange(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => path().prop_map(Step::LookUp),
        1 => any::<usize>().prop_map(Step::Forget),
        1 => (any::<usize>(), path()).prop_map(|(which, to)| Step::Link(which, to)),
        3 => (any::<usize>(), path()).prop_map(|(which, to)| Step::Rename(which, to)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(one, other)| Step::Exchange(one, other)),
    ];
    prop::collection::vec(step, 1..40)
}

/// A tree of the host, and the files in it that the guest knows.
#[derive(Default)]
struct HostTree {
    /// Number of the file at each path, except for the root.
    names: BTreeMap<Path, usize>,
    /// Numbers of the files that are directories.
    directories: BTreeSet<usize>,
    /// Number of the last file that was created.
    last_file: usize,
    /// By file: its rule, and each path by which the guest reached it since it last forgot the
    /// file.
    known: BTreeMap<usize, (RuleId, Vec<Path>)>,
}

impl HostTree {
    /// Looks a path up, name by name, as far as the rules permit.
    fn look_up(&mut self, model: &Model, path: &Path) {
        let mut above = model.tested.root();
        for len in 1..=path.len() {
            let at = path[..len].to_vec();
            let file = self.find_or_create(&at, len < path.len());
            if len < path.len() && !self.directories.contains(&file) {
                return;
            }
            let rule = model.tested.child(above, path[len - 1].as_bytes());
            if model.tested.is_hidden(rule) {
                return;
            }
            above = self.record_path(model, file, (rule, at));
        }
    }

    /// Returns the file at a path, and creates a missing file.
    fn find_or_create(&mut self, path: &Path, directory: bool) -> usize {
        if let Some(file) = self.names.get(path) {
            return *file;
        }
        self.last_file += 1;
        self.names.insert(path.clone(), self.last_file);
        if directory {
            self.directories.insert(self.last_file);
        }
        self.last_file
    }

    /// Records that the guest has reached a file by a path with this rule. Returns the new rule of
    /// the file.
    fn record_path(&mut self, model: &Model, file: usize, (rule, path): (RuleId, Path)) -> RuleId {
        let (file_rule, paths) = self.known.entry(file).or_insert((rule, Vec::new()));
        *file_rule = model.tested.both(*file_rule, rule);
        paths.push(path);
        *file_rule
    }

    /// Returns a path and its file. `which` is reduced to the number of paths.
    fn nth_name(&self, which: usize) -> Option<(Path, usize)> {
        let index = which.checked_rem(self.names.len())?;
        self.names.iter().nth(index).map(|(path, file)| (path.clone(), *file))
    }

    /// Returns every file at and below a path.
    fn tree(&self, top: &Path) -> BTreeMap<Path, usize> {
        let at_or_below = self.names.iter().filter(|(path, _)| path.starts_with(top));
        at_or_below.map(|(path, file)| (path.clone(), *file)).collect()
    }

    /// Returns whether the file at a path is a directory.
    fn is_directory(&self, top: &Path) -> bool {
        self.names.get(top).is_some_and(|file| self.directories.contains(file))
    }

    /// Returns whether a file can be created at a path.
    fn is_free(&self, path: &Path) -> bool {
        let above = &path[..path.len() - 1];
        let parent = self.names.get(above).map(|file| self.directories.contains(file));
        (above.is_empty() || parent == Some(true)) && !self.names.contains_key(path)
    }

    /// Moves a tree, and checks that no file in it gets to a place that grants more.
    fn move_tree(&mut self, model: &Model, tree: BTreeMap<Path, usize>, (from, to): (&Path, &Path)) {
        for (path, file) in tree {
            let new = joined(to, &path[from.len()..]);
            let (before, after) = (model.decide(&path), model.decide(&new));
            assert!(after.is_at_most(before), "{path:?} to {new:?}");
            if let Some((rule, paths)) = self.known.get_mut(&file) {
                if path == *from {
                    *rule = model.tested.both(*rule, model.rule(&new));
                } else {
                    assert_eq!(after, before, "decision changed: {path:?} to {new:?}");
                }
                paths.push(new.clone());
            }
            self.names.insert(new, file);
        }
    }

    /// Renames a file, if the rules permit it.
    fn rename(&mut self, model: &Model, from: &Path, to: &Path) {
        let moves = model.tested.moves(model.rule(from), model.rule(to));
        let refused = moves == Moves::No || (moves == Moves::OnlyFiles && self.is_directory(from));
        if refused || to.starts_with(from) || !self.is_free(to) {
            return;
        }
        let tree = self.tree(from);
        self.names.retain(|path, _| !path.starts_with(from));
        self.move_tree(model, tree, (from, to));
    }

    /// Exchanges two files, if the rules permit it.
    fn exchange(&mut self, model: &Model, one: &Path, other: &Path) {
        let compare = |one: &Path, other: &Path| model.tested.moves(model.rule(one), model.rule(other));
        let moves = compare(one, other).max(compare(other, one));
        let directory = self.is_directory(one) || self.is_directory(other);
        let refused = moves == Moves::No || (moves == Moves::OnlyFiles && directory);
        if refused || one.starts_with(other) || other.starts_with(one) {
            return;
        }
        let (first, second) = (self.tree(one), self.tree(other));
        self.names.retain(|path, _| !path.starts_with(one) && !path.starts_with(other));
        self.move_tree(model, first, (one, other));
        self.move_tree(model, second, (other, one));
    }

    /// Links a file that the guest knows, if the rules permit it. Checks that the new name grants
    /// nothing more.
    fn link(&mut self, model: &Model, from: &Path, to: &Path) {
        let file = self.names[from];
        let Some((rule, reached_by)) = self.known.get(&file) else { return };
        let target = model.rule(to);
        let refused = model.tested.is_hidden(target) || model.tested.moves(*rule, target) == Moves::No;
        if refused || self.is_directory(from) || !self.is_free(to) {
            return;
        }
        for below in paths(2) {
            let before = reached_by.iter().map(|path| model.decide(&joined(path, &below)));
            let before = before.reduce(Decision::and).unwrap();
            assert!(model.decide(&joined(to, &below)).is_at_most(before), "{from:?} to {to:?}");
        }
        self.names.insert(to.clone(), file);
        self.record_path(model, file, (target, to.clone()));
    }

    fn step(&mut self, model: &Model, step: &Step) {
        match step {
            Step::LookUp(path) => self.look_up(model, path),
            Step::Forget(which) => {
                if let Some((_, file)) = self.nth_name(*which) {
                    self.known.remove(&file);
                }
            }
            Step::Link(which, to) => {
                if let Some((from, _)) = self.nth_name(*which) {
                    self.link(model, &from, to);
                }
            }
            Step::Rename(which, to) => {
                if let Some((from, _)) = self.nth_name(*which) {
                    self.rename(model, &from, to);
                }
            }
            Step::Exchange(one, other) => {
                if let (Some((one, _)), Some((other, _))) = (self.nth_name(*one), self.nth_name(*other)) {
                    self.exchange(model, &one, &other);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_path_is_decided_as_by_matching_each_glob(rules in rules()) {
        let Some(model) = Model::new(rules) else { return Ok(()) };
        for path in paths(3) {
            let (tested, expected) = (model.tested(model.rule(&path)), model.decide(&path));
            prop_assert_eq!(tested, expected, "{:?} {:?}", path, model.rules);
            let bytes: Vec<_> = path.iter().map(|name| name.as_bytes()).collect();
            let deciding = model.tested.deciding(&bytes);
            prop_assert_eq!(deciding.map_or(set(BASE), |rule| rule.access), expected.access);
            prop_assert_eq!(deciding.is_some_and(|rule| rule.hidden), expected.hidden);
        }
    }

    #[test]
    fn decision_is_that_of_a_lookup_name_by_name(rules in rules()) {
        let Some(model) = Model::new(rules) else { return Ok(()) };
        for path in paths(3) {
            let above = (1..path.len()).map(|len| model.decide(&path[..len]));
            let stops = above.into_iter().find(|decision| !decision.access.contains(Access::LOOKUP));
            let bytes: Vec<_> = path.iter().map(|name| name.as_bytes()).collect();
            let itself = model.decide(&path);
            for access in set(BASE).iter() {
                let errno = match stops.unwrap_or(itself) {
                    decision if decision.hidden => Some("ENOENT"),
                    decision if stops.is_some() || !decision.access.contains(access) => Some("EPERM"),
                    _ => None,
                };
                let decided = model.policy.decide(&bytes, access);
                prop_assert_eq!((decided.allowed, decided.errno), (errno.is_none(), errno), "{:?} {:?}", path, model.rules);
            }
        }
    }

    #[test]
    fn rule_is_accepted_exactly_if_it_decides_a_reachable_path(rules in rules()) {
        let parts: String = rules.iter().map(Rule::text).collect();
        let model = |rules: &[Rule], path: &[&str]| {
            let last = |path: &[&str]| rules.iter().rposition(|rule| glob_matches(&rule.parts, path));
            let leads = |path: &[&str]| {
                last(path).is_none_or(|rule| rules[rule].access.as_ref().is_some_and(|access| !access.is_empty()))
            };
            (1..path.len()).all(|len| leads(&path[..len])).then(|| last(path)).flatten()
        };
        let deciding: BTreeSet<_> = paths(DEPTH).iter().filter_map(|path| model(&rules, path)).collect();
        let parsed = Policy::parse(&parts);
        prop_assert_eq!(parsed.is_ok(), deciding.len() == rules.len(), "{:?} {:?}", rules, parsed.err());
    }

    #[test]
    fn automaton_and_glob_matching_agree_on_random_globs(
        globs in prop::collection::vec("/[ab*?\\[\\]!^ä/-]{1,6}(/[ab*?ä]{1,3})?", 1..4),
        names in prop::collection::vec(prop::collection::vec(select(&b"ab-]\xc3\xa4\xff"[..]), 1..4), 0..3),
    ) {
        let rule = |glob: &String| format!("[[path]]\nmatch = \"{glob}\"\naccess = [\"lookup\", \"stat\"]\n");
        // Each valid glob gets a policy of its own. In one policy, a rule could leave another one
        // without effect.
        for policy in globs.iter().filter_map(|glob| Policy::parse(&rule(glob)).ok()) {
            let rules = policy.paths().unwrap();
            let path: Vec<_> = names.iter().map(Vec::as_slice).collect();
            let rule = path.iter().fold(rules.root(), |rule, name| rules.child(rule, name));
            let expected = rules.deciding(&path).map_or(policy.granted(), |rule| rule.access);
            prop_assert_eq!(rules.access(rule), expected, "{:?} {:?}", globs, path);
        }
    }

    #[test]
    fn move_is_decided_as_by_trying_every_path_below(
        rules in rules(),
        from in prop::collection::vec(path(), 1..=2),
        to in prop::collection::vec(path(), 1..=2),
    ) {
        let Some(model) = Model::new(rules) else { return Ok(()) };
        let rule = |reached_by: &[Path]| {
            let rules = reached_by.iter().map(|path| model.rule(path));
            rules.reduce(|one, other| model.tested.both(one, other)).unwrap()
        };
        let moves = model.tested.moves(rule(&from), rule(&to));
        prop_assert_eq!(moves, model.moves(&from, &to), "{:?}", model.rules);
    }

    #[test]
    fn no_sequence_of_steps_widens_a_rule(rules in rules(), steps in steps()) {
        let Some(model) = Model::new(rules) else { return Ok(()) };
        let mut tree = HostTree::default();
        for step in &steps {
            tree.step(&model, step);
            for (rule, paths) in tree.known.values() {
                let expected = paths.iter().map(|path| model.decide(path)).reduce(Decision::and);
                prop_assert_eq!(Some(model.tested(*rule)), expected, "{:?} after {:?}", paths, step);
            }
        }
    }
}

#[test]
fn unnamed_file_is_decided_like_an_unmatched_name() {
    let text =
        "[[path]]\nmatch = \"/a/**\"\naccess = [\"lookup\"]\n[[path]]\nmatch = \"/a/x*\"\naccess = []\n";
    let policy = Policy::parse(text).unwrap();
    let rules = policy.paths().unwrap();
    let directory = rules.child(rules.root(), b"a");
    assert_eq!(rules.access(rules.unnamed(directory)), Access::LOOKUP);
    assert_eq!(rules.access(rules.child(directory, b"x1")), Access::empty());
}

#[test]
fn too_many_combinations_of_rules_grant_nothing() {
    let rule = |index| format!("[[path]]\nmatch = \"/d{index}/x{index}\"\naccess = [\"lookup\"]\n");
    let text: String = (0..15).map(rule).collect();
    let policy = Policy::parse(&text).unwrap();
    let rules = policy.paths().unwrap();
    let directories: Vec<_> =
        (0..15).map(|index| rules.child(rules.root(), format!("d{index}").as_bytes())).collect();
    let together = |set: u32| {
        let members = directories.iter().enumerate().filter(|(index, _)| set & (1 << index) != 0);
        members.map(|(_, rule)| *rule).reduce(|one, other| rules.both(one, other)).unwrap()
    };
    let refused = (1..1_u32 << 15).filter(|set| together(*set) == RuleId::NOTHING).count();
    assert!(refused > 0, "32,767 combinations are more than the limit");
    assert_ne!(together(3), RuleId::NOTHING, "an earlier combination keeps its rule");
}
