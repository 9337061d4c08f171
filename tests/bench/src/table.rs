//! Tables for a terminal and for Markdown documents.

/// Table of cells. The first column is aligned left, the others right.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table with the titles of its columns and no rows.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, which must have a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Returns whether the table has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the table as plain text with aligned columns.
    pub(crate) fn plain(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len()).map(|column| self.width(column)).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells.zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let head = line(&mut self.head.iter().copied());
        let rows = self.rows.iter().map(|cells| line(&mut cells.iter().map(String::as_str)));
        std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
    }

    /// Returns the table as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut lines = vec![format!("| {} |", self.head.join(" | "))];
        lines.push(format!("|---|{}", "---:|".repeat(self.head.len().saturating_sub(1))));
        lines.extend(self.rows.iter().map(|cells| format!("| {} |", cells.join(" | "))));
        lines.join("\n")
    }

    /// Returns the width of a column in characters.
    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count());
        let head = self.head.get(column).map_or(0, |text| text.chars().count());
        cells.fold(head, usize::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_aligned_left_and_figures_right() {
        let mut table = Table::new(&["row", "x"]);
        table.row(vec!["a".to_owned(), "10".to_owned()]);
        assert_eq!(table.plain(), "row   x\na    10");
        assert_eq!(table.markdown(), "| row | x |\n|---|---:|\n| a | 10 |");
    }
}
