//! Tables that fit the terminal.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use serde_json::Value;

use super::screen::{Colour, Screen};
use crate::actors::admin::draw::printable;
pub(super) use crate::actors::admin::rows::{bytes, number, text};

/// Limit: narrowest column of a table that is made to fit: 8 characters; past it: lines are longer than the terminal.
const LEAST_COLUMN: usize = 8;

/// A column of a table.
pub(super) struct Column {
    /// The heading.
    pub(super) heading: &'static str,
    /// Whether only wide tables have the column.
    pub(super) is_wide: bool,
    /// What a row has in the column.
    pub(super) cell: fn(&Value) -> Cell,
}

/// What stands in a row and column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    /// A text. An empty text is shown as `-`.
    Text(String),
    /// A number as people read it, and by which rows are sorted.
    Number(String, f64),
    /// A text in a colour.
    Coloured(Colour, String),
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout<'a> {
    /// Where to.
    pub(super) screen: &'a Screen,
    /// Whether all columns are shown.
    pub(super) is_wide: bool,
}

/// The rows as a table, a line each below the headings.
pub(super) fn draw(columns: &[Column], rows: &[Value], layout: Layout<'_>) -> String {
    let columns: Vec<&Column> = columns.iter().filter(|column| layout.is_wide || !column.is_wide).collect();
    let cells: Vec<Vec<Cell>> =
        rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect()).collect();
    let mut widths: Vec<usize> = columns.iter().map(|column| column.heading.chars().count()).collect();
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text().chars().count());
        }
    }
    fit(&mut widths, layout.screen.columns);
    let screen = layout.screen;
    let headings = columns.iter().map(|column| Cell::Text(column.heading.to_owned())).collect::<Vec<_>>();
    let mut text = screen.paint(Colour::Bold, &line(&headings, &widths, screen));
    text.push('\n');
    for row in &cells {
        text.push_str(&line(row, &widths, screen));
        text.push('\n');
    }
    text
}

/// Sorts rows by a column. Numbers come largest first.
///
/// # Errors
/// There is no such column; the text names those that there are.
pub(super) fn sort(columns: &[Column], rows: &mut [Value], by: &str) -> Result<(), String> {
    let Some(column) = columns.iter().find(|column| column.heading.eq_ignore_ascii_case(by)) else {
        let known: Vec<String> = columns.iter().map(|column| column.heading.to_ascii_lowercase()).collect();
        return Err(format!("no column {by:?} to sort by; there are: {}", known.join(", ")));
    };
    rows.sort_by(|a, b| (column.cell)(a).order(&(column.cell)(b)));
    Ok(())
}

/// Makes the widest columns narrower until a line fits, or each is as narrow as it may be.
fn fit(widths: &mut [usize], columns: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > columns {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > LEAST_COLUMN) else { return };
        *widest -= 1;
    }
}

fn line(cells: &[Cell], widths: &[usize], screen: &Screen) -> String {
    let mut line = String::new();
    let last = cells.len().saturating_sub(1);
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let text = cut(&cell.text(), *width);
        let padding = " ".repeat(width.saturating_sub(text.chars().count()));
        match cell {
            Cell::Number(..) => line.push_str(&format!("{padding}{text}")),
            Cell::Text(_) => line.push_str(&format!("{text}{padding}")),
            Cell::Coloured(colour, _) => {
                line.push_str(&screen.paint(*colour, &text));
                line.push_str(&padding);
            }
        }
        if at < last {
            line.push_str("  ");
        }
    }
    line.truncate(line.trim_end().len());
    line
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

// === impl Cell ===

impl Cell {
    /// The text that is shown. Control characters become spaces, since a peer may have had a part in the text.
    fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Coloured(_, text) | Self::Number(text, _) if text.is_empty() => {
                "-".to_owned()
            }
            Self::Text(text) | Self::Coloured(_, text) | Self::Number(text, _) => printable(text),
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(_, a), Self::Number(_, b)) => b.total_cmp(a),
            _ => self.text().cmp(&other.text()),
        }
    }
}

/// A count.
pub(super) fn count(row: &Value, field: &str) -> Cell {
    let count = number(row, field);
    Cell::Number(format!("{count:.0}"), count)
}

/// A time in the units that fit it.
pub(super) fn time(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{:.1}s", seconds.max(0.0)),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24),
    }
}
