//! What the commands write: text that fits the terminal, with colours where somebody looks.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

use crate::{actors::admin::draw::printable, sys::terminal};

/// The width of a text that goes elsewhere than to a terminal.
/// No limit: programs read it.
const NO_TERMINAL_COLUMNS: usize = usize::MAX;
/// Limit: narrowest terminal that text is made to fit: 40 columns; past it: lines are longer than the terminal.
const LEAST_COLUMNS: usize = 40;

/// Where text goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// Whether text has colours.
    pub(super) colours: bool,
    /// Whether the screen can be cleared.
    pub(super) is_terminal: bool,
    /// The number of characters in a line.
    pub(super) columns: usize,
}

/// A colour of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Green,
    Yellow,
    Red,
    Bold,
}

// === impl Screen ===

impl Screen {
    /// The standard output.
    pub(super) fn of_stdout() -> Self {
        let out = io::stdout();
        let is_terminal = out.is_terminal();
        let columns = terminal::columns(out.as_fd()).filter(|_| is_terminal);
        Self {
            colours: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            is_terminal,
            columns: columns.map_or(NO_TERMINAL_COLUMNS, |columns| columns.max(LEAST_COLUMNS)),
        }
    }

    /// The text in a colour, where there are colours.
    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => "\x1b[32m",
            Colour::Yellow => "\x1b[33m",
            Colour::Red => "\x1b[31m",
            Colour::Bold => "\x1b[1m",
        };
        format!("{code}{text}\x1b[0m")
    }

    /// What clears the screen before it is drawn again.
    pub(super) fn clear(&self) -> &'static str {
        if self.is_terminal { "\x1b[H\x1b[2J" } else { "" }
    }
}

/// Breaks a text into lines of at most `columns` characters, at spaces. A word that is longer has a line of its own.
/// Control characters become spaces, since a peer may have had a part in the text.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in printable(text).split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > columns {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += word_length;
    }
    lines.push(line);
    lines
}

/// Unlike `print!`, lets a closed pipe be an error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
