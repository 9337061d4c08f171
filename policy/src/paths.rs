//! Which rule decides at a path, and whether a file may come from under one rule under another.
//!
//! docs/use/path-rules.md states the semantics. In short: the last rule whose glob matches a path
//! decides it; a node that is reached in several ways is decided by all of them; nothing is moved
//! to where more may be done to it.

use crate::Access;
use crate::automaton::{Automaton, Seen, State, TooIntricate, Verdict};
use crate::glob::Glob;
use crate::letters::Letter;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// The rule of one place in the share: what may be done there and, by its names, below. Made by [`PathRules`], kept
/// by the host with each node, and as long-lived as the policy.
///
/// Two places that are reached in one way each and decide alike, themselves and for everything below, have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(u32);

impl RuleId {
    /// The rule that grants nothing, at its place and everywhere below.
    pub const NOTHING: Self = Self(State::NOTHING.0);
    /// The rule of what concerns the share as a whole: the base set. No node has it.
    pub const SHARE: Self = Self(u32::MAX);

    /// Its number, for the host to keep in a node.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The rule of a number that [`RuleId::bits`] gave; one that it never gave grants nothing.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// What a file may become by a move, as far as its rules go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moves {
    /// Both rules decide alike, for the file and for everything that may be below it.
    Freely,
    /// The new rule grants nothing more, but less somewhere: a file may come there, a directory may not.
    OnlyFiles,
    /// The new rule grants more somewhere.
    No,
}

/// One `[[path]]` of a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Its glob as written.
    pub text: String,
    /// The line of the policy file on which it stands, from 1.
    pub line: usize,
    /// What it grants.
    pub access: Access,
    /// Whether it hides what it matches; then it grants nothing.
    pub hidden: bool,
    pub(crate) glob: Glob,
}

/// The path rules of a policy.
#[derive(Debug)]
pub struct PathRules {
    rules: Vec<PathRule>,
    automaton: Arc<Automaton>,
    base: Access,
    /// What no rule grants any more.
    withheld: Access,
    known: RwLock<Known>,
}

/// What has been worked out so far: the guest makes it grow, to a limit.
#[derive(Debug, Default)]
struct Known {
    /// Rules of several states; their ids follow those of single ones.
    several: Vec<Several>,
    ids: HashMap<Arc<[State]>, RuleId>,
    below: HashMap<(RuleId, Letter), RuleId>,
    moves: HashMap<(RuleId, RuleId), Moves>,
}

type Several = Arc<[State]>;

/// Rules of nodes that are reached in ways which decide differently. Past it such a node grants nothing.
const SEVERAL_MAX: usize = 1 << 14;
/// Answers kept, of each kind. Past it they are worked out each time.
const ANSWERS_MAX: usize = 1 << 16;
/// Pairs of rules looked at before a move is refused.
const PAIRS_MAX: usize = 1 << 12;

impl PathRules {
    pub(crate) fn new(rules: Vec<PathRule>, base: Access) -> Result<(Self, Vec<Seen>), TooIntricate> {
        let verdict = |rule: &PathRule| Verdict { access: rule.access, hidden: rule.hidden };
        let globs: Vec<_> = rules.iter().map(|rule| (rule.glob.clone(), verdict(rule))).collect();
        let (automaton, seen) = Automaton::new(&globs, Verdict { access: base, hidden: false })?;
        let automaton = Arc::new(automaton);
        let (withheld, known) = (Access::empty(), RwLock::default());
        Ok((Self { rules, automaton, base, withheld, known }, seen))
    }

    /// The same rules, none of which grants `withheld`.
    pub(crate) fn without(&self, withheld: Access) -> Self {
        let rules = self.rules.iter().cloned();
        let rules = rules.map(|rule| PathRule { access: rule.access.difference(withheld), ..rule }).collect();
        Self {
            rules,
            automaton: Arc::clone(&self.automaton),
            base: self.base,
            withheld: self.withheld.union(withheld),
            known: RwLock::default(),
        }
    }

    /// The rules as the policy file has them.
    pub fn rules(&self) -> &[PathRule] {
        &self.rules
    }

    /// The rule that decides a path of the share, given by its components: the last that matches, or, where a
    /// directory above is hidden, what hides it. `None`: the base set decides.
    pub fn deciding(&self, path: &[&[u8]]) -> Option<&PathRule> {
        let last = |path: &[&[u8]]| self.rules.iter().rev().find(|rule| rule.glob.matches(path));
        let above = (0..path.len()).filter_map(|len| path.get(..len));
        above.filter_map(last).find(|rule| rule.hidden).or_else(|| last(path))
    }

    /// The rule of the share's root.
    pub fn root(&self) -> RuleId {
        RuleId(self.automaton.root.0)
    }

    /// The rule of a name in a directory.
    pub fn child(&self, directory: RuleId, name: &[u8]) -> RuleId {
        self.automaton.letters.of(name).map_or(RuleId::NOTHING, |letter| self.below(directory, letter))
    }

