//! The path rules as one finite automaton. The automaton reads a path name by name, and its state
//! gives the decision.
//!
//! States that decide alike for every path below are merged. So two places have the same rule
//! exactly if they have the same state.

use crate::Access;
use crate::glob::{Component, Glob, Segment};
use crate::letters::Letters;
use crate::recognizer::Letter;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// The decision of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Verdict {
    /// Granted accesses.
    pub(crate) access: Access,
    /// Whether the name is hidden. A hidden name grants nothing.
    pub(crate) hidden: bool,
}

/// Index of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct State(pub(crate) u32);

impl State {
    /// The state that grants nothing, for its place and for all paths below.
    pub(crate) const NOTHING: Self = Self(0);
    /// The state of a hidden name. A guest never reaches anything below.
    pub(crate) const HIDDEN: Self = Self(1);
}

/// A deterministic automaton over letters.
#[derive(Debug)]
pub(crate) struct Automaton {
    /// Input alphabet.
    pub(crate) letters: Letters,
    /// State of the share's root.
    pub(crate) root: State,
    /// Verdict of each state.
    verdicts: Vec<Verdict>,
    /// Next state, by state and then by letter.
    next: Vec<State>,
}

/// The effect of one rule, computed while the automaton is built. Other rules are given by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleEffect {
    /// Whether the rule decides for some path.
    pub(crate) decides: bool,
    /// Whether the rule decides for some path that a guest can reach: a name in directories that
    /// the guest may find or make.
    pub(crate) reachable: bool,
    /// A later rule that decides for a path that this rule matches.
    pub(crate) covered_by: Option<usize>,
    /// A rule that hides a directory above paths that this rule could match.
    pub(crate) hidden_by: Option<usize>,
    /// A rule under which the guest can neither find nor make a directory above paths that this
    /// rule could match.
    pub(crate) closed_by: Option<usize>,
}

/// The error for rules that overlap in too many ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooComplex;

/// Maximum number of transitions (states times letters), before states are merged. Hundreds of
/// plain rules stay below it.
const TRANSITIONS_MAX: usize = 1 << 18;

/// Number of states that every automaton has: [`State::NOTHING`] and [`State::HIDDEN`].
const FIXED_STATES: usize = 2;

/// The index of a rule, and the number of its segments that have been read.
type Position = (usize, usize);

impl Automaton {
    /// Builds the automaton from the globs and verdicts of the rules, in the order of the policy
    /// file. `base` is the verdict where no rule matches. Also returns the effect of each rule.
    ///
    /// # Errors
    /// [`TooComplex`] if the rules overlap in too many ways.
    pub(crate) fn new(
        rules: &[(Glob, Verdict)],
        base: Verdict,
    ) -> Result<(Self, Vec<RuleEffect>), TooComplex> {
        let mut components: Vec<Component> = Vec::new();
        let mut indices = HashMap::new();
        let mut steps = Vec::new();
        for (glob, _) in rules {
            steps.push(
                glob.segments()
                    .iter()
                    .map(|segment| match segment {
                        Segment::AnyDepth => Step::AnyDepth,
                        Segment::AnyName => Step::AnyName,
                        Segment::Name(component) => {
                            Step::Name(*indices.entry(component).or_insert_with(|| {
                                components.push(component.clone());
                                components.len().saturating_sub(1)
                            }))
                        }
                    })
                    .collect(),
            );
        }
        let letters = Letters::new(&components).map_err(|_too_many| TooComplex)?;
        let mut builder = Builder {
            steps,
            verdicts: rules.iter().map(|(_, verdict)| *verdict).collect(),
            base,
            effects: vec![RuleEffect::default(); rules.len()],
        };
        let automaton = builder.explore(letters)?;
        Ok((automaton.minimal(), builder.effects))
    }

    /// Returns the verdict of a state.
    pub(crate) fn verdict(&self, state: State) -> Verdict {
        let nothing = Verdict { access: Access::empty(), hidden: false };
        self.verdicts.get(index(state)).copied().unwrap_or(nothing)
    }

    /// Returns the state after one more name.
    pub(crate) fn next(&self, state: State, letter: Letter) -> State {
        self.row(state).get(letter.0).copied().unwrap_or(State::NOTHING)
    }

    /// Returns the number of states.
    pub(crate) const fn count(&self) -> usize {
        self.verdicts.len()
    }

    /// Returns the next state by letter.
    fn row(&self, state: State) -> &[State] {
        let width = self.letters.count();
        let start = index(state).saturating_mul(width);
        self.next.get(start..start.saturating_add(width)).unwrap_or_default()
    }

