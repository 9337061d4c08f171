//! Collects figures over the turns and computes ratios.
//!
//! Contestants take turns within one run, so that a disturbance of the host affects all of them.
//! A ratio compares two figures of the same turn. Results are the median, the smallest and the
//! largest of these ratios.

use super::figure::{Better, Contestant, Figure, VirtiofsdSetting};

/// All figures of a run, by row, in the order of the first figure of each row.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    rows: Vec<RowSamples>,
}

/// Values of one contestant, each with its turn.
type TurnValues = Vec<(usize, f64)>;

/// Figures of one row.
#[derive(Debug)]
pub(crate) struct RowSamples {
    /// Name of the row.
    pub(crate) row: String,
    /// Unit of the values.
    pub(crate) unit: &'static str,
    /// Direction in which a value is better.
    pub(crate) better: Better,
    /// Values of each contestant.
    pub(crate) series: Vec<(Contestant, TurnValues)>,
}

/// Median, smallest and largest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Comparison of pinhole with another contestant in one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Beside {
    /// Figure of the other contestant.
    pub(crate) value: Spread,
    /// Ratio pinhole / other of the same turn.
    pub(crate) ratio: Spread,
}

/// Results of one row.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) row: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) pinhole: Spread,
    /// virtiofsd with its best setting for this row.
    pub(crate) peer: Option<(VirtiofsdSetting, Beside)>,
    /// virtiofsd with its best setting without a thread pool.
    pub(crate) poolless: Option<Beside>,
    /// Bare host calls.
    pub(crate) native: Option<Beside>,
    /// Another build of pinhole.
    pub(crate) before: Option<Beside>,
}

impl Samples {
    /// Adds the figures of `contestant` in `turn`.
    pub(crate) fn add(&mut self, contestant: &Contestant, turn: usize, figures: Vec<Figure>) {
        for Figure { row, unit, better, value } in figures {
            let known = self.rows.iter().position(|known| known.row == row);
            let at = known.unwrap_or_else(|| {
                self.rows.push(RowSamples { row, unit, better, series: Vec::new() });
                self.rows.len() - 1
            });
            let Some(samples) = self.rows.get_mut(at) else { continue };
            match samples.series.iter_mut().find(|(known, _)| known == contestant) {
                Some((_, values)) => values.push((turn, value)),
                None => samples.series.push((contestant.clone(), vec![(turn, value)])),
            }
        }
    }

    /// Returns the rows.
    pub(crate) fn rows(&self) -> &[RowSamples] {
        &self.rows
    }

    /// Returns the results of all rows that have a figure of pinhole.
    pub(crate) fn comparisons(&self) -> Vec<Comparison> {
        self.rows.iter().filter_map(RowSamples::comparison).collect()
    }
}

impl RowSamples {
    /// Compares pinhole with the other contestants. Returns nothing without a figure of pinhole.
    fn comparison(&self) -> Option<Comparison> {
        let of = |wanted: fn(&Contestant) -> bool| {
            self.series.iter().find(|(contestant, _)| wanted(contestant)).map(|(_, values)| values.as_slice())
        };
        let own = of(|contestant| matches!(contestant, Contestant::Pinhole { .. }))?;
        let native = of(|contestant| *contestant == Contestant::Native);
        let before = of(|contestant| matches!(contestant, Contestant::Before { .. }));
        let peer = self.best_peer(|_setting| true);
        let poolless = self.best_peer(|setting| setting.pool == 0);
        Some(Comparison {
            row: self.row.clone(),
            unit: self.unit,
            better: self.better,
            pinhole: Spread::of(own.iter().map(|(_, value)| *value))?,
            peer: peer.and_then(|(setting, values)| Some((setting, Beside::of(own, values)?))),
            poolless: poolless.and_then(|(_, values)| Beside::of(own, values)),
            native: native.and_then(|values| Beside::of(own, values)),
            before: before.and_then(|values| Beside::of(own, values)),
        })
    }

    /// Returns the setting of virtiofsd with the best median among the `wanted` settings.
    fn best_peer(
        &self,
        wanted: impl Fn(&VirtiofsdSetting) -> bool,
    ) -> Option<(VirtiofsdSetting, &TurnValues)> {
        let peers = self.series.iter().filter_map(|(contestant, values)| match contestant {
            Contestant::Virtiofsd(setting) if wanted(setting) => {
                let median = Spread::of(values.iter().map(|(_, value)| *value))?.median;
                Some((median, *setting, values))
            }
            Contestant::Virtiofsd(_)
            | Contestant::Pinhole { .. }
            | Contestant::Before { .. }
            | Contestant::Native => None,
        });
        let best = peers.reduce(|best, next| if self.better.is_better(next.0, best.0) { next } else { best });
        best.map(|(_, setting, values)| (setting, values))
    }
}