    /// The rule of a file without a name in a directory: as of a name that only `*` and `**` match.
    pub fn unnamed(&self, directory: RuleId) -> RuleId {
        self.below(directory, Letter::OTHER)
    }

    /// The rule of a node that is reached in both ways: what both grant, there and below.
    pub fn both(&self, one: RuleId, other: RuleId) -> RuleId {
        if one == other {
            return one;
        }
        let states = self.states(one).iter().chain(&*self.states(other)).copied().collect();
        self.rule(states)
    }

    /// What is granted.
    pub fn access(&self, rule: RuleId) -> Access {
        if rule == RuleId::SHARE {
            return self.base.difference(self.withheld);
        }
        self.verdict(&self.states(rule)).access.difference(self.withheld)
    }

    /// Whether a name under this rule is as if it were not there.
    pub fn is_hidden(&self, rule: RuleId) -> bool {
        rule == RuleId(State::HIDDEN.0)
    }

    /// Whether what is decided by `from` may come under `to`.
    pub fn moves(&self, from: RuleId, to: RuleId) -> Moves {
        if from == to {
            return Moves::Freely;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(moves) = known.moves.get(&(from, to)) {
            return *moves;
        }
        drop(known);
        let moves = self.compare(self.states(from).to_vec(), self.states(to).to_vec());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.moves.len() < ANSWERS_MAX {
            known.moves.insert((from, to), moves);
        }
        moves
    }

    fn below(&self, directory: RuleId, letter: Letter) -> RuleId {
        if let Some(state) = self.single(directory) {
            return RuleId(self.automaton.next(state, letter).0);
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule) = known.below.get(&(directory, letter)) {
            return *rule;
        }
        drop(known);
        let rule = self.rule(self.step(&self.states(directory), letter));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.below.len() < ANSWERS_MAX {
            known.below.insert((directory, letter), rule);
        }
        rule
    }

    fn step(&self, states: &[State], letter: Letter) -> Vec<State> {
        states.iter().map(|state| self.automaton.next(*state, letter)).collect()
    }

    /// The state that alone is this rule.
    fn single(&self, RuleId(rule): RuleId) -> Option<State> {
        let single = usize::try_from(rule).is_ok_and(|rule| rule < self.automaton.count());
        single.then_some(State(rule))
    }

    /// The states that together are this rule. The share as a whole is no place: nothing leads from there.
    fn states(&self, rule: RuleId) -> Several {
        if let Some(state) = self.single(rule) {
            return Arc::new([state]);
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let behind = usize::try_from(rule.0).ok().and_then(|rule| rule.checked_sub(self.automaton.count()));
        let several = behind.and_then(|behind| known.several.get(behind)).cloned();
        several.unwrap_or_else(|| Arc::new([State::NOTHING]))
    }

    /// The rule of these states together.
    fn rule(&self, states: Vec<State>) -> RuleId {
        let states = together(states);
        if let [single] = *states {
            return RuleId(single.0);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule) = known.ids.get(&*states) {
            return *rule;
        }
        let id = self.automaton.count().saturating_add(known.several.len());
        let (Ok(id), true) = (u32::try_from(id), known.several.len() < SEVERAL_MAX) else {
            return RuleId::NOTHING;
        };
        let states: Several = states.into();
        known.several.push(Arc::clone(&states));
        known.ids.insert(states, RuleId(id));
        RuleId(id)
    }

    /// What all of these grant.
    fn verdict(&self, states: &[State]) -> Verdict {
        let verdicts = states.iter().map(|state| self.automaton.verdict(*state));
        let both = |one: Verdict, other: Verdict| Verdict {
            access: one.access.intersection(other.access),
            hidden: one.hidden || other.hidden,
        };
        verdicts.reduce(both).unwrap_or(Verdict { access: Access::empty(), hidden: false })
    }

    /// Compares for the place itself and every path below it.
    fn compare(&self, from: Vec<State>, to: Vec<State>) -> Moves {
        let first = (together(from), together(to));
        let mut seen = HashSet::from([first.clone()]);
        let mut open = vec![first];
        let mut moves = Moves::Freely;
        while let Some((from, to)) = open.pop() {
            let (before, after) = (self.verdict(&from), self.verdict(&to));
            let narrower = after.hidden || (!before.hidden && before.access.contains(after.access));
            if !narrower || seen.len() > PAIRS_MAX {
                return Moves::No;
            }
            if before != after {
                moves = Moves::OnlyFiles;
            }
            for letter in (0..self.automaton.letters.count()).map(Letter) {
                let pair = (together(self.step(&from, letter)), together(self.step(&to, letter)));
                if pair.0 != pair.1 && seen.insert(pair.clone()) {
                    open.push(pair);
                }
            }
        }
        moves
    }
}

/// States that decide together, in the one form that they have as a key.
fn together(mut states: Vec<State>) -> Vec<State> {
    states.sort_unstable();
    states.dedup();
    // Below it nothing is ever reached, so nothing else counts beside it. Beside what merely grants nothing, a name may
    // still be hidden by one of the others.
    if states.contains(&State::HIDDEN) { vec![State::HIDDEN] } else { states }
}