    /// Merges all states that decide alike for every path.
    ///
    /// First, states with the same verdict form a group. Then groups are split until all states of
    /// a group lead to the same groups. Groups are numbered by their first state, so the fixed
    /// states keep their numbers.
    fn minimal(self) -> Self {
        let (mut groups, mut count) = numbered(self.verdicts.iter().copied());
        loop {
            let states = (0..).map(State).zip(&groups);
            let signatures = states.map(|(state, group)| {
                let below = self.row(state).iter().map(|next| groups.get(index(*next)).copied());
                (*group, below.collect::<Vec<_>>())
            });
            let (finer, finer_count) = numbered(signatures);
            if finer_count == count {
                break;
            }
            (groups, count) = (finer, finer_count);
        }
        let merged = |state: State| State(groups.get(index(state)).copied().unwrap_or_default());
        let mut first_of_group = BTreeMap::new();
        for (state, group) in (0..).map(State).zip(&groups) {
            first_of_group.entry(*group).or_insert(state);
        }
        let firsts = || first_of_group.values().copied();
        Self {
            root: merged(self.root),
            verdicts: firsts().map(|state| self.verdict(state)).collect(),
            next: firsts().flat_map(|state| self.row(state)).map(|next| merged(*next)).collect(),
            letters: self.letters,
        }
    }
}

/// Numbers values by first occurrence, from 0. Returns the number of each value, and the count of
/// different values.
fn numbered<T: Eq + Hash>(values: impl Iterator<Item = T>) -> (Vec<u32>, usize) {
    let mut number_of_value = HashMap::new();
    let mut numbers = Vec::new();
    for value in values {
        let next_number = u32::try_from(number_of_value.len()).unwrap_or(u32::MAX);
        numbers.push(*number_of_value.entry(value).or_insert(next_number));
    }
    (numbers, number_of_value.len())
}

/// Returns the index of a state in the vectors of an automaton.
fn index(State(state): State) -> usize {
    usize::try_from(state).unwrap_or(usize::MAX)
}

/// A [`Segment`], with its component given by index.
enum Step {
    AnyDepth,
    AnyName,
    Name(usize),
}

/// Facts about an automaton that are needed only while it is built.
struct Explored {
    /// Positions of each state except the fixed ones.
    sets: Vec<BTreeSet<Position>>,
    /// Rule that decides at the end of each transition. `None` means the base verdict.
    deciding: Vec<Option<usize>>,
}

impl Explored {
    /// Returns the positions of a state, or `None` for a fixed state.
    fn set(&self, state: State) -> Option<&BTreeSet<Position>> {
        self.sets.get(index(state).checked_sub(FIXED_STATES)?)
    }
}

/// The construction of an automaton. Each vector has one element for each rule.
struct Builder {
    steps: Vec<Vec<Step>>,
    verdicts: Vec<Verdict>,
    base: Verdict,
    effects: Vec<RuleEffect>,
}

impl Builder {
    /// Builds the automaton. Each set of positions that a path can lead to becomes a state, except
    /// that all hidden sets become [`State::HIDDEN`].
    fn explore(&mut self, letters: Letters) -> Result<Automaton, TooComplex> {
        let fixed = [
            Verdict { access: Access::empty(), hidden: false },
            Verdict { access: Access::empty(), hidden: true },
        ];
        let mut next = vec![State::NOTHING; letters.count()];
        next.resize(letters.count().saturating_mul(FIXED_STATES), State::HIDDEN);
        let start: BTreeSet<Position> = (0..self.steps.len()).map(|rule| (rule, 0)).collect();
        let start = self.closure(start);
        let mut verdicts = fixed.to_vec();
        let mut state_of_set = HashMap::new();
        let mut sets = Vec::new();
        let mut deciding = vec![None; next.len()];
        let (root, root_rule) = self.state(start, &mut state_of_set, &mut sets, &mut verdicts);
        let mut read = 0_usize;
        while let Some(set) = sets.get(read).cloned() {
            read = read.saturating_add(1);
            for letter in (0..letters.count()).map(Letter) {
                let after = self.after(&set, &letters, letter);
                let (state, rule) = self.state(after, &mut state_of_set, &mut sets, &mut verdicts);
                next.push(state);
                deciding.push(rule);
            }
            if next.len() > TRANSITIONS_MAX {
                return Err(TooComplex);
            }
        }
        let automaton = Automaton { letters, root, verdicts, next };
        self.record_reachable(&automaton, root_rule, &Explored { sets, deciding });
        Ok(automaton)
    }

