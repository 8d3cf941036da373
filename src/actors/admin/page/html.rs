//! Writes HTML. Markup is part of the program, and every other text is escaped.

#[cfg(test)]
mod tests;

use std::fmt::{Display, Write as _};

/// Limit: text of a name or message on the page: 400 characters; past it: the text is cut.
const MAX_CHARS: usize = 400;

/// HTML that is being written. The type of [`Html::put`] keeps texts of others out of the markup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Html(String);

// === impl Html ===

impl Html {
    /// Adds markup, which is part of the program.
    pub(super) fn put(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds a text of any origin. It can be content of an element, or the value of an attribute in quotation marks.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing to a string does not fail.
        let _ = write!(Escaped { to: &mut self.0, left: MAX_CHARS }, "{text}");
        self
    }

    /// Adds what was written elsewhere.
    pub(super) fn join(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    /// What is written so far.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// What was written.
    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Takes text, and writes it without anything that markup consists of.
struct Escaped<'a> {
    to: &'a mut String,
    left: usize,
}

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match self.left {
                0 => return Ok(()),
                1 => self.to.push('…'),
                _ => match c {
                    '&' => self.to.push_str("&amp;"),
                    '<' => self.to.push_str("&lt;"),
                    '>' => self.to.push_str("&gt;"),
                    '"' => self.to.push_str("&quot;"),
                    '\'' => self.to.push_str("&#39;"),
                    '\n' | '\t' => self.to.push(' '),
                    c if c.is_control() || turns(c) => self.to.push('\u{fffd}'),
                    c => self.to.push(c),
                },
            }
            self.left -= 1;
        }
        Ok(())
    }
}

/// Whether a character changes the direction of the text around it, so that a name could pass for another one.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
