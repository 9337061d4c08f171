//! Results of a benchmark without virtiofsd: a table of medians with their aims.

use super::aims::Bound;
use super::samples::Spread;
use crate::console::say;
use crate::table::Table;

/// Figures by row, in the order of the first figure of each row.
#[derive(Default)]
pub(crate) struct Rows(Vec<(String, Vec<f64>)>);

impl Rows {
    /// Adds a figure of a row.
    pub(crate) fn add(&mut self, row: &str, figure: f64) {
        match self.0.iter_mut().find(|(name, _)| name == row) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((row.to_owned(), vec![figure])),
        }
    }

    /// Returns the median of a row.
    #[cfg(test)]
    pub(crate) fn median(&self, row: &str) -> Option<f64> {
        let (_, figures) = self.0.iter().find(|(name, _)| name == row)?;
        Spread::of(figures.iter().copied()).map(|spread| spread.median)
    }

    /// Prints the table with the aims, and how many of them are met.
    pub(crate) fn show(&self, aims: &[(&str, Bound)]) {
        let (table, met) = self.table(aims);
        say(format!("\n{}\n{met}", table.plain()));
    }

    /// Returns the table with the aims, and how many of them are met in words.
    pub(crate) fn table(&self, aims: &[(&str, Bound)]) -> (Table, String) {
        let mut table = Table::new(&["row", "median", "smallest", "largest", "aim", "met"]);
        let (mut met, mut of) = (0, 0);
        for (row, figures) in &self.0 {
            let Some(spread) = Spread::of(figures.iter().copied()) else { continue };
            let aim = aims.iter().find(|(name, _)| name == row).map(|(_, bound)| bound);
            let judged = aim.map(|bound| bound.is_met(spread.median));
            of += usize::from(judged.is_some());
            met += usize::from(judged == Some(true));
            let number =
                |number: f64| if number < 100.0 { format!("{number:.2}") } else { format!("{number:.0}") };
            let wanted = match aim {
                Some(Bound::AtMost(limit)) => format!("at most {}", number(*limit)),
                Some(Bound::AtLeast(limit)) => format!("at least {}", number(*limit)),
                None => String::new(),
            };
            let word = judged.map_or("", |met| if met { "yes" } else { "NO" });
            let [median, least, most] = [spread.median, spread.min, spread.max].map(number);
            table.row(vec![row.clone(), median, least, most, wanted, word.to_owned()]);
        }
        (table, format!("aims: {met} of {of} met"))
    }
}
