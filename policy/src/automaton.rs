//! The path rules as one finite automaton: it reads a path name by name, and its state decides.
//!
//! States that decide alike for every path below are one state, so that two places have the same rule exactly if
//! they have the same state.

use crate::Access;
use crate::glob::{Component, Glob, Segment};
use crate::letters::{Letter, Letters};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Verdict {
    /// What is granted.
    pub(crate) access: Access,
    /// Whether the name is as if it were not there; then nothing is granted.
    pub(crate) hidden: bool,
}

/// Index of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct State(pub(crate) u32);

impl State {
    /// Grants nothing, and nothing below.
    pub(crate) const NOTHING: Self = Self(0);
    /// Hidden; what is below is never reached.
    pub(crate) const HIDDEN: Self = Self(1);
}

/// A deterministic automaton over letters.
#[derive(Debug)]
pub(crate) struct Automaton {
    pub(crate) letters: Letters,
    pub(crate) root: State,
    verdicts: Vec<Verdict>,
    /// By state and, within it, by letter.
    next: Vec<State>,
}

/// What was seen of one rule while the automaton was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// It decides somewhere.
    pub(crate) decides: bool,
    /// It decides somewhere that a guest can come to: a name in a directory that it may find or make.
    pub(crate) reached: bool,
    /// A later rule that decides where this one matches.
    pub(crate) covered_by: Option<usize>,
    /// A rule that hides a directory beneath which this one could match.
    pub(crate) hidden_by: Option<usize>,
    /// A rule under which a directory, beneath which this one could match, can be neither found nor made.
    pub(crate) closed_by: Option<usize>,
}

/// The rules overlap in more ways than are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooIntricate;

/// States times letters, before states that decide alike are made one. Hundreds of plain rules stay below it.
const TRANSITIONS_MAX: usize = 1 << 18;

/// [`State::NOTHING`] and [`State::HIDDEN`].
const FIXED: usize = 2;

/// A position: a rule, and how many of its segments have been read.
type Position = (usize, usize);

impl Automaton {
    /// Builds it from the rules' globs and verdicts, in their order, over the base verdict.
    ///
    /// # Errors
    /// [`TooIntricate`].
    pub(crate) fn new(rules: &[(Glob, Verdict)], base: Verdict) -> Result<(Self, Vec<Seen>), TooIntricate> {
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
        let letters = Letters::new(&components).map_err(|_too_many| TooIntricate)?;
        let mut build = Build {
            steps,
            verdicts: rules.iter().map(|(_, verdict)| *verdict).collect(),
            base,
            seen: vec![Seen::default(); rules.len()],
        };
        let whole = build.explore(letters)?;
        Ok((whole.minimal(), build.seen))
    }

    /// What a state says.
    pub(crate) fn verdict(&self, state: State) -> Verdict {
        let nothing = Verdict { access: Access::empty(), hidden: false };
        self.verdicts.get(index(state)).copied().unwrap_or(nothing)
    }

    /// The state one name further.
    pub(crate) fn next(&self, state: State, letter: Letter) -> State {
        self.row(state).get(letter.0).copied().unwrap_or(State::NOTHING)
    }

    /// How many states there are.
    pub(crate) const fn count(&self) -> usize {
        self.verdicts.len()
    }

    fn row(&self, state: State) -> &[State] {
        let width = self.letters.count();
        let start = index(state).saturating_mul(width);
        self.next.get(start..start.saturating_add(width)).unwrap_or_default()
    }

