//! Path rules: which rule decides for a path, and whether a file may move from one rule to another.
//!
//! docs/use/path-rules.md states the semantics. In short: the last rule whose glob matches a path
//! decides. If a guest reaches a node by several paths, only the accesses that all of them grant
//! are granted. A file never moves to a place that grants more.

use crate::Access;
use crate::automaton::{Automaton, RuleEffect, State, TooComplex, Verdict};
use crate::glob::Glob;
use crate::recognizer::Letter;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// The rule of a place in the share: the decision for the place and, by name, for all paths below.
///
/// [`PathRules`] creates the id, and the daemon stores it with each node. The id is valid as long
/// as the policy. If a guest reached each of two places by a single path, the places have the same
/// id if they decide alike, for themselves and for all paths below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(u32);

impl RuleId {
    /// The rule that grants nothing, at its place and for all paths below.
    pub const NOTHING: Self = Self(State::NOTHING.0);
    /// The rule of operations on the whole share: the base set. No node has it.
    pub const SHARE: Self = Self(u32::MAX);

    /// Returns the number that the daemon stores in a node.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Returns the rule with a number from [`RuleId::bits`]. A number without a rule grants
    /// nothing.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// Whether a file may move from one rule to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moves {
    /// Any file may move: both rules decide alike, for the file and for all paths below.
    Freely,
    /// A directory may not move, any other file may: the new rule grants nothing more, but less
    /// somewhere.
    OnlyFiles,
    /// No file may move: the new rule grants more somewhere, or the comparison takes too long.
    No,
}

/// One `[[path]]` of a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Glob, as in the policy file.
    pub text: String,
    /// Line of the policy file, from 1.
    pub line: usize,
    /// Granted accesses.
    pub access: Access,
    /// Whether the rule hides the paths that it matches. Such a rule grants nothing.
    pub hidden: bool,
    pub(crate) glob: Glob,
}

/// The path rules of a policy.
#[derive(Debug)]
pub struct PathRules {
    rules: Vec<PathRule>,
    automaton: Arc<Automaton>,
    /// Accesses that are granted where no rule matches, apart from `withheld`.
    base: Access,
    /// Accesses that are removed from the base set and from every rule.
    withheld: Access,
    cache: RwLock<Cache>,
}

/// Results that were computed on demand. Requests of the guest make the cache grow, up to limits.
#[derive(Debug, Default)]
struct Cache {
    /// Rules with several states. Their ids follow those of the single states.
    state_sets: Vec<StateSet>,
    /// Id of each rule in `state_sets`.
    ids: HashMap<StateSet, RuleId>,
    /// Rule of the names with a letter in a directory, for directories with several states.
    below: HashMap<(RuleId, Letter), RuleId>,
    /// Outcome of each compared pair: the rule before a move, and the rule after the move.
    moves: HashMap<(RuleId, RuleId), Moves>,
}

/// The states of a rule, in the form that [`normalized`] returns.
type StateSet = Arc<[State]>;

/// Maximum number of rules with several states. A node that needs one more rule gets
/// [`RuleId::NOTHING`].
const STATE_SETS_MAX: usize = 1 << 14;
/// Maximum number of cached results of each kind. Further results are computed each time.
const RESULTS_MAX: usize = 1 << 16;
/// Maximum number of pairs of rules that a comparison visits. Beyond it, the move is refused.
const PAIRS_MAX: usize = 1 << 12;

impl PathRules {
    /// Compiles the rules, in the order of the policy file. `base` is granted where no rule
    /// matches. Also returns the effect of each rule.
    ///
    /// # Errors
    /// [`TooComplex`] if the rules overlap in too many ways.
    pub(crate) fn new(rules: Vec<PathRule>, base: Access) -> Result<(Self, Vec<RuleEffect>), TooComplex> {
        let verdict = |rule: &PathRule| Verdict { access: rule.access, hidden: rule.hidden };
        let globs: Vec<_> = rules.iter().map(|rule| (rule.glob.clone(), verdict(rule))).collect();
        let (automaton, effects) = Automaton::new(&globs, Verdict { access: base, hidden: false })?;
        let automaton = Arc::new(automaton);
        let (withheld, cache) = (Access::empty(), RwLock::default());
        Ok((Self { rules, automaton, base, withheld, cache }, effects))
    }

    /// Returns the same rules without the accesses in `withheld`.
    pub(crate) fn without(&self, withheld: Access) -> Self {
        let rules = self.rules.iter().cloned();
        let rules = rules.map(|rule| PathRule { access: rule.access.difference(withheld), ..rule }).collect();
        Self {
            rules,
            automaton: Arc::clone(&self.automaton),
            base: self.base,
            withheld: self.withheld.union(withheld),
            cache: RwLock::default(),
        }
    }

    /// Returns the rules in the order of the policy file.
    pub fn rules(&self) -> &[PathRule] {
        &self.rules
    }

    /// Returns the rule that decides for a path of the share, given by its components.
    ///
    /// This is the last rule that matches or, if a directory above is hidden, the rule that hides
    /// the first such directory. `None` means that the base set decides.
    pub fn deciding(&self, path: &[&[u8]]) -> Option<&PathRule> {
        let last = |path: &[&[u8]]| self.rules.iter().rev().find(|rule| rule.glob.matches(path));
        let above = (0..path.len()).filter_map(|len| path.get(..len));
        above.filter_map(last).find(|rule| rule.hidden).or_else(|| last(path))
    }

    /// Returns the rule of the share's root.
    pub fn root(&self) -> RuleId {
        RuleId(self.automaton.root.0)
    }

