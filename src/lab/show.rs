//! The output of the demo and the chaos runs: sections, a line with a mark for each fact, and the current step. The
//! output is plain text in a file, and has colours and progress on a terminal.

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// The width, in columns, of a fact's name.
const NAME: usize = 22;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

/// The evidence for a claim, or an error that describes the observation instead.
pub(super) type FactResult = Result<Evidence, String>;

/// The evidence for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The line of the fact.
    text: String,
    /// Further lines below the line of the fact.
    details: Vec<String>,
}

/// The output, and the number of facts that held.
#[derive(Debug)]
pub(super) struct Show<W: Write> {
    out: W,
    colour: bool,
    progress: bool,
    begun: Instant,
    held: usize,
    failed: usize,
}

// === impl Evidence ===

impl Evidence {
    /// One line of evidence.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), details: Vec::new() }
    }

    /// Adds a line below the evidence.
    pub(super) fn detail(mut self, text: impl Into<String>) -> Self {
        self.details.push(text.into());
        self
    }
}

// === impl Show ===

impl Show<io::Stdout> {
    /// Shows on standard output, with colours and progress if it is a terminal.
    pub(super) fn stdout() -> Self {
        let terminal = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        // By https://no-color.org, any value that is not empty turns colours off.
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::to(io::stdout(), terminal && !plain, terminal)
    }
}

impl<W: Write> Show<W> {
    fn to(out: W, colour: bool, progress: bool) -> Self {
        Self { out, colour, progress, begun: Instant::now(), held: 0, failed: 0 }
    }

    /// Prints the title above everything.
    pub(super) fn title(&mut self, text: &str) {
        let text = self.paint(BOLD, text);
        self.line(&text);
    }

    /// Prints a line of explanation.
    pub(super) fn note(&mut self, text: &str) {
        self.clear();
        let text = self.paint(DIM, &format!("  {text}"));
        self.line(&text);
    }

    /// Prints the heading of a section.
    pub(super) fn section(&mut self, name: &str) {
        self.clear();
        let name = self.paint(BOLD, name);
        self.line(&format!("\n{name}"));
    }

    /// Shows the current step until the next line.
    pub(super) fn doing(&mut self, what: &str) {
        if self.progress {
            let text = self.paint(DIM, &format!("  … {what}"));
            self.write(&format!("\r\x1b[K{text}"));
        }
    }

    /// Prints a fact. Returns whether the fact holds.
    pub(super) fn fact(&mut self, name: &str, shown: FactResult) -> bool {
        self.clear();
        let holds = shown.is_ok();
        let (mark, evidence) = match shown {
            Ok(evidence) => (self.paint(GREEN, "✔"), evidence),
            Err(seen) => {
                let mut lines = seen.lines();
                let first = lines.next().unwrap_or_default().to_owned();
                let details = lines.map(str::to_owned).collect();
                (self.paint(RED, "✘"), Evidence { text: self.paint(RED, &first), details })
            }
        };
        self.line(&format!("  {mark} {name:NAME$} {}", evidence.text));
        for detail in &evidence.details {
            let detail = self.paint(DIM, detail);
            self.line(&format!("    {:NAME$} {detail}", ""));
        }
        if holds {
            self.held += 1
        } else {
            self.failed += 1
        }
        holds
    }

    /// Prints a table: each row has a name and a value for each column; the first row has the columns' names.
    pub(super) fn table<'a>(&mut self, rows: impl IntoIterator<Item = (&'a str, Vec<String>)>) {
        self.clear();
        for (name, values) in rows {
            let values: String = values.iter().map(|value| format!("{value:>16}")).collect();
            let text = self.paint(DIM, &format!("    {name:34}{values}"));
            self.line(&text);
        }
    }

    /// Prints a line unchanged.
    pub(super) fn text(&mut self, text: &str) {
        self.clear();
        self.line(text);
    }

    /// Prints the last line. Returns whether every fact held.
    pub(super) fn close(mut self) -> bool {
        self.clear();
        let (all, time) = (self.held + self.failed, seconds(self.begun.elapsed()));
        let text = match self.failed {
            0 if all > 0 => self.paint(GREEN, &format!("all {all} shown in {time}")),
            failed => self.paint(RED, &format!("{failed} of {all} did not hold, in {time}")),
        };
        self.line(&format!("\n{text}"));
        self.failed == 0 && all > 0
    }

    /// Removes the progress line.
    fn clear(&mut self) {
        if self.progress {
            self.write("\r\x1b[K");
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&mut self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Writes text and ignores errors: a run goes on without its reader, and the exit code tells the result as well.
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

/// A time in a readable unit.
pub(super) fn seconds(time: Duration) -> String {
    match time {
        short if short < Duration::from_millis(10) => format!("{:.1} ms", short.as_secs_f64() * 1e3),
        short if short < Duration::from_secs(1) => format!("{} ms", short.as_millis()),
        long => format!("{:.1} s", long.as_secs_f64()),
    }
}

/// A number with separated thousands.
pub(super) fn number(value: impl Display) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
