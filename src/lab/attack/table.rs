//! Formats outcomes as lines and as Markdown.

use std::fmt::Write as _;

use super::{ceilings::Ceilings, trial::Outcome};

/// The names of the columns of [`cells`].
pub(super) fn header() -> String {
    line(["blows", "echo", "new", "lost", "memory", "files", "recovered"])
}

/// The cells of an outcome.
pub(super) fn cells(outcome: &Outcome) -> String {
    line([
        &outcome.blows.to_string(),
        &format!("{} ms", outcome.slowest_ms),
        &format!("{} ms", outcome.slowest_new_ms),
        &outcome.lost.to_string(),
        &format!("+{} MiB", outcome.grown_bytes >> 20),
        &format!("+{}", outcome.grown_descriptors),
        &recovered(outcome),
    ])
}

/// A document of all outcomes: the ceilings, and a table with a row for each attack.
pub(super) fn markdown(outcomes: &[Outcome], ceilings: &Ceilings, summary: &str) -> String {
    let mut text = String::from(include_str!("head.txt"));
    let Ceilings { echo_ms, new_ms, grown_mib, grown_descriptors, recovery } = ceilings;
    let _ = writeln!(
        text,
        "Ceilings: {echo_ms} ms for an echo, {new_ms} ms for a request on a new connection, nothing lost, {grown_mib} MiB \
         and\n{grown_descriptors} descriptors more. {} s after the attack, memory is within 64 MiB and descriptors are \
         within 10 of before.\n\n{summary}\n",
        recovery.as_secs()
    );
    text.push_str("| Attack | By a | What | Blows | Echo | New | Lost | Memory | Files | Recovered |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for outcome in outcomes {
        let Outcome { name, who, what, blows, slowest_ms, slowest_new_ms, lost, .. } = outcome;
        let (memory, files) = (outcome.grown_bytes >> 20, outcome.grown_descriptors);
        let mark = if outcome.holds() { "" } else { " **does not hold**" };
        let _ = writeln!(
            text,
            "| `{name}` | {who} | {what} | {blows} | {slowest_ms} ms | {slowest_new_ms} ms | {lost} | +{memory} MiB | \
             +{files} | {}{mark} |",
            recovered(outcome)
        );
    }
    text
}

fn recovered(outcome: &Outcome) -> String {
    outcome.recovered_ms.map_or_else(
        || "never".to_owned(),
        |ms| format!("{:.1} s", std::time::Duration::from_millis(ms).as_secs_f64()),
    )
}

fn line([blows, echo, new, lost, memory, files, recovered]: [&str; 7]) -> String {
    format!("{blows:>9} {echo:>8} {new:>8} {lost:>5} {memory:>9} {files:>6} {recovered:>9}")
}

#[cfg(test)]
mod tests;
