//! What cells of tables and sentences of the page consist of: words for states, times, and tables themselves.

use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::html::Html;

/// How a state is shown. A mark and a word tell it, and not the colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Notable,
    /// Wrong.
    Bad,
    /// Neither good nor bad.
    Plain,
}

/// A column: its heading, and whether it has numbers.
pub(super) type Column = (&'static str, bool);

/// A table that is being written.
pub(super) struct Table<'a, const N: usize> {
    html: &'a mut Html,
    columns: &'static [Column; N],
}

// === impl Tone ===

impl Tone {
    /// The classes of an element.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Notable => "notable",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }

    /// The mark, which screen readers leave out.
    pub(super) fn mark(self) -> &'static str {
        match self {
            Self::Good => "<span class=\"mark\" aria-hidden=\"true\">●</span>",
            Self::Notable => "<span class=\"mark\" aria-hidden=\"true\">▲</span>",
            Self::Bad => "<span class=\"mark\" aria-hidden=\"true\">✖</span>",
            Self::Plain => "<span class=\"mark\" aria-hidden=\"true\">○</span>",
        }
    }
}

// === impl Table ===

impl<'a, const N: usize> Table<'a, N> {
    /// Begins a table. The heading of the section is near, so the caption is for those who do not see it.
    pub(super) fn begin(html: &'a mut Html, caption: &'static str, columns: &'static [Column; N]) -> Self {
        html.put("<table role=\"table\"><caption>")
            .put(caption)
            .put("</caption><thead role=\"rowgroup\"><tr role=\"row\">");
        for (heading, is_number) in columns {
            html.put("<th scope=\"col\" role=\"columnheader\"");
            html.put(if *is_number { " class=\"number\">" } else { ">" }).put(heading).put("</th>");
        }
        html.put("</tr></thead><tbody role=\"rowgroup\">");
        Self { html, columns }
    }

    /// Adds a row, whose first cell names it. `key`: what no other row of the table has.
    pub(super) fn row(&mut self, key: impl Display, cells: [Html; N]) {
        self.html.put("<tr role=\"row\" data-key=\"").text(key).put("\">");
        for (index, ((heading, is_number), cell)) in self.columns.iter().zip(&cells).enumerate() {
            let is_first = index == 0;
            self.html.put(if is_first {
                "<th scope=\"row\" role=\"rowheader\""
            } else {
                "<td role=\"cell\""
            });
            self.html.put(if *is_number { " class=\"number\"" } else { "" });
            self.html.put(" data-label=\"").put(heading).put("\"><div>").join(cell).put("</div>");
            self.html.put(if is_first { "</th>" } else { "</td>" });
        }
        self.html.put("</tr>");
    }

    /// Ends the table, of which `shown` of `all` rows are there.
    pub(super) fn end(self, shown: usize, all: usize) {
        self.html.put("</tbody></table>");
        more(self.html, shown, all);
    }
}

/// Says how many rows are left out, if any are.
pub(super) fn more(html: &mut Html, shown: usize, all: usize) {
    if let Some(more @ 1..) = all.checked_sub(shown) {
        html.put("<p class=\"more\">and ").text(more).put(" more</p>");
    }
}

/// A text as a cell.
pub(super) fn cell(text: impl Display) -> Html {
    let mut html = Html::default();
    html.text(text);
    html
}

/// A word for a state, with its mark.
pub(super) fn badge(tone: Tone, word: impl Display) -> Html {
    let mut html = Html::default();
    html.put("<span class=\"badge ").put(tone.class()).put("\">").put(tone.mark()).put(" ");
    html.text(word).put("</span>");
    html
}

/// A sentence where there is nothing to show.
pub(super) fn nothing(html: &mut Html, says: &'static str) {
    html.put("<p class=\"nothing\">").put(says).put("</p>");
}

/// The time of day of a moment, with what machines read.
pub(super) fn moment(at: SystemTime) -> Html {
    timed(at, clock(at))
}

/// The day and the minute of a moment, in UTC, with what machines read.
pub(super) fn date(at: SystemTime) -> Html {
    let (day, (hour, minute, _)) =
        (OffsetDateTime::from(at).date(), OffsetDateTime::from(at).time().as_hms());
    timed(at, format!("{day} {hour:02}:{minute:02}"))
}

fn timed(at: SystemTime, shown: String) -> Html {
    let mut html = Html::default();
    // Years past 9999 have no RFC 3339 form.
    let full = OffsetDateTime::from(at).replace_nanosecond(0).ok().and_then(|at| at.format(&Rfc3339).ok());
    html.put("<time datetime=\"").text(full.unwrap_or_default()).put("\">").text(shown).put("</time>");
    html
}

/// The time of day, in UTC.
pub(super) fn clock(at: SystemTime) -> String {
    let (hour, minute, second) = OffsetDateTime::from(at).time().as_hms();
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// A time in words of two units at most.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A rate of things that are counted.
pub(super) fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}/s") } else { format!("{rate:.0}/s") }
}