    /// Returns the rule of a name in a directory.
    pub fn child(&self, directory: RuleId, name: &[u8]) -> RuleId {
        self.automaton.letters.of(name).map_or(RuleId::NOTHING, |letter| self.below(directory, letter))
    }

    /// Returns the rule of a file without a name in a directory. It is the rule of a name that only
    /// `*` and `**` match.
    pub fn unnamed(&self, directory: RuleId) -> RuleId {
        self.below(directory, Letter::OTHER)
    }

    /// Returns the rule of a node that was reached under both rules. The result grants the accesses
    /// that both rules grant, for the node and for all paths below.
    pub fn both(&self, one: RuleId, other: RuleId) -> RuleId {
        if one == other {
            return one;
        }
        let states = self.states(one).iter().chain(&*self.states(other)).copied().collect();
        self.rule(states)
    }

    /// Returns the accesses that a rule grants.
    pub fn access(&self, rule: RuleId) -> Access {
        if rule == RuleId::SHARE {
            return self.base.difference(self.withheld);
        }
        self.verdict(&self.states(rule)).access.difference(self.withheld)
    }

    /// Returns whether a name with this rule is hidden.
    pub fn is_hidden(&self, rule: RuleId) -> bool {
        rule == RuleId(State::HIDDEN.0)
    }

    /// Returns whether a file with the rule `from` may move to a place with the rule `to`.
    pub fn moves(&self, from: RuleId, to: RuleId) -> Moves {
        if from == to {
            return Moves::Freely;
        }
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(moves) = cache.moves.get(&(from, to)) {
            return *moves;
        }
        drop(cache);
        let moves = self.compare(self.states(from).to_vec(), self.states(to).to_vec());
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if cache.moves.len() < RESULTS_MAX {
            cache.moves.insert((from, to), moves);
        }
        moves
    }

    /// Returns the rule of a name with this letter in a directory.
    fn below(&self, directory: RuleId, letter: Letter) -> RuleId {
        if let Some(state) = self.single(directory) {
            return RuleId(self.automaton.next(state, letter).0);
        }
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule) = cache.below.get(&(directory, letter)) {
            return *rule;
        }
        drop(cache);
        let rule = self.rule(self.step(&self.states(directory), letter));
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if cache.below.len() < RESULTS_MAX {
            cache.below.insert((directory, letter), rule);
        }
        rule
    }

    /// Returns the states after one more name with this letter. The result is not normalized.
    fn step(&self, states: &[State], letter: Letter) -> Vec<State> {
        states.iter().map(|state| self.automaton.next(*state, letter)).collect()
    }

    /// Returns the state of a rule that has a single state, or `None` for any other rule.
    fn single(&self, RuleId(rule): RuleId) -> Option<State> {
        let single = usize::try_from(rule).is_ok_and(|rule| rule < self.automaton.count());
        single.then_some(State(rule))
    }

    /// Returns the states of a rule.
    ///
    /// A number without a rule, and [`RuleId::SHARE`], which no node has, get the state
    /// [`State::NOTHING`].
    fn states(&self, rule: RuleId) -> StateSet {
        if let Some(state) = self.single(rule) {
            return Arc::new([state]);
        }
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(rule.0).ok().and_then(|rule| rule.checked_sub(self.automaton.count()));
        let states = index.and_then(|index| cache.state_sets.get(index)).cloned();
        states.unwrap_or_else(|| Arc::new([State::NOTHING]))
    }

    /// Returns the rule with these states. Beyond [`STATE_SETS_MAX`] it is [`RuleId::NOTHING`].
    fn rule(&self, states: Vec<State>) -> RuleId {
        let states = normalized(states);
        if let [single] = *states {
            return RuleId(single.0);
        }
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(rule) = cache.ids.get(&*states) {
            return *rule;
        }
        let id = self.automaton.count().saturating_add(cache.state_sets.len());
        let (Ok(id), true) = (u32::try_from(id), cache.state_sets.len() < STATE_SETS_MAX) else {
            return RuleId::NOTHING;
        };
        let states: StateSet = states.into();
        cache.state_sets.push(Arc::clone(&states));
        cache.ids.insert(states, RuleId(id));
        RuleId(id)
    }

    /// Returns the common verdict of these states, which grants only what all of them grant.
    fn verdict(&self, states: &[State]) -> Verdict {
        let verdicts = states.iter().map(|state| self.automaton.verdict(*state));
        let both = |one: Verdict, other: Verdict| Verdict {
            access: one.access.intersection(other.access),
            hidden: one.hidden || other.hidden,
        };
        verdicts.reduce(both).unwrap_or(Verdict { access: Access::empty(), hidden: false })
    }

    /// Compares two rules for their places and for every path below.
    fn compare(&self, from: Vec<State>, to: Vec<State>) -> Moves {
        let first = (normalized(from), normalized(to));
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
                let pair = (normalized(self.step(&from, letter)), normalized(self.step(&to, letter)));
                if pair.0 != pair.1 && seen.insert(pair.clone()) {
                    open.push(pair);
                }
            }
        }
        moves
    }
}

/// Returns the states in the form that serves as a key: ascending and without duplicates.
fn normalized(mut states: Vec<State>) -> Vec<State> {
    states.sort_unstable();
    states.dedup();
    // A guest reaches nothing below a hidden name, so states beside `State::HIDDEN` have no effect.
    // States beside `State::NOTHING` do have an effect: they may hide a name below.
    if states.contains(&State::HIDDEN) { vec![State::HIDDEN] } else { states }
}
