//! Tables of text: columns as wide as their widest cell, numbers to the right, no line with trailing blanks.
//! Knows nothing of what the cells mean.

use crate::ui::Paint;

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A cell: its text, and the colour that it may have.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    paint: Option<Paint>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), paint: None }
    }
}

impl Cell {
    /// A coloured cell.
    pub fn painted(text: impl Into<String>, paint: Paint) -> Cell {
        Cell { text: text.into(), paint: Some(paint) }
    }
}

/// A table under construction.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; a missing cell is empty.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// Adds a row of as many cells as there happen to be.
    pub fn cells(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text.
    pub fn render(&self, color: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.text.chars().count());
            cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut out = String::new();
        let heads: Vec<Cell> = self.columns.iter().map(|c| Cell::painted(c.0, Paint::Bold)).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            let mut pending = 0;
            for (column, &(_, align)) in self.columns.iter().enumerate() {
                let empty = Cell::default();
                let cell = row.get(column).unwrap_or(&empty);
                let fill = widths[column] - cell.text.chars().count().min(widths[column]);
                let (before, after) = if align == Align::Right { (fill, 0) } else { (0, fill) };
                pending += before;
                if !cell.text.is_empty() {
                    line.push_str(&" ".repeat(pending));
                    pending = 0;
                    match cell.paint {
                        Some(paint) => line.push_str(&paint.on(color, &cell.text)),
                        None => line.push_str(&cell.text),
                    }
                }
                pending += after + 2;
            }
            out.push_str(&line);
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_with_their_text() {
        let mut table = Table::new(&[("target", Align::Left), ("size", Align::Right), ("cost", Align::Left)]);
        table.row(["kernel".into(), "7.3 MiB".into(), "1 s".into()]);
        table.row(["a".into(), "0 B".into(), "".into()]);
        table.row(["b".into()]);
        assert_eq!(table.render(false), "target     size  cost\nkernel  7.3 MiB  1 s\na           0 B\nb\n");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let mut table = Table::new(&[("a", Align::Left), ("b", Align::Left)]);
        table.row([Cell::painted("x", Paint::Green), "y".into()]);
        assert!(table.render(true).ends_with("\x1b[32mx\x1b[0m  y\n"));
    }
}
