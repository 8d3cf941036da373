//! Formats the results as a table.

use super::{contestant::Contestant, figures::Figure, results::Results};

/// The widths, in columns, of a figure's name and of a contestant's figure.
const NAME: usize = 33;
const VALUE: usize = 17;

/// The table has a line for each figure: each contestant's median and spread, and the goals with the reached values.
pub(super) fn table(results: &Results, contestants: &[Contestant]) -> String {
    let main = contestants.iter().find(|one| one.is_node());
    let names: String = contestants.iter().map(|one| format!("{:>VALUE$}", one.name)).collect();
    let mut text = format!("{:NAME$}{:>8}{names}  goal\n", "", "");
    for figure in results.figures() {
        let value = |one: &Contestant| {
            let summary = results.summary(&one.name, figure.key);
            let shown = summary.map_or_else(
                || "-".to_owned(),
                |summary| format!("{} ±{:.0}%", number(summary.median), summary.spread / 2.0),
            );
            format!("{shown:>VALUE$}")
        };
        let values: String = contestants.iter().map(value).collect();
        let goals = main.map(|one| goals(results, &one.name, figure)).unwrap_or_default();
        let line = format!("{:NAME$}{:>8}{values}  {goals}", figure.name, figure.unit);
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn goals(results: &Results, name: &str, figure: &Figure) -> String {
    let verdicts = results.verdicts(name, figure);
    let said = verdicts.iter().map(|verdict| {
        let met = if verdict.met { "met" } else { "NOT MET" };
        format!("{}: {} {met}", verdict.goal, number(verdict.reached))
    });
    said.collect::<Vec<_>>().join("; ")
}

/// The number with three significant digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 || small == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests;