    /// Visits every state that a guest can reach, from directories that it may find or make to the
    /// names in them. Records the result in the effects.
    fn record_reachable(&mut self, automaton: &Automaton, root_rule: Option<usize>, explored: &Explored) {
        let mut seen = BTreeSet::from([automaton.root]);
        let mut open = vec![automaton.root];
        self.record_reachable_rule(root_rule);
        while let Some(directory) = open.pop() {
            let start = index(directory).saturating_mul(automaton.letters.count());
            for (at, state) in (start..).zip(automaton.row(directory)) {
                let rule = explored.deciding.get(at).copied().flatten();
                self.record_reachable_rule(rule);
                if !seen.insert(*state) {
                    continue;
                }
                if automaton.verdict(*state).access.intersects(Access::REACHES_DIRECTORY) {
                    open.push(*state);
                } else if let Some(closing) = rule {
                    self.record_closed(closing, explored.set(*state));
                }
            }
        }
    }

    /// Records that the rule decides for a path that a guest can reach.
    fn record_reachable_rule(&mut self, rule: Option<usize>) {
        if let Some(effect) = rule.and_then(|rule| self.effects.get_mut(rule)) {
            effect.reachable = true;
        }
    }

    /// Records that the rule `closing` keeps the guest from reaching anything below a directory.
    /// All other rules of the set could match below that directory.
    fn record_closed(&mut self, closing: usize, set: Option<&BTreeSet<Position>>) {
        for (rule, _) in set.into_iter().flatten().filter(|(rule, _)| *rule != closing) {
            if let Some(effect) = self.effects.get_mut(*rule) {
                effect.closed_by.get_or_insert(closing);
            }
        }
    }

    /// Returns the state of a set of positions, and the rule that decides there. Adds the state if
    /// the set is new.
    fn state(
        &mut self,
        set: BTreeSet<Position>,
        state_of_set: &mut HashMap<BTreeSet<Position>, (State, Option<usize>)>,
        sets: &mut Vec<BTreeSet<Position>>,
        verdicts: &mut Vec<Verdict>,
    ) -> (State, Option<usize>) {
        if let Some(state_and_rule) = state_of_set.get(&set) {
            return *state_and_rule;
        }
        let (verdict, rule) = self.decide(&set);
        let state = if verdict.hidden {
            State::HIDDEN
        } else {
            verdicts.push(verdict);
            sets.push(set.clone());
            State(u32::try_from(verdicts.len().saturating_sub(1)).unwrap_or_default())
        };
        state_of_set.insert(set, (state, rule));
        (state, rule)
    }

    /// Returns the verdict of the last rule that matches, and that rule. Records the result in the
    /// effects.
    fn decide(&mut self, set: &BTreeSet<Position>) -> (Verdict, Option<usize>) {
        let ends = |(rule, at): &&Position| self.steps.get(*rule).is_some_and(|steps| steps.len() == *at);
        let matching: Vec<usize> = set.iter().filter(ends).map(|(rule, _)| *rule).collect();
        let Some((deciding, covered)) = matching.split_last() else { return (self.base, None) };
        let verdict = self.verdicts.get(*deciding).copied().unwrap_or(self.base);
        for rule in covered {
            if let Some(effect) = self.effects.get_mut(*rule) {
                effect.covered_by.get_or_insert(*deciding);
            }
        }
        if let Some(effect) = self.effects.get_mut(*deciding) {
            effect.decides = true;
        }
        if verdict.hidden {
            for (rule, _) in set {
                if let Some(effect) = self.effects.get_mut(*rule).filter(|_| rule != deciding) {
                    effect.hidden_by.get_or_insert(*deciding);
                }
            }
        }
        (verdict, Some(*deciding))
    }

    /// Returns the positions after one more name with this letter.
    fn after(&self, set: &BTreeSet<Position>, letters: &Letters, letter: Letter) -> BTreeSet<Position> {
        let mut after = BTreeSet::new();
        for (rule, at) in set {
            let Some(step) = self.steps.get(*rule).and_then(|steps| steps.get(*at)) else { continue };
            let next = (*rule, at.saturating_add(1));
            match step {
                Step::AnyDepth => drop(after.insert((*rule, *at))),
                Step::AnyName => drop(after.insert(next)),
                Step::Name(component) if letters.matches(letter, *component) => drop(after.insert(next)),
                Step::Name(_) => {}
            }
        }
        self.closure(after)
    }

    /// Adds the position after each `**`, because `**` may match zero components.
    fn closure(&self, mut set: BTreeSet<Position>) -> BTreeSet<Position> {
        let is_before_any_depth = |(rule, at): &Position| {
            matches!(self.steps.get(*rule).and_then(|steps| steps.get(*at)), Some(Step::AnyDepth))
        };
        let after_any: Vec<Position> = set
            .iter()
            .filter(|position| is_before_any_depth(position))
            .map(|(rule, at)| (*rule, at.saturating_add(1)))
            .collect();
        set.extend(after_any);
        set
    }
}
