//! Formats outcomes as lines and as Markdown.

use std::fmt::Write as _;

use super::outcome::Outcome;

/// The names of the columns of [`cells`].
pub(super) fn header() -> String {
    line([
        "upgrades",
        "lost",
        "sums",
        "new",
        "failed",
        "stall p50/p99/max (calm)",
        "memory old/new",
        "hand-over",
    ])
}

/// The cells of an outcome.
pub(super) fn cells(outcome: &Outcome) -> String {
    let [lost, sums, stalls, memory, time] = shared(outcome);
    let Outcome { upgrades, new, refused, .. } = outcome;
    line([
        &upgrades.to_string(),
        &lost,
        &sums,
        &new.to_string(),
        &refused.to_string(),
        &stalls,
        &memory,
        &time,
    ])
}

/// A table of all outcomes. `summary` says how they were made.
pub(super) fn markdown(outcomes: &[Outcome], summary: &str) -> String {
    let mut text = format!("{summary}\n\n");
    text.push_str(
        "| Row | What | Upgrades | Streams lost | Sums | New connections | Failed | Stall p50 / p99 / max (without an upgrade) | \
         Memory old / new | Hand-over |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        let [lost, sums, stalls, memory, time] = shared(outcome);
        let Outcome { name, what, upgrades, new, refused, .. } = outcome;
        let mark = if outcome.holds() { "" } else { " **does not hold**" };
        let _ = writeln!(
            text,
            "| `{name}` | {what} | {upgrades} | {lost} | {sums} | {new} | {refused} | {stalls} | {memory} | {time}{mark} |"
        );
    }
    text
}

/// What is lost, sums, stalls, memory, and the time of a hand-over.
fn shared(outcome: &Outcome) -> [String; 5] {
    let Outcome { lost, had_to, streams, wrong, .. } = outcome;
    let due = if *had_to > 0 { format!(" ({had_to} due)") } else { String::new() };
    let [half, most, all] = outcome.stalls_ms;
    let [old, new] = outcome.grown_bytes.map(|bytes| bytes >> 20);
    let [typical, longest] = outcome.hand_over_ms;
    [
        format!("{lost} of {streams}{due}"),
        if *wrong == 0 { "equal".to_owned() } else { format!("{wrong} WRONG") },
        format!("{half:.0} / {most:.0} / {all:.0} ms ({:.0})", outcome.calm_ms),
        format!("+{old} / +{new} MiB"),
        format!("{typical:.0} / {longest:.0} ms"),
    ]
}

fn line([upgrades, lost, sums, new, failed, stall, memory, time]: [&str; 8]) -> String {
    format!("{upgrades:>8} {lost:>18} {sums:>7} {new:>7} {failed:>6} {stall:>26} {memory:>16} {time:>16}")
}

#[cfg(test)]
mod tests;