impl Better {
    /// Returns whether `value` is better than `other`.
    pub(crate) fn is_better(self, value: f64, other: f64) -> bool {
        match self {
            Self::Higher => value > other,
            Self::Lower => value < other,
        }
    }
}

impl Spread {
    /// Returns the spread of `values`, or `None` if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

impl Beside {
    /// Compares two series, or returns `None` if no turn has a value of both.
    fn of(own: &[(usize, f64)], other: &[(usize, f64)]) -> Option<Self> {
        let ratios = own.iter().filter_map(|(turn, value)| {
            let (_, beside) = other.iter().find(|(same, _)| same == turn)?;
            (*beside > 0.0).then_some(value / beside)
        });
        Some(Self { value: Spread::of(other.iter().map(|(_, value)| *value))?, ratio: Spread::of(ratios)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: VirtiofsdSetting = VirtiofsdSetting { pool: 0, cache: "auto" };
    const POOL: VirtiofsdSetting = VirtiofsdSetting { pool: 4, cache: "auto" };

    fn figure(better: Better, value: f64) -> Vec<Figure> {
        vec![Figure { row: "row".to_owned(), unit: "us", better, value }]
    }

    fn run(better: Better, turns: &[[f64; 3]]) -> Comparison {
        let pinhole = Contestant::Pinhole { program: "pinhole".into() };
        let mut samples = Samples::default();
        for (turn, [own, single, pool]) in turns.iter().enumerate() {
            samples.add(&pinhole, turn, figure(better, *own));
            samples.add(&Contestant::Virtiofsd(SINGLE), turn, figure(better, *single));
            samples.add(&Contestant::Virtiofsd(POOL), turn, figure(better, *pool));
        }
        samples.comparisons().remove(0)
    }

    #[test]
    fn median_is_of_ratios_within_a_turn() {
        // The third turn was disturbed for both: the ratio stays.
        let comparison = run(Better::Lower, &[[1.0, 2.0, 9.0], [1.0, 2.0, 9.0], [10.0, 20.0, 90.0]]);
        let (setting, peer) = comparison.peer.unwrap();
        assert_eq!(setting, SINGLE);
        assert_eq!(peer.ratio, Spread { median: 0.5, min: 0.5, max: 0.5 });
        assert_eq!(comparison.pinhole, Spread { median: 1.0, min: 1.0, max: 10.0 });
    }

    #[test]
    fn peer_setting_is_the_best_in_the_rows_direction() {
        let turns = [[6.0, 2.0, 3.0], [6.0, 2.0, 3.0]];
        let (setting, peer) = run(Better::Higher, &turns).peer.unwrap();
        assert_eq!((setting, peer.ratio.median), (POOL, 2.0));
        let (setting, peer) = run(Better::Lower, &turns).peer.unwrap();
        assert_eq!((setting, peer.ratio.median), (SINGLE, 3.0));
    }

    #[test]
    fn settings_without_a_pool_are_compared_separately() {
        let comparison = run(Better::Higher, &[[6.0, 2.0, 3.0]]);
        assert_eq!(comparison.poolless.unwrap().ratio, Spread { median: 3.0, min: 3.0, max: 3.0 });
    }

    #[test]
    fn median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 8.0]), Some(Spread { median: 3.0, min: 1.0, max: 8.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn other_build_is_compared_and_is_no_peer() {
        let mut samples = Samples::default();
        for turn in 0..2 {
            for (contestant, value) in [
                (Contestant::Pinhole { program: "new/pinhole".into() }, 3.0),
                (Contestant::Before { program: "old/pinhole".into() }, 2.0),
            ] {
                samples.add(&contestant, turn, figure(Better::Higher, value));
            }
        }
        let comparison = samples.comparisons().remove(0);
        assert_eq!(comparison.before.unwrap().ratio, Spread { median: 1.5, min: 1.5, max: 1.5 });
        assert!(comparison.peer.is_none());
    }

    #[test]
    fn turn_with_one_value_makes_no_ratio() {
        let half = Spread { median: 0.5, min: 0.5, max: 0.5 };
        assert_eq!(Beside::of(&[(0, 1.0), (1, 2.0)], &[(1, 4.0)]).unwrap().ratio, half);
        assert!(Beside::of(&[(0, 1.0)], &[(1, 4.0)]).is_none());
        assert!(Beside::of(&[(0, 1.0)], &[(0, 0.0)]).is_none());
    }
}
