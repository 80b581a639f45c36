//! Tables without borders.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table whose columns are told apart by two spaces. A title that begins with `>` is that of a
/// column of numbers, which end below each other.
pub(super) struct Rows(Table);

impl Rows {
    pub(super) fn new(titles: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(titles.iter().map(|title| title.trim_start_matches('>')));
        for (column, title) in table.column_iter_mut().zip(titles) {
            column.set_padding((0, 2));
            if title.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells);
    }

    /// The table, each line with `indent` spaces before it and none at its end.
    pub(super) fn text(&self, indent: usize) -> String {
        self.0.lines().map(|line| format!("{:indent$}{}\n", "", line.trim_end())).collect()
    }
}