    /// Makes one of all states that decide alike for every path, by splitting those that do not until none is left to
    /// split. The numbers follow the first of each kind, so that the first two keep theirs.
    fn minimal(self) -> Self {
        let (mut kinds, mut count) = numbered(self.verdicts.iter().copied());
        loop {
            let states = (0..).map(State).zip(&kinds);
            let signatures = states.map(|(state, kind)| {
                let below = self.row(state).iter().map(|next| kinds.get(index(*next)).copied());
                (*kind, below.collect::<Vec<_>>())
            });
            let (finer, finer_count) = numbered(signatures);
            if finer_count == count {
                break;
            }
            (kinds, count) = (finer, finer_count);
        }
        let kind = |state: State| State(kinds.get(index(state)).copied().unwrap_or_default());
        let mut first_of_kind = BTreeMap::new();
        for (state, of) in (0..).map(State).zip(&kinds) {
            first_of_kind.entry(*of).or_insert(state);
        }
        let firsts = || first_of_kind.values().copied();
        Self {
            root: kind(self.root),
            verdicts: firsts().map(|state| self.verdict(state)).collect(),
            next: firsts().flat_map(|state| self.row(state)).map(|next| kind(*next)).collect(),
            letters: self.letters,
        }
    }
}

/// Numbers values by first occurrence; and how many different ones there are.
fn numbered<T: Eq + Hash>(values: impl Iterator<Item = T>) -> (Vec<u32>, usize) {
    let mut known = HashMap::new();
    let mut numbers = Vec::new();
    for value in values {
        let fresh = u32::try_from(known.len()).unwrap_or(u32::MAX);
        numbers.push(*known.entry(value).or_insert(fresh));
    }
    (numbers, known.len())
}

fn index(State(state): State) -> usize {
    usize::try_from(state).unwrap_or(usize::MAX)
}

enum Step {
    AnyDepth,
    AnyName,
    /// A component, by its index.
    Name(usize),
}

/// What is known besides the automaton while it is built.
struct Explored {
    /// The positions of each state but the two fixed ones.
    sets: Vec<BTreeSet<Position>>,
    /// The rule that decides where each transition leads; none: the base verdict.
    deciding: Vec<Option<usize>>,
}

impl Explored {
    fn set(&self, state: State) -> Option<&BTreeSet<Position>> {
        self.sets.get(index(state).checked_sub(FIXED)?)
    }
}

struct Build {
    steps: Vec<Vec<Step>>,
    verdicts: Vec<Verdict>,
    base: Verdict,
    seen: Vec<Seen>,
}

impl Build {
    /// Every set of positions that a path can lead to is a state.
    fn explore(&mut self, letters: Letters) -> Result<Automaton, TooIntricate> {
        let fixed = [
            Verdict { access: Access::empty(), hidden: false },
            Verdict { access: Access::empty(), hidden: true },
        ];
        let mut next = vec![State::NOTHING; letters.count()];
        next.resize(letters.count().saturating_mul(FIXED), State::HIDDEN);
        let start: BTreeSet<Position> = (0..self.steps.len()).map(|rule| (rule, 0)).collect();
        let start = self.closed(start);
        let mut verdicts = fixed.to_vec();
        let mut known = HashMap::new();
        let mut sets = Vec::new();
        let mut deciding = vec![None; next.len()];
        let (root, root_rule) = self.state(start, &mut known, &mut sets, &mut verdicts);
        let mut read = 0_usize;
        while let Some(set) = sets.get(read).cloned() {
            read = read.saturating_add(1);
            for letter in (0..letters.count()).map(Letter) {
                let after = self.after(&set, &letters, letter);
                let (state, rule) = self.state(after, &mut known, &mut sets, &mut verdicts);
                next.push(state);
                deciding.push(rule);
            }
            if next.len() > TRANSITIONS_MAX {
                return Err(TooIntricate);
            }
        }
        let automaton = Automaton { letters, root, verdicts, next };
        self.walk(&automaton, root_rule, &Explored { sets, deciding });
        Ok(automaton)
    }

    /// Goes wherever a guest can: from directories that it may find or make to the names in them.
    fn walk(&mut self, automaton: &Automaton, root_rule: Option<usize>, explored: &Explored) {
        let mut seen = BTreeSet::from([automaton.root]);
        let mut open = vec![automaton.root];
        self.reach(root_rule);
        while let Some(directory) = open.pop() {
            let start = index(directory).saturating_mul(automaton.letters.count());
            for (at, state) in (start..).zip(automaton.row(directory)) {
                let rule = explored.deciding.get(at).copied().flatten();
                self.reach(rule);
                if !seen.insert(*state) {
                    continue;
                }
                if automaton.verdict(*state).access.intersects(Access::LEADS_ON) {
                    open.push(*state);
                } else if let Some(closing) = rule {
                    self.close(closing, explored.set(*state));
                }
            }
        }
    }

