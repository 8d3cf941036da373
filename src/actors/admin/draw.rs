//! Draws the supervision tree for people.

use serde::Deserialize;

/// Longest text of a last crash that is shown.
/// Limit: reason of an exit in the drawing of `warren tree`: 90 characters; past it: the reason is cut.
const SHOWN_REASON_CHARS: usize = 90;
const HEADINGS: [&str; 9] =
    ["ACTOR", "KIND", "STATE", "RESTARTS", "QUEUE", "BUSY", "LONGEST", "NOW", "LAST CRASH"];

/// A node as `/actors` shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownNode {
    id: String,
    name: Option<String>,
    is: String,
    state: String,
    restarts: u64,
    last_exit: Option<Exit>,
    mailbox: Mailbox,
    handlers: Handlers,
    children: Vec<ShownNode>,
    /// What is wrong although the tree may be well; only the root has notes.
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mailbox {
    depth: u64,
    oldest_ms: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Handlers {
    handled: u64,
    busy_ms: f64,
    longest: Option<Handler>,
    now: Option<Handler>,
}

#[derive(Debug, Deserialize)]
struct Handler {
    kind: String,
    ms: f64,
}

#[derive(Debug, Deserialize)]
struct Exit {
    at: String,
    reason: String,
}

/// Something that is quarantined, as `/quarantine` shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QuarantinedInput {
    kind: String,
    name: String,
    shown_as: Option<String>,
    crashes: u64,
    retry_in_seconds: Option<u64>,
}

struct Row {
    cells: [String; 9],
    colour: &'static str,
}

/// The trees with a line a node, and then the notes. `colours`: with the escape codes of a terminal.
pub(crate) fn draw(roots: &[ShownNode], colours: bool) -> String {
    let mut rows = vec![Row { cells: HEADINGS.map(str::to_owned), colour: BOLD }];
    for root in roots {
        rows.push(root.row("", None));
        root.below("", &mut rows);
    }
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut drawn: String = rows.iter().map(|row| row.line(&widths, colours)).collect();
    for note in roots.iter().flat_map(|root| &root.notes) {
        let (before, after) = if colours { (YELLOW, PLAIN) } else { ("", "") };
        drawn.push_str(&format!("{before}{}{after}\n", printable(note)));
    }
    drawn
}

/// What is quarantined, a line each.
pub(crate) fn list(aside: &[QuarantinedInput]) -> String {
    if aside.is_empty() {
        return "nothing is quarantined\n".to_owned();
    }
    let names: Vec<String> =
        aside.iter().map(|aside| printable(&aside.name) + &beside(aside.shown_as.as_deref())).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("NAME".len());
    let mut lines = format!("{:8}  {:width$}  CRASHES  NEXT TRY\n", "KIND", "NAME");
    for (aside, name) in aside.iter().zip(&names) {
        let kind = printable(&aside.kind);
        let next =
            aside.retry_in_seconds.map_or_else(|| "later".to_owned(), |seconds| format!("in {seconds} s"));
        lines.push_str(&format!("{kind:8}  {name:width$}  {:<7}  {next}\n", aside.crashes));
    }
    lines
}

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

// === impl ShownNode ===

impl ShownNode {
    fn below(&self, indent: &str, rows: &mut Vec<Row>) {
        let last = self.children.len().saturating_sub(1);
        for (index, child) in self.children.iter().enumerate() {
            let (branch, beside) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            rows.push(child.row(&format!("{indent}{branch}"), self.name.as_deref()));
            child.below(&format!("{indent}{beside}"), rows);
        }
    }

    /// Its line. The name stands where a part of the tree begins that has it, not at all that is below.
    fn row(&self, branch: &str, name_above: Option<&str>) -> Row {
        let colour = match self.state.as_str() {
            "up" => GREEN,
            "quarantined" | "down" => RED,
            _ => YELLOW,
        };
        let crash = self.last_exit.as_ref().map_or_else(String::new, Exit::line);
        let name = self.name.as_deref().filter(|name| name_above != Some(*name));
        let id = printable(&self.id) + &beside(name);
        let cells = [
            format!("{branch}{id}"),
            printable(&self.is),
            printable(&self.state),
            self.restarts.to_string(),
            self.mailbox.cell(),
            if self.handlers.handled == 0 { String::new() } else { time(self.handlers.busy_ms) },
            Handler::cell(self.handlers.longest.as_ref()),
            Handler::cell(self.handlers.now.as_ref()),
            crash,
        ];
        Row { cells, colour }
    }
}

// === impl Mailbox ===

impl Mailbox {
    /// How many messages wait and for how long the oldest has; an empty mailbox is not worth a word.
    fn cell(&self) -> String {
        match self.depth {
            0 => String::new(),
            depth => format!("{depth} {}", time(self.oldest_ms)),
        }
    }
}

// === impl Handler ===

impl Handler {
    /// Its time and kind, if it took a millisecond or more.
    fn cell(handler: Option<&Self>) -> String {
        let worth = handler.filter(|handler| handler.ms >= 1.0);
        worth.map_or_else(String::new, |handler| format!("{} {}", time(handler.ms), printable(&handler.kind)))
    }
}

// === impl Exit ===

impl Exit {
    /// The time to the second and the reason, on one line.
    fn line(&self) -> String {
        let at = self.at.split('.').next().unwrap_or_default().trim_end_matches('Z');
        let mut reason = printable(&self.reason);
        if let Some((cut, _)) = reason.char_indices().nth(SHOWN_REASON_CHARS) {
            reason.truncate(cut);
            reason.push('…');
        }
        format!("{at}Z {reason}")
    }
}

// === impl Row ===

impl Row {
    fn line(&self, widths: &[usize; 9], colours: bool) -> String {
        let mut line = String::new();
        for (column, (cell, width)) in self.cells.iter().zip(widths).enumerate() {
            let coloured = colours && (column == 2 || self.colour == BOLD);
            if coloured {
                line.push_str(self.colour);
            }
            line.push_str(cell);
            if coloured {
                line.push_str(PLAIN);
            }
            let gap = (width + 2).saturating_sub(cell.chars().count());
            line.extend(std::iter::repeat_n(' ', gap));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// A name in brackets, to be shown beside an id; nothing if there is none.
pub(super) fn beside(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" ({})", printable(name)))
}

/// A time in the unit that fits it.
fn time(ms: f64) -> String {
    match ms {
        ..1.0 => format!("{:.0}us", ms * 1000.0),
        ..1000.0 => format!("{ms:.0}ms"),
        _ => format!("{:.1}s", ms / 1000.0),
    }
}

/// What may come from a panic or a peer must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