    fn reach(&mut self, rule: Option<usize>) {
        if let Some(seen) = rule.and_then(|rule| self.seen.get_mut(rule)) {
            seen.reached = true;
        }
    }

    /// Under the rule `closing` nothing below is come to; the others of the set would match there.
    fn close(&mut self, closing: usize, set: Option<&BTreeSet<Position>>) {
        for (rule, _) in set.into_iter().flatten().filter(|(rule, _)| *rule != closing) {
            if let Some(seen) = self.seen.get_mut(*rule) {
                seen.closed_by.get_or_insert(closing);
            }
        }
    }

    /// The state of a set of positions, a new one where it has not been seen, and the rule that decides there.
    fn state(
        &mut self,
        set: BTreeSet<Position>,
        known: &mut HashMap<BTreeSet<Position>, (State, Option<usize>)>,
        sets: &mut Vec<BTreeSet<Position>>,
        verdicts: &mut Vec<Verdict>,
    ) -> (State, Option<usize>) {
        if let Some(found) = known.get(&set) {
            return *found;
        }
        let (verdict, rule) = self.decide(&set);
        let state = if verdict.hidden {
            State::HIDDEN
        } else {
            verdicts.push(verdict);
            sets.push(set.clone());
            State(u32::try_from(verdicts.len().saturating_sub(1)).unwrap_or_default())
        };
        known.insert(set, (state, rule));
        (state, rule)
    }

    /// The last rule that matches decides.
    fn decide(&mut self, set: &BTreeSet<Position>) -> (Verdict, Option<usize>) {
        let ends = |(rule, at): &&Position| self.steps.get(*rule).is_some_and(|steps| steps.len() == *at);
        let matching: Vec<usize> = set.iter().filter(ends).map(|(rule, _)| *rule).collect();
        let Some((deciding, covered)) = matching.split_last() else { return (self.base, None) };
        let verdict = self.verdicts.get(*deciding).copied().unwrap_or(self.base);
        for rule in covered {
            if let Some(seen) = self.seen.get_mut(*rule) {
                seen.covered_by.get_or_insert(*deciding);
            }
        }
        if let Some(seen) = self.seen.get_mut(*deciding) {
            seen.decides = true;
        }
        if verdict.hidden {
            for (rule, _) in set {
                if let Some(seen) = self.seen.get_mut(*rule).filter(|_| rule != deciding) {
                    seen.hidden_by.get_or_insert(*deciding);
                }
            }
        }
        (verdict, Some(*deciding))
    }

    fn after(&self, set: &BTreeSet<Position>, letters: &Letters, letter: Letter) -> BTreeSet<Position> {
        let mut after = BTreeSet::new();
        for (rule, at) in set {
            let Some(step) = self.steps.get(*rule).and_then(|steps| steps.get(*at)) else { continue };
            let on = (*rule, at.saturating_add(1));
            match step {
                Step::AnyDepth => drop(after.insert((*rule, *at))),
                Step::AnyName => drop(after.insert(on)),
                Step::Name(component) if letters.matches(letter, *component) => drop(after.insert(on)),
                Step::Name(_) => {}
            }
        }
        self.closed(after)
    }

    /// `**` may also stand for no component.
    fn closed(&self, mut set: BTreeSet<Position>) -> BTreeSet<Position> {
        let at_any = |(rule, at): &Position| {
            matches!(self.steps.get(*rule).and_then(|steps| steps.get(*at)), Some(Step::AnyDepth))
        };
        let behind: Vec<Position> = set
            .iter()
            .filter(|position| at_any(position))
            .map(|(rule, at)| (*rule, at.saturating_add(1)))
            .collect();
        set.extend(behind);
        set
    }
}
